"""Reaching entries below one directory and nowhere else.

Every directory is opened from its parent's descriptor, one component at a time, links never
followed (openat with O_NOFOLLOW): whatever stands in the tree, and whatever is swapped while we
work, no operation leaves the target.
"""

import errno
import os
import stat
from collections import OrderedDict
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
        if not path:
            return self.root_fd
        fd = self._fds.get(path)
        if fd is not None:
            self._fds.move_to_end(path)
            return fd
        parent, name = split_path(path)
        try:
            fd = os.open(name, _OPEN, dir_fd=self.directory(parent))
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise UnsafePath(
                    f"{os.fsdecode(path)} below {self.root} is not the directory it should be",
                    hint="something else changes the target: stop it and restore again",
                ) from exc
            raise
        self._fds[path] = fd
        if len(self._fds) > _DIRECTORIES_OPEN:
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

    def remove(self, path: bytes) -> None:
        """Remove an entry and all below it; other file systems mounted there stop it (EBUSY)."""
        directory, name = self.place(path)
        try:
            os.unlink(name, dir_fd=directory)
        except (IsADirectoryError, PermissionError) as exc:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise exc from None
            for below in self.names(path):
                self.remove(path + b"/" + below)
            self.forget(path)
            os.rmdir(name, dir_fd=self.directory(split_path(path)[0]))

    def by_descriptor(self, path: bytes) -> bytes:
        """Return a path for calls that take no descriptor: through /proc, so still beneath.

        To be used with `follow_symlinks=False` only.
        """
        directory, name = self.place(path)
        return b"/proc/self/fd/%d/%s" % (directory, name)
