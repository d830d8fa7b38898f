"""What a controller does when its database is older than its audit log.

Somebody put an old copy of the catalog back (a restored backup, a snapshot, an attack). The log
knows better: nodes that were removed since, tokens and publishers that were revoked, images that
were restricted, and uses of tokens are taken away again before anybody is answered. What
was added since is lost, and is said.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from nodectl.controller.access import Access
from nodectl.controller.audit import Audit
from nodectl.controller.members import Members
from nodectl.controller.releases import Releases
from nodectl.errors import AuditBroken, NodectlError

log = logging.getLogger(__name__)


def reapply(audit: Audit, members: Members, releases: Releases, access: Access) -> int:
    """Take away again what the log says was taken away; return how many lines were newer.

    A controller that was killed between a line and its number in the catalog has one such line;
    to take away twice does nothing.
    """
    known = audit.known_head().seq
    try:
        newer = [entry for entry in audit.entries() if entry["seq"] > known]
    except AuditBroken as exc:
        log.error("%s", exc)  # noqa: TRY400 - the sentence says all
        return 0
    steps: Mapping[str, Callable[[dict[str, Any]], None]] = {
        "node remove": lambda entry: _remove(members, releases, access, entry["whom"]),
        "token revoke": lambda entry: members.revoke_token(entry["whom"]),
        "publisher revoke": lambda entry: _revoke(releases, entry["details"].get("key", "")),
        "image access": lambda entry: _restrict(releases, access, entry),
        "join": lambda entry: members.spend_again(entry["details"].get("token", "")),
    }
    for entry in newer:
        step = steps.get(entry["what"])
        if step is not None:
            with contextlib.suppress(NodectlError):  # it is gone already
                step(entry)
    if len(newer) > 1:
        log.warning("the catalog is older than the audit log by %d lines", len(newer))
        details = {"newer_lines": len(newer), "from_line": known + 1}
        audit.note("catalog was set back", "controller", who="controller", details=details)
    return len(newer)


def _remove(members: Members, releases: Releases, access: Access, name: str) -> None:
    members.remove(name)
    access.forget(name)
    releases.change_swarm_keys()


def _restrict(releases: Releases, access: Access, entry: dict[str, Any]) -> None:
    """Say again whom an image is for; nobody, where the list was too long for the log."""
    access.set(entry["whom"], entry["details"].get("nodes", ()))
    releases.change_swarm_keys()


def _revoke(releases: Releases, key: str) -> None:
    """Revoke a publisher, also one whose addition is not in the catalog any more."""
    known = {one.key.hex(): one for one in releases.publishers.list()}
    if key not in known:
        releases.publishers.add(bytes.fromhex(key), name="revoked")
    elif known[key].revoked:
        return
    releases.publishers.revoke(key)
