"""A system that was restored in place starts its new kernel: menu and initramfs follow the image.

Only for a tree that a clone made bootable, which its record of own files tells.
"""

import json
import os
from pathlib import Path

from nodectl.boot.apply import apply_steps
from nodectl.boot.inside import entered
from nodectl.boot.menu import MENUS, MenuFacts, menu_mistakes, plan_refresh
from nodectl.boot.probe import boot_entries, boot_text, probe_tree
from nodectl.content.own_files import read_own_files
from nodectl.errors import BootFailed, NodectlError
from nodectl.events import Observer
from nodectl.node.booting import recording_own
from nodectl.run import run


def refresh_boot(root: Path, observer: Observer) -> int:
    """Bring what boots to the kernels that are in the tree; return how many steps that took.

    Raises:
        BootFailed: it cannot be; the tree is restored all the same.
    """
    facts = _facts(root.resolve()) if os.geteuid() == 0 else None
    steps = () if facts is None else plan_refresh(facts)
    if not steps:
        return 0
    try:
        device, uuid = _filesystem(root)
        with recording_own(root), entered(root, device=device, uuid=uuid) as inside:
            apply_steps(root, steps, inside, observer)
        after = _facts(root)
        mistakes = menu_mistakes(after, uuid) if after else ("the menu is gone",)
    except NodectlError as exc:
        raise _failed(root, str(exc)) from exc
    if mistakes:
        raise _failed(root, "; ".join(mistakes))
    return len(steps)


def _failed(root: Path, why: str) -> BootFailed:
    return BootFailed(
        f"{root} was restored, but what boots could not be brought to its kernels: {why}",
        hint="mend it before the next restart and restore again, or clone the node anew",
    )


def _facts(root: Path) -> MenuFacts | None:
    """Return what decides; None for a tree whose menu is not this node's own."""
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        own = frozenset(os.fsdecode(path) for path in read_own_files(root_fd).files)
        if not own & set(MENUS.values()):
            return None
        tree = probe_tree(root)
        if tree.family is None:
            return None
        return MenuFacts(
            family=tree.family,
            kernels=tree.kernels,
            initramfs=tree.initramfs,
            menu=boot_text(root_fd, MENUS[tree.family]) or "",
            entries=boot_entries(root_fd),
            own=own,
        )
    finally:
        os.close(root_fd)


def _filesystem(root: Path) -> tuple[str, str]:
    """Return the device that a tree stands on, and its filesystem's UUID."""
    argv = ["findmnt", "--json", "--output", "SOURCE,UUID", "--target", str(root)]
    found = json.loads(run(argv).stdout)["filesystems"][0]
    if not found["uuid"]:
        raise BootFailed(f"{root} stands on {found['source']}, which has no UUID to start from")
    return str(found["source"]).partition("[")[0], str(found["uuid"])
