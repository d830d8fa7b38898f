"""An archive that the kernel unpacks as its first root: cpio of the "newc" kind, reproducible.

The same entries give the same bytes: they are sorted by path, folders on the way are added, times
are 0, owner is root, inode numbers count from 1. Files with several names are written as several.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Each entry is 13 fields
of 8 hexadecimal digits after the magic 070701, the name with its NUL, padding to 4 bytes, the
content, padding to 4 bytes. An entry TRAILER!!! ends it.
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_SIZE_MAX = 0xFFFF_FFFF  # bytes of one file: eight hexadecimal digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One path of the archive."""

    path: str  # without leading "/"
    mode: int  # with its type
    size: int = 0  # bytes of content
    read: Callable[[], bytes] = bytes  # gives the content, exactly `size` bytes


def folder(path: str, mode: int = 0o755) -> Entry:
    """Return a folder."""
    return Entry(path=path, mode=stat.S_IFDIR | mode)


def link(path: str, target: str) -> Entry:
    """Return a symbolic link."""
    data = os.fsencode(target)
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, size=len(data), read=lambda: data)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file whose content is at hand."""
    return Entry(path=path, mode=stat.S_IFREG | mode, size=len(data), read=lambda: data)


def write_cpio(entries: Iterable[Entry], write: Callable[[bytes], object]) -> int:
    """Write the archive piece by piece; return its length in bytes.

    Raises:
        ValueError: a path is not beneath the root, is there twice, leads through a file, or a file
            is too large or not as long as its entry says.
    """
    length = 0

    def put(data: bytes) -> None:
        nonlocal length
        write(data)
        length += len(data)

    for number, entry in enumerate(_complete(entries), start=1):
        data = entry.read()
        if len(data) != entry.size or entry.size > _SIZE_MAX:
            raise ValueError(f"{entry.path} has {len(data)} bytes, not {entry.size}")
        put(_padded(_head(number, entry)))
        put(_padded(data))
    put(_padded(_head(0, Entry(path=_TRAILER, mode=0))))
    return length


def _complete(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield all entries and the folders on the way to them, sorted so that folders come first."""
    found: dict[str, Entry] = {}
    for entry in entries:
        parts = PurePosixPath(entry.path).parts
        if not parts or entry.path != "/".join(parts) or {"/", ".."} & set(parts):
            raise ValueError(f"not a path of an archive: {entry.path!r}")
        if entry.path in found:
            raise ValueError(f"{entry.path} is there twice")
        found[entry.path] = entry
    for path in tuple(found):
        for parent in PurePosixPath(path).parents[:-1]:
            above = found.setdefault(str(parent), folder(str(parent)))
            if not stat.S_ISDIR(above.mode):
                raise ValueError(f"{path} leads through {parent}, which is no folder")
    yield from (found[path] for path in sorted(found))


def _head(number: int, entry: Entry) -> bytes:
    name = os.fsencode(entry.path) + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, entry.size, 0, 0, 0, 0, len(name), 0)
    return _MAGIC + b"".join(b"%08X" % each for each in fields) + name


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
