"""The files that make a node itself, as a clone recorded them on its disk.

A clone writes fstab, hostname and the like after the image is restored. Which ones stands in
`/etc/nodectl/own-files`, a path a line; a later restore in place leaves those files alone, and a
comparison passes them over.
"""

import os
from dataclasses import dataclass

from nodectl.fsio import read_beneath

OWN_FILES = "etc/nodectl/own-files"
_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnFiles:
    """Paths below a target, without leading "/"."""

    files: frozenset[bytes]
    folders: frozenset[bytes]  # in which they stand, all the way up


def encode_own_files(paths: frozenset[str]) -> bytes:
    """Return the content of the record."""
    return "".join(f"{path}\n" for path in sorted(paths)).encode()


def read_own_files(root_fd: int) -> OwnFiles:
    """Return what the record below a target says; nothing where there is none.

    Raises:
        UnsafePath: a folder on the way to the record is a link.
    """
    data = read_beneath(root_fd, OWN_FILES, limit=_LIMIT) or b""
    files = frozenset(line for line in data.split(b"\n") if line)
    if files:
        files |= {os.fsencode(OWN_FILES)}
    folders = set()
    for path in files:
        while path := path.rpartition(b"/")[0]:
            folders.add(path)
    return OwnFiles(files=files, folders=frozenset(folders))
