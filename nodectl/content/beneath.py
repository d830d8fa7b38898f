"""Reaching entries below one directory and nowhere else.

Every directory is opened from its parent's descriptor, one component at a time, links never
followed (openat with O_NOFOLLOW): whatever stands in the tree, and whatever is swapped while we
work, no operation leaves the target.
"""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Self

from nodectl.content.manifest import split_path
from nodectl.errors import PathMissing, UnsafePath

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORIES_OPEN = 128


class Beneath:
    """Descriptors of directories below one root; for one thread of one process."""

    def __init__(self, root: Path) -> None:
        """Open the root directory; here links are followed: the user named it.

        Raises:
            PathMissing: it is absent or no directory.
        """
        self.root = root
        try:
            self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise PathMissing(f"{root} is not a directory that can be opened: {exc}") from exc
        self._fds: OrderedDict[bytes, int] = OrderedDict()
        self._last = b""  # the directory that was asked for last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all descriptors."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
        os.close(self.root_fd)

    def directory(self, path: bytes) -> int:
        """Return a descriptor of the directory `path`; it belongs to this object.

        Raises:
            UnsafePath: a component is a link or no directory.
            FileNotFoundError: a component is absent.
        """
        if path == self._last and path in self._fds:
            return self._fds[path]
        missing = []
        at = path
        while at and at not in self._fds:
            missing.append(at)
            at, _ = split_path(at)
        if at:
            self._fds.move_to_end(at)
        fd = self._fds[at] if at else self.root_fd
        for one in reversed(missing):
            fd = self._open(one, fd)
        self._last = path
        return fd

    def _open(self, path: bytes, parent_fd: int) -> int:
        """Open and remember one directory, whose parent is open."""
        try:
            fd = os.open(split_path(path)[1], _OPEN, dir_fd=parent_fd)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise UnsafePath(
                    f"{os.fsdecode(path)} below {self.root} is not the directory it should be",
                    hint="something else changes the target: stop it and restore again",
                ) from exc
            raise
        self._fds[path] = fd
        if len(self._fds) > _DIRECTORIES_OPEN:
            # Not the one that was asked for last: its user may need two at a time (a link does).
            if self._last in self._fds:
                self._fds.move_to_end(self._last)
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def forget(self, path: bytes) -> None:
        """Close the descriptors of `path` and of everything below it: it is about to be removed."""
        for known in [one for one in self._fds if one == path or one.startswith(path + b"/")]:
            os.close(self._fds.pop(known))

    def place(self, path: bytes) -> tuple[int, bytes]:
        """Return the descriptor of the parent directory and the name in it."""
        parent, name = split_path(path)
        return self.directory(parent), name

    def status(self, path: bytes) -> os.stat_result | None:
        """Return the status of an entry, links not followed; None if it is absent."""
        try:
            if not path:
                return os.fstat(self.root_fd)
            directory, name = self.place(path)
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in the directory `path`."""
        with os.scandir(self.directory(path)) as entries:
            return [os.fsencode(entry.name) for entry in entries]

    def remove(self, path: bytes, keep: Callable[[bytes], bool] = lambda _: False) -> bool:
        """Remove an entry and all below it; say whether nothing of it is left.

        What `keep` wants, and other file systems (subvolumes of btrfs too), are left with the
        directories that lead there.
        """
        directory, name = self.place(path)
        if self._unlink(directory, name):
            return True
        device = os.fstat(directory).st_dev
        whole = True
        pending = [(path, False)]
        while pending:  # a stack of our own: what stands in a target may be thousands deep
            at, emptied = pending.pop()
            if emptied:
                whole = self._rmdir(at) and whole
            elif os.fstat(self.directory(at)).st_dev != device:
                whole = False
            else:
                pending.append((at, True))
                below = (at + b"/" + one for one in self.names(at))
                pending += ((one, False) for one in below if not self._clear(one, keep))
        return whole

    def _clear(self, path: bytes, keep: Callable[[bytes], bool]) -> bool:
        """Remove an entry that is no directory, unless it is kept; say whether to pass it over."""
        return keep(path) or self._unlink(*self.place(path))

    @staticmethod
    def _unlink(directory: int, name: bytes) -> bool:
        """Remove an entry and say so; False: it is a directory."""
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError):
            if not stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                raise
            return False
        return True

    def _rmdir(self, path: bytes) -> bool:
        """Remove a directory and say so; False: something that was left is in it."""
        self.forget(path)
        directory, name = self.place(path)
        try:
            os.rmdir(name, dir_fd=directory)
        except OSError as exc:
            if exc.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                return False
            raise
        return True

    def by_descriptor(self, path: bytes) -> bytes:
        """Return a path for calls that take no descriptor: through /proc, so still beneath.

        To be used with `follow_symlinks=False` only.
        """
        directory, name = self.place(path)
        return b"/proc/self/fd/%d/%s" % (directory, name)
