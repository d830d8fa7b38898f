"""What a capture leaves out: patterns, and the lists for a system's root.

What makes a machine itself stands in identity/rows.py.

A pattern is a path below the captured tree:

* with a leading "/" it counts from the tree's root, without one it matches at any depth;
* `*` and `?` stand for anything but "/", `**` for anything at all;
* what it matches is left out with all below it; with "/*" at the end the directory itself stays,
  empty (a mount point, a spool).

The list that a capture used is recorded in the manifest, and a restore in place neither writes nor
removes what it matches: what the image does not speak of stays as it is on the node.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from nodectl.errors import InvalidInput

KERNEL = ("/proc/*", "/sys/*", "/dev/*", "/run/*")
"""Not files of the system but the running kernel's."""

TRANSIENT = (
    "/tmp/*",  # noqa: S108 - a pattern, not a file to be made
    "/var/tmp/*",  # noqa: S108
    "/lost+found",
    "/swapfile",
    "/swap.img",
    "/var/cache/apt/archives/*.deb",
    "/var/cache/dnf/*",
    "/var/crash/*",
    "/var/spool/abrt/*",
)
"""Of no use on another machine."""

OWN = (
    "/var/lib/nodectl",
    "/etc/nodectl",
    "/etc/systemd/system/nodectl-first-boot.service",
    "/etc/systemd/system/multi-user.target.wants/nodectl-first-boot.service",
    "/etc/init.d/nodectl-first-boot",
    "/etc/rc?.d/S99nodectl-first-boot",
)
"""nodectl's own state: keys of this node, the store, and what tells of a first start."""


def beneath(tree: Path, place: Path) -> tuple[str, ...]:
    """Return the pattern for `place`, with all below it, if it stands in `tree`."""
    tree, place = tree.resolve(), place.resolve()
    return (f"/{place.relative_to(tree)}",) if tree in place.parents else ()


class Excludes:
    """Compiled patterns."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Compile.

        Raises:
            InvalidInput: a pattern is empty, or names the tree itself.
        """
        self.patterns = tuple(dict.fromkeys(patterns))
        alternatives = [_expression(pattern) for pattern in self.patterns]
        self._regex = re.compile(b"|".join(alternatives) or b"(?!)", re.DOTALL)

    def match(self, path: bytes) -> bool:
        """Say whether the entry `path` itself (not: one above it) is left out."""
        return self._regex.fullmatch(path) is not None

    def covers(self, path: bytes) -> bool:
        """Say whether `path` or a directory above it is left out."""
        while path:
            if self.match(path):
                return True
            path = path.rpartition(b"/")[0]
        return False


def _expression(pattern: str) -> bytes:
    text = os.fsencode(pattern)
    anchored = text.startswith(b"/")
    text = text.strip(b"/")
    if not text or b"\0" in text:
        raise InvalidInput(
            f"the pattern {pattern!r} would leave out everything or nothing",
            hint='patterns look like "/var/tmp/*", "/etc/machine-id", "*.o" or "/srv/**/cache"',
        )
    wild = {b"**": b".*", b"*": b"[^/]*", b"?": b"[^/]"}
    pieces = re.split(rb"(\*\*|\*|\?)", text)
    body = b"".join(wild.get(piece, re.escape(piece)) for piece in pieces)
    return body if anchored else b"(?:.*/)?" + body
