"""A tree becomes a node: look at it, decide, do; the steps that a clone takes after the restore."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.site_files import FilledFile
from nodectl.identity.fresh import fresh_host_keys, fresh_seed
from nodectl.identity.hostkeys import has_sshd
from nodectl.identity.model import FileAction, IdentityPlan, NodeFacts, TreeFacts
from nodectl.identity.old_root import NOTHING, OldRoot
from nodectl.identity.plan import plan_identity
from nodectl.identity.probe import opened, probe_tree

More = Callable[[TreeFacts], Sequence[FileAction]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose tree it becomes."""

    realm_id: str
    name: str
    inventory: NodeInventory | None = None
    old: OldRoot = NOTHING  # what the old disk leaves to the node
    files: tuple[FilledFile, ...] = ()  # of the site, templates filled in


def _nothing_more(_tree: TreeFacts) -> Sequence[FileAction]:
    return ()


def plan_own(root: Path, owner: Owner, more: More = _nothing_more) -> IdentityPlan:
    """Return what makes the tree at `root` the owner's; `more` adds files of other parts.

    Raises:
        UnsafePath: /etc of the tree is a link.
    """
    root_fd = opened(root)
    try:
        tree = probe_tree(root_fd)
    finally:
        os.close(root_fd)
    node = NodeFacts(
        realm_id=owner.realm_id,
        name=owner.name,
        inventory=owner.inventory,
        kept=owner.old.files,
        fresh_host_keys=fresh_host_keys(f"root@{owner.name}") if has_sshd(tree) else {},
        random_seed=fresh_seed(),
        files=owner.files,
    )
    return plan_identity(tree, node, more(tree))
