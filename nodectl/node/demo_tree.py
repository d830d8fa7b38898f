"""What the demo captures: a part of this system, changes for a second generation, a disk image."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nodectl.units import MIB

_CANDIDATES = (
    "/usr",
    "/usr/bin",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/share",
    "/usr/lib",
    "/usr/libexec",
    "/etc",
)
_BYTES_WANTED = 150 * MIB
_BYTES_MAX = 420 * MIB
_ENTRIES_MAX = 30_000
_CHANGED = 12  # files that get new content
_DISK_SIZE = 128 * MIB
_DISK_DATA = 16 * MIB
_DISK_STRIDE = 4 * MIB  # of these only the first half gets data


def tree_size(tree: Path, *, stop_bytes: int = 1 << 62, stop_entries: int = 1 << 62) -> int | None:
    """Return the bytes of the files in a tree; None as soon as it is larger than it may be."""
    size = 0
    for entries, found in enumerate(_entries(tree), 1):
        size += found.stat(follow_symlinks=False).st_size if found.is_file() else 0
        if size > stop_bytes or entries > stop_entries:
            return None
    return size


def _entries(tree: Path) -> Iterator["os.DirEntry[str]"]:
    pending = [str(tree)]
    while pending:
        try:
            with os.scandir(pending.pop()) as listing:
                found = list(listing)
        except OSError:  # what cannot be read is not counted
            continue
        pending += (entry.path for entry in found if entry.is_dir(follow_symlinks=False))
        yield from found


def choose_tree() -> Path:
    """Return a good part of the running system: a few hundred MB, not too many files."""
    best, best_size = Path("/etc"), -1
    for name in _CANDIDATES:
        tree = Path(name)
        if not tree.is_dir():
            continue
        size = tree_size(tree, stop_bytes=_BYTES_MAX, stop_entries=_ENTRIES_MAX)
        if size is not None and size > best_size:
            best, best_size = tree, size
        if best_size >= _BYTES_WANTED:
            break
    return best


def change_files(tree: Path) -> int:
    """Change, remove and add files of every kind below `tree`; return how many."""
    files = sorted(
        path
        for path in tree.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode) and 0 < path.lstat().st_size < MIB
    )
    chosen = files[:: max(1, len(files) // (2 * _CHANGED))]
    for path in chosen[:_CHANGED]:
        path.write_bytes(path.read_bytes() + b"\nchanged by nodectl demo\n")
    for path in chosen[_CHANGED:]:
        path.unlink()
    return len(chosen) + _add_every_kind(tree / "nodectl-demo")


def _add_every_kind(folder: Path) -> int:
    """Make a folder with everything that a tree can hold and this user may make."""
    folder.mkdir()
    (folder / "file").write_bytes(b"one file, two names\n")
    (folder / "hard-link").hardlink_to(folder / "file")
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("/no/such/place")
    (folder / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"odd")
    (folder / "empty").touch()
    (folder / "set-id").write_bytes(b"#!/bin/true\n")
    with (folder / "sparse").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"the end of a hole")
    os.mkfifo(folder / "fifo")
    with contextlib.suppress(OSError):  # not every file system has them
        os.setxattr(folder / "file", "user.nodectl", b"demo")
    if os.geteuid() == 0:
        os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(folder / "file", 1234, 5678)
        os.chown(folder / "link", 1234, 5678, follow_symlinks=False)
    (folder / "set-id").chmod(0o6755)
    return len(list(folder.iterdir()))


def make_disk_image(path: Path, tree: Path) -> None:
    """Make a sparse file like a little used virtual disk: the files of `tree` between holes."""
    left = _DISK_DATA
    with path.open("wb") as image:
        for source in _contents(tree):
            while left > 0 and (data := source.read(_DISK_STRIDE // 2)):
                image.write(data)
                left -= len(data)
                image.seek(-(-image.tell() // _DISK_STRIDE) * _DISK_STRIDE)
            if left <= 0:
                break
        image.truncate(_DISK_SIZE)


def _contents(tree: Path) -> Iterator[BinaryIO]:
    """Yield the files of a tree that can be read, opened, one after the other."""
    for entry in _entries(tree):
        if entry.is_file(follow_symlinks=False):
            with contextlib.suppress(OSError), Path(entry.path).open("rb") as source:
                yield source
