"""Careful file work: file replacement that survives a power cut, private files and folders.

The `*_beneath` functions work inside a tree that somebody else made: every component of a path is
opened without following links, so that no link in that tree leads them out of it.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nodectl.errors import NodectlError, UnsafePath

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`, however little of it each system call takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data` at once: a reader sees the old bytes or the new, never a part.

    Durable when it returns.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(fd, mode)
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    fsync_folder(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Write a secret: as `write_atomic`, readable by its owner alone."""
    write_atomic(path, data, mode=PRIVATE_FILE)


@contextlib.contextmanager
def sole_holder(lock: Path, refusal: NodectlError) -> Iterator[None]:
    """Hold the lock file `lock` (made if missing) while the block runs; the kernel ends it, too.

    Raises:
        NodectlError: `refusal`: another process holds it.
    """
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield
    finally:
        os.close(fd)


def make_private_folder(path: Path) -> None:
    """Make `path` (and its parents, as usual) with mode 0700; an existing one is left as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=PRIVATE_FOLDER)


_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Turn a range of a file into a hole, which reads as zeros; False where that cannot be.

    Raises:
        OSError: the file system can, and failed.
    """
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(fd, _PUNCH_HOLE, offset, length) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV, errno.EPERM}:
        return False
    raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def folder_beneath(root_fd: int, relative: str, *, make: bool = False) -> Iterator[int]:
    """Open the folder `relative` beneath the folder `root_fd` and yield its descriptor.

    With `make`, folders that are missing are made with mode 0755.

    Raises:
        UnsafePath: the path is absolute, has "..", or a component is a link or no folder.
        FileNotFoundError: a component is missing.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    try:
        for name in _checked_parts(relative):
            inner = _open_folder(name, fd, relative, make=make)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def _checked_parts(relative: str) -> tuple[str, ...]:
    path = PurePosixPath(relative)
    if path.is_absolute() or ".." in path.parts or "\0" in relative:
        raise UnsafePath(f"{relative!r} leads out of the folder that it should be in")
    return path.parts


def _split(relative: str) -> tuple[str, str]:
    """Return the folder and the last name of a checked path."""
    parts = _checked_parts(relative)
    if not parts:
        raise UnsafePath(f"{relative!r} names no file")
    return "/".join(parts[:-1]), parts[-1]


def _open_folder(name: str, folder_fd: int, relative: str, *, make: bool) -> int:
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=folder_fd)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder_fd)
    except OSError as exc:
        if exc.errno in {errno.ELOOP, errno.ENOTDIR}:
            msg = f"{name!r} in {relative!r} is not a folder of the tree itself"
            raise UnsafePath(msg, hint="a link there would lead out of the target") from exc
        raise


def write_beneath(
    root_fd: int,
    relative: str,
    data: bytes,
    *,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
    label: bytes = b"",
) -> None:
    """Replace the file `relative` beneath the folder `root_fd` by `data`, at once and durably.

    Its folder must be there and keeps its times. A link at the last component is replaced, not
    followed. `owner` is uid and gid (by default this process's), `label` the value of
    security.selinux.

    Raises:
        UnsafePath: a component is a link or no folder, or the file is a folder.
        FileNotFoundError: the folder of the file is missing.
    """
    with _replacing(root_fd, relative) as (folder, temporary):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, PRIVATE_FILE, dir_fd=folder)
        try:
            if owner is not None:
                os.fchown(fd, *owner)
            if label:
                os.setxattr(fd, "security.selinux", label)
            os.fchmod(fd, mode)  # last: nobody else reads a secret before it has its owner
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)


def link_beneath(root_fd: int, relative: str, target: str) -> None:
    """Replace `relative` beneath the folder `root_fd` by a symbolic link; else as `write_beneath`.

    Raises:
        UnsafePath: as `write_beneath`.
        FileNotFoundError: the folder of the link is missing.
    """
    with _replacing(root_fd, relative) as (folder, temporary):
        os.symlink(target, temporary, dir_fd=folder)


def remove_beneath(root_fd: int, relative: str) -> bool:
    """Remove the file or link `relative` beneath the folder `root_fd`; say whether it was there.

    Its folder keeps its times.

    Raises:
        UnsafePath: a component is a link or no folder, or the file is a folder.
    """
    parent, name = _split(relative)
    try:
        with folder_beneath(root_fd, parent) as folder:
            before = os.fstat(folder)
            os.unlink(name, dir_fd=folder)
            os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(folder)
    except FileNotFoundError:
        return False
    except IsADirectoryError as exc:
        raise UnsafePath(f"{relative!r} is a folder, and should be a file") from exc
    return True


@contextlib.contextmanager
def _replacing(root_fd: int, relative: str) -> Iterator[tuple[int, str]]:
    """Yield a folder and a temporary name in it; what is made there takes the place of a file."""
    parent, name = _split(relative)
    with folder_beneath(root_fd, parent) as folder:
        before = os.fstat(folder)
        temporary = f".{name}.{os.getpid()}.tmp"
        try:
            with contextlib.suppress(FileNotFoundError):  # of a run that was killed
                os.unlink(temporary, dir_fd=folder)
            yield folder, temporary
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError as exc:
            raise UnsafePath(f"{relative!r} is a folder, and should be a file") from exc
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.fsync(folder)


def read_beneath(root_fd: int, relative: str, *, limit: int) -> bytes | None:
    """Return the regular file `relative` beneath the folder `root_fd`; None: it is not there.

    A link, device or fifo in its place counts as not there.

    Raises:
        UnsafePath: a folder on the way is a link or no folder.
        ValueError: it has more than `limit` bytes.
    """
    parent, name = _split(relative)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with folder_beneath(root_fd, parent) as folder:
            if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                return None
            fd = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        # read() sets aside as many bytes as it is asked for
        data = file.read(min(limit, os.fstat(fd).st_size) + 1)
    if len(data) > limit:
        raise ValueError(f"{relative} has more than {limit} bytes")
    return data
