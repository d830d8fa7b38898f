"""Mounts of a disk beneath a private folder, and their release whatever happens.

Each clone works in `/run/nodectl/clone-XXXX/`, with a lock file beside it that it holds as long as
it lives. A folder whose lock is free was left by a process that was killed: the next clone unmounts
and removes it, and nothing else.
"""

import contextlib
import errno
import fcntl
import logging
import os
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from types import FrameType

from nodectl.disk.commands import step_commands
from nodectl.disk.probe import parse_mounts
from nodectl.disk.steps import MakeSwapFile, MountFilesystem
from nodectl.errors import CommandFailed, NoSpace, ReleaseFailed
from nodectl.fsio import folder_beneath, make_private_folder
from nodectl.run import run

log = logging.getLogger(__name__)

RUN_FOLDER = Path("/run/nodectl")
_PREFIX = "clone-"
_LOCK = ".lock"
_UNMOUNT_TRIES = 20
_UNMOUNT_PAUSE_S = 0.25
_MOUNT_TRIES = 5
_MOUNT_PAUSE_S = 0.2
_UNMOUNT_TIMEOUT_S = 900.0  # a slow disk writes back what the page cache holds
_SET_FLAGS = 0x40086602
_NO_COW = 0x00800000
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def private_folder(parent: Path = RUN_FOLDER) -> Iterator[Path]:
    """Make a folder for mounts and yield it; it is removed at the end."""
    make_private_folder(parent)
    fd, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_LOCK, dir=parent)
    lock = Path(name)
    folder = lock.with_suffix("")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # before the folder is there for others to find
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        with uninterrupted():
            _remove(folder, lock)
            os.close(fd)


def release_abandoned(parent: Path = RUN_FOLDER) -> tuple[Path, ...]:
    """Unmount and remove what killed clones left; return their folders.

    Raises:
        ReleaseFailed: something there cannot be unmounted.
    """
    released = []
    for folder in sorted(parent.glob(f"{_PREFIX}*/")):
        lock = folder.with_name(folder.name + _LOCK)
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its clone is alive
        else:
            unmount_beneath(folder)
            _remove(folder, lock)
            released.append(folder)
        finally:
            os.close(fd)
    return tuple(released)


def _remove(folder: Path, lock: Path) -> None:
    with contextlib.suppress(OSError):  # not empty: still mounted, which was reported before
        folder.rmdir()
        lock.unlink()


@contextlib.contextmanager
def mounted(
    steps: Sequence[MountFilesystem], folder: Path, *, read_only: bool = False
) -> Iterator[Path]:
    """Mount a plan's filesystems beneath `folder`, parents first, and yield it.

    Mount points inside the target are made (mode 0755) and are never links.

    Raises:
        CommandFailed: a mount failed; what was mounted before it is released.
        ReleaseFailed: something could not be unmounted cleanly.
    """
    try:
        for step in steps:
            _mount(step, folder, read_only=read_only)
        yield folder
    finally:
        # Looks at what is mounted, so that a mount cut off by Ctrl-C is released too.
        with uninterrupted():
            unmount_beneath(folder)


@contextlib.contextmanager
def mounted_device(device: str, folder: Path) -> Iterator[Path]:
    """Mount one device at `folder` and yield it."""
    try:
        mount(["mount", device, folder])
        yield folder
    finally:
        with uninterrupted():
            unmount_beneath(folder)


def make_swap_files(steps: Sequence[MakeSwapFile], folder: Path) -> None:
    """Make swap files beneath the mounted root; their folders are made and are never links.

    Raises:
        CommandFailed: mkswap failed, or there is no room (NoSpace).
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for step in steps:
            place = PurePosixPath(step.path.strip("/"))
            with folder_beneath(root, str(place.parent), make=True) as parent:
                _make_swap_file(step, parent, place.name, folder / place)
    finally:
        os.close(root)


def _make_swap_file(step: MakeSwapFile, parent: int, name: str, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        _forbid_copy_on_write(fd)
        os.posix_fallocate(fd, 0, step.size)
        os.fsync(fd)
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            raise NoSpace(f"there is no room for the swap file {step.path}") from exc
        raise
    finally:
        os.close(fd)
    for argv in step_commands(step):
        run([*argv[:-1], path])


def _forbid_copy_on_write(fd: int) -> None:
    """Set the flag that btrfs needs for a swap file; other filesystems do not know it.

    Source: btrfs(5), "SWAPFILE SUPPORT"; FS_IOC_SETFLAGS and FS_NOCOW_FL of linux/fs.h.
    """
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", _NO_COW))


def _mount(step: MountFilesystem, folder: Path, *, read_only: bool) -> None:
    relative = step.path.strip("/")
    target = str(folder / relative)
    if relative:
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with folder_beneath(root, relative, make=not read_only):
                pass
        finally:
            os.close(root)
    for argv in step_commands(step):
        words = [*argv[:-1], target]
        mount([words[0], "--read-only", *words[1:]] if read_only else words)


def mount(argv: Sequence[str | os.PathLike[str]]) -> None:
    """Run mount; a program that looks at all disks may claim one for a moment, so try again.

    Raises:
        CommandFailed: it failed each time.
    """
    for attempt in range(_MOUNT_TRIES):
        try:
            run(argv)
        except CommandFailed as exc:
            if attempt + 1 == _MOUNT_TRIES:
                raise
            log.debug("mount, try %d: %s", attempt, exc)
            time.sleep(_MOUNT_PAUSE_S)
        else:
            return


def mount_points_beneath(folder: Path) -> tuple[str, ...]:
    """Return what is mounted at or beneath `folder`, the last mounted first."""
    text = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    place = str(folder.resolve())
    found = (entry.target for entry in parse_mounts(text))
    inside = [target for target in found if target == place or target.startswith(f"{place}/")]
    return tuple(reversed(inside))


def unmount_beneath(folder: Path) -> None:
    """Unmount everything at or beneath `folder`, deepest first, and say who is in the way.

    Raises:
        ReleaseFailed: something stayed busy; it was detached, so that it ends with its last user.
    """
    stuck = [target for target in mount_points_beneath(folder) if not _unmount(target)]
    if not stuck:
        return
    holders = ", ".join(_holders(folder)) or "nobody that can be seen"
    for target in stuck:
        run(["umount", "--lazy", target])
    raise ReleaseFailed(
        f"{', '.join(stuck)} stayed busy (held by {holders}) and was only detached: "
        "the disk is not released before that program ends",
        hint="end that program, then start the clone again",
    )


def _unmount(target: str) -> bool:
    """Unmount; a scanner may hold a file for a moment, so try for a few seconds."""
    for attempt in range(_UNMOUNT_TRIES):
        try:
            run(["umount", target], timeout=_UNMOUNT_TIMEOUT_S)
        except CommandFailed as exc:
            log.debug("umount, try %d: %s", attempt, exc)
            if target not in mount_points_beneath(Path(target)):
                return True
            time.sleep(_UNMOUNT_PAUSE_S)
        else:
            return True
    return False


def _holders(folder: Path) -> list[str]:
    """Return "name (pid)" of processes with a folder or file open beneath `folder`."""
    place = str(folder.resolve())
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        links = [process / "cwd", process / "root"]
        with contextlib.suppress(OSError):
            links += list((process / "fd").iterdir())
        with contextlib.suppress(OSError):
            if any(_leads_into(link, place) for link in links):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
    return found


def _leads_into(link: Path, place: str) -> bool:
    try:
        target = str(link.readlink())
    except OSError:
        return False
    return target == place or target.startswith(f"{place}/")


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and the like until the block is done, then deliver them.

    Outside the main thread there is nothing to hold back: signals are taken by the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {int(number): signal.signal(number, hold) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None: it was not set by Python, so all that can be restored is the default.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in held:
            signal.raise_signal(number)
