"""Private cache folders: where compiled code and, if it must be, native modules are kept.

A folder is named by the build id, so that builds never meet. What comes out of it is executed, so
it has to be ours: made with mode 0700, owned by us, no link, and inside a folder that nobody but
us or root can rearrange. A place that is not so is passed over; where no place is left, nothing
is cached. Nothing here is fsynced: readers check what they read and make it again.

Used before anything else can be imported: no import from outside the standard library, and only
cheap ones from inside.
"""

import os
import stat
import time
from collections.abc import Mapping

_MODE_PRIVATE = 0o700
_HEX = "0123456789abcdef"
_STALE_S = 14 * 86400  # folders of other builds, not written to for so long, are removed


def places(environ: Mapping[str, str], uid: int) -> list[str]:
    """Return where a cache may be, best first; none of them needs to exist."""
    found = []
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        found.append(f"{runtime}/nodectl")
    if uid == 0:
        found.append("/run/nodectl")
    if cache := environ.get("XDG_CACHE_HOME"):
        found.append(f"{cache}/nodectl")
    elif home := environ.get("HOME"):
        found.append(f"{home}/.cache/nodectl")
    if uid == 0:
        found.append("/var/cache/nodectl")
    found.append(f"/dev/shm/nodectl-{uid}")  # noqa: S108 - checked below as every place is
    return [path for path in found if path.startswith("/")]


def _check_safe(path: str, status: os.stat_result, uid: int) -> None:
    """Refuse a folder in which others can rename what is ours.

    Raises:
        OSError: it is a link or no folder, or somebody else's, or others may write to it.
    """
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {0, uid} or shared:
        raise PermissionError(f"others may change what is in {path}")


def _make(path: str) -> None:
    try:  # noqa: SIM105 - contextlib would cost a millisecond of every start
        os.mkdir(path, _MODE_PRIVATE)
    except FileExistsError:
        pass


def _open_private(path: str, uid: int) -> int:
    """Make the folder if it is missing, and open it.

    Raises:
        OSError: it cannot be made, is a link or no folder, or is not ours alone.
    """
    _make(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != uid or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        os.close(fd)
        raise PermissionError(f"{path} is not ours alone")
    return fd


def _remove_stale(base: str, keep: str) -> None:
    """Remove the folders of builds that nobody wrote to for two weeks, and nothing else."""
    limit = time.time() - _STALE_S
    with os.scandir(base) as listing:
        entries = list(listing)
    for entry in entries:
        is_build = len(entry.name) == len(keep) and not entry.name.strip(_HEX)
        if not is_build or entry.name == keep:
            continue
        if entry.stat(follow_symlinks=False).st_mtime < limit:
            import shutil  # noqa: PLC0415 - rarely needed, and slow to import

            shutil.rmtree(entry.path, ignore_errors=True)


class CacheFolder:
    """A private folder, open: names in it are relative to its descriptor."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file, or None where there is none."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return None
        try:
            size = os.fstat(fd).st_size
            return os.read(fd, size) if size else None
        finally:
            os.close(fd)

    def write(self, name: str, data: bytes, *, mode: int = 0o600) -> bool:
        """Put a file in place at once; say whether that worked. Two writers do not disturb."""
        temporary = f".{name}.{os.getpid()}.{time.monotonic_ns()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, mode, dir_fd=self._fd)
        except OSError:
            return False
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:  # the file system is full, or went away
            try:  # noqa: SIM105 - as above
                os.unlink(temporary, dir_fd=self._fd)
            except OSError:
                pass
            return False
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def allows_exec(self) -> bool:
        """Say whether native modules can be loaded from here (not mounted noexec)."""
        return not os.fstatvfs(self._fd).f_flag & os.ST_NOEXEC


def open_cache(build_id: str, *, environ: Mapping[str, str], for_exec: bool) -> CacheFolder | None:
    """Return this build's folder at the first place that can be trusted, or None."""
    uid = os.geteuid()
    for base in places(environ, uid):
        try:
            folder = _open_in(base, build_id, uid)
        except OSError:
            continue
        if not for_exec or folder.allows_exec():
            return folder
        folder.close()
    return None


def _open_in(base: str, build_id: str, uid: int) -> CacheFolder:
    """Return this build's folder in `base`.

    Raises:
        OSError: it cannot be made there, or not be trusted.
    """
    parent = os.path.dirname(base)
    if not os.path.isdir(parent):
        os.makedirs(parent, mode=_MODE_PRIVATE, exist_ok=True)
    _check_safe(parent, os.stat(parent), uid)
    _make(base)
    _check_safe(base, os.lstat(base), uid)
    path = f"{base}/{build_id}"
    is_new = not os.path.isdir(path)
    folder = CacheFolder(path, _open_private(path, uid))
    if is_new:
        _remove_stale(base, build_id)
    return folder
