"""Walking a tree: every entry with its status, in tree order.

A directory is opened and compared with the entry that led to it, so that one swapped for a link
while we walk is noticed and never followed.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nodectl.content.excludes import Excludes
from nodectl.content.manifest import is_temporary
from nodectl.errors import EmptyTree, PathMissing, PathUnreadable

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Found(NamedTuple):
    """One entry as it was seen."""

    path: bytes  # relative to the tree; b"" is the tree itself
    status: os.stat_result  # of the entry itself, links not followed


class Walk:
    """One walk through one tree."""

    def __init__(
        self,
        tree: Path,
        excludes: Excludes,
        mounts: frozenset[bytes],
        *,
        skip_unreadable: bool = False,
    ) -> None:
        """Prepare to walk `tree`; `mounts` are the paths below it whose file systems are wanted.

        The file system of the tree itself always is; other mount points are yielded as empty
        directories.
        """
        self._tree = os.fsencode(tree)
        self._excludes = excludes
        self._mounts = mounts
        self._skip_unreadable = skip_unreadable
        self.left_out: list[bytes] = []  # what matched an exclude, or a restore left
        self.unreadable: list[bytes] = []  # directories that could not be listed
        self.mounts_left_out: list[bytes] = []  # mount points whose file systems are not wanted

    def __iter__(self) -> Iterator[Found]:
        """Yield all entries in tree order.

        Raises:
            PathMissing, PathUnreadable, EmptyTree: as the words say, naming the path.
        """
        try:
            status = os.lstat(self._tree)
        except FileNotFoundError as exc:
            raise PathMissing(f"there is no {os.fsdecode(self._tree)}") from exc
        if not stat.S_ISDIR(status.st_mode):
            raise PathMissing(f"{os.fsdecode(self._tree)} is not a directory")
        yield Found(b"", status)
        pending = [Found(b"", status)]
        first = True
        while pending:
            directory = pending.pop()
            found = self._list(directory)
            if first and not found:
                raise EmptyTree(
                    f"{os.fsdecode(self._tree)} holds nothing to capture",
                    hint="name the directory that holds the system or the files",
                )
            first = False
            yield from found
            pending += reversed(
                [one for one in found if self._enters(one, directory.status.st_dev)]
            )

    def _enters(self, found: Found, device: int) -> bool:
        """Say whether the walk goes on below `found`, which stands in a directory on `device`."""
        if not stat.S_ISDIR(found.status.st_mode):
            return False
        if found.status.st_dev == device or found.path in self._mounts:
            return True
        self.mounts_left_out.append(found.path)
        return False

    def _list(self, directory: Found) -> list[Found]:
        """Return the entries of one directory by name, the excluded ones left out."""
        try:
            fd = os.open(self.absolute(directory.path), _OPEN_DIRECTORY)
        except FileNotFoundError:
            return []  # it went away since it was listed, which is as if we came later
        except OSError as exc:
            if self._skip_unreadable and directory.path:
                self.unreadable.append(directory.path)
                return []
            raise PathUnreadable(
                f"cannot list {os.fsdecode(self.absolute(directory.path))}: {exc.strerror}",
                hint="run as root, leave it out with --exclude, or use --skip-unreadable",
            ) from exc
        try:
            status = os.fstat(fd)
            seen = directory.status
            if (status.st_dev, status.st_ino) != (seen.st_dev, seen.st_ino):
                raise PathUnreadable(
                    f"{os.fsdecode(self.absolute(directory.path))} was replaced while it was read",
                    hint="run the capture again",
                )
            prefix = directory.path + b"/" if directory.path else b""
            return sorted(self._entries(fd, prefix))
        finally:
            os.close(fd)

    def _entries(self, fd: int, prefix: bytes) -> Iterator[Found]:
        match = self._excludes.match
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)
                path = prefix + name
                if match(path) or is_temporary(name):  # what a killed restore left is no file
                    self.left_out.append(path)
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield Found(path, entry.stat(follow_symlinks=False))

    def absolute(self, path: bytes) -> bytes:
        """Return where an entry stands."""
        return self._tree + b"/" + path if path else self._tree
