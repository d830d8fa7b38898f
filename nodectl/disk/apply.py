"""Makes a plan so: releases, wipes, partitions, builds, formats, and reads back what it wrote.

Just before the first write all disks are looked at again; one that is not what the plan saw stops
everything. Reading back is `disk/readback.py`, mounting is `disk/mounts.py`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nodectl.disk.commands import step_commands, table_script
from nodectl.disk.facts import DiskFacts
from nodectl.disk.mounts import mounted_device, private_folder, uninterrupted
from nodectl.disk.plan import DiskPlan
from nodectl.disk.probe import probe_contents, probe_disks
from nodectl.disk.readback import check_step
from nodectl.disk.steps import (
    CreateSubvolumes,
    ForgetPartitions,
    MakeSwapFile,
    MountFilesystem,
    Region,
    Release,
    ShowPartitions,
    Step,
    StopBcache,
    TableEntry,
    WipeSignatures,
    WriteTable,
)
from nodectl.errors import DiskBusy, DiskChanged, DiskUnwritable, NodectlError, ReadBackFailed
from nodectl.events import Observer, step
from nodectl.run import run

log = logging.getLogger(__name__)

_WIPED_ENDS = 16 << 20  # bytes, of a device that was just made
_ZEROS_AT_ONCE = 1 << 20
_TOOL_TIMEOUT_S = 1800.0  # mkfs discards a large flash disk as a whole
_NODE_WAIT_S = 15.0
_DROP_WAIT_S = 10.0
_LOCK_WAIT_S = 10.0  # udev holds the lock for moments
_NODE_POLL_S = 0.02
_NO_UDEV_S = 1.0  # a node that is late by this much is made by hand
_SYS = Path("/sys/class/block")
_AGAIN = "the disks are unfinished: mend the cause, then do the same again"
_CHANGING = frozenset({"links"})  # udev may come up with more names meanwhile


@contextlib.contextmanager
def locked(plan: DiskPlan) -> Iterator[None]:
    """Hold the locks of all disks, which keep udev from probing them and other clones away.

    Source: systemd, "Locking Block Device Access" (BSD lock on the whole disk).

    Raises:
        DiskBusy: somebody else has a lock.
        DiskChanged: a disk is gone.
    """
    with contextlib.ExitStack() as stack:
        for disk in sorted(_written(plan), key=lambda each: each.path):
            try:
                fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                raise _changed(disk, f"it cannot be opened: {exc.strerror}") from exc
            stack.callback(os.close, fd)
            _take_lock(fd, disk)
        yield


def _written(plan: DiskPlan) -> list[DiskFacts]:
    return [each.disk for each in plan.disks if not each.is_kept]


def _take_lock(fd: int, disk: DiskFacts) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() < deadline:
                time.sleep(_NODE_POLL_S)
                continue
            raise DiskBusy(
                f"{disk.path} is locked by another program; nothing was written",
                hint="wait for the other clone or formatter to end",
            ) from exc
        else:
            return


@contextlib.contextmanager
def released(plan: DiskPlan) -> Iterator[None]:
    """At the end take down again what the plan built: volumes, arrays, partitions of loop devices.

    Where the block failed, whatever of it was built goes as far as it can.
    """
    try:
        yield
    except BaseException:
        _release(plan, NodectlError, OSError)  # the first failure is the one to tell
        raise
    _release(plan)


@contextlib.contextmanager
def released_on_failure(plan: DiskPlan) -> Iterator[None]:
    """Leave what the plan built in place, unless the block fails."""
    try:
        yield
    except BaseException:
        _release(plan, NodectlError, OSError)
        raise


def _release(plan: DiskPlan, *forgiven: type[Exception]) -> None:
    with uninterrupted():
        for each in plan.closing:
            with contextlib.suppress(*forgiven):
                _run_all(each)
        loops = [disk for disk in _written(plan) if disk.type == "loop"]
        for disk in loops:  # the kernel never would
            with contextlib.suppress(*forgiven):
                _release_loop(plan, disk)


def _release_loop(plan: DiskPlan, disk: DiskFacts) -> None:
    _drop_partitions(disk.name, disk.path)
    for planned in plan.partitions:  # a node that we made by hand, nobody else removes
        if planned.disk == disk.path:
            Path(planned.path).unlink(missing_ok=True)


def _drop_partitions(name: str, path: str) -> None:
    """Let the kernel forget a disk's partitions.

    A program that looks at all disks may keep one of them open for a moment, so this is repeated.
    """
    deadline = time.monotonic() + _DROP_WAIT_S
    while list((_SYS / name).glob("*/partition")):
        late = time.monotonic() > deadline
        run(["partx", "--delete", path], ok=(0,) if late else (0, 1))
        if list((_SYS / name).glob("*/partition")):
            time.sleep(_NODE_POLL_S)


def check_tools(plan: DiskPlan) -> None:
    """Start every program that the plan needs with --help, which shows that it is there and runs.

    Raises:
        ToolMissing: one is not installed; nothing was written.
    """
    steps = (*plan.steps, *plan.closing)
    commands = (argv for each in steps for argv in step_commands(each))
    for tool in sorted({argv[0] for argv in commands} | {"umount"}):
        run([tool, "--help"], ok=range(256))


def apply_plan(
    plan: DiskPlan, observer: Observer, *, look: Callable[[], Sequence[DiskFacts]] | None = None
) -> None:
    """Do the steps of a plan; to be called with its locks held. Mounts nothing.

    `look` returns the disks as they are now; without it, they are looked at again.

    Raises:
        DiskChanged: a disk is not what the plan saw; nothing was written.
        DiskBusy: somebody holds one now; nothing was written.
        ToolMissing: a program is not installed; nothing was written.
        CommandFailed: a program failed.
        DiskUnwritable: a disk, or what stands for it, does not take what is written.
        ReadBackFailed: what was written does not read back the same.

    After the last three the disks are unfinished, and the same may be repeated; the sentence has
    the step.
    """
    check_tools(plan)
    written = _written(plan)
    now = (look or probe_disks)()
    for disk in written:
        check_unchanged(disk, now)
    for each in plan.steps:
        if not isinstance(each, MountFilesystem | MakeSwapFile):
            with step(observer, each.describe()), _told(each.describe()):
                _apply(each)
                check_step(each)
    for disk in written:
        with _told(f"flush {disk.path}"):
            _flush(disk.path)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Put the step into the sentence of whatever goes wrong in it."""
    try:
        yield
    except NodectlError as exc:
        exc.args = (f"could not {what}: {exc}",)
        exc.hint = exc.hint or _AGAIN
        raise
    except OSError as exc:
        reason = exc.strerror or str(exc)
        raise DiskUnwritable(f"could not {what}: {reason}", hint=_AGAIN) from exc


def check_unchanged(seen: DiskFacts, disks: Sequence[DiskFacts]) -> None:
    """Compare a disk with what it is among `disks`, as they are now, and look into it again.

    Raises:
        DiskChanged: it is gone or differs from `seen`.
        DiskBusy: it is in use now.
    """
    now = next((disk for disk in disks if disk.device == seen.device), None)
    if now is None:
        raise _changed(seen, "it is gone")
    now = probe_contents(now)
    more = [use for use in now.uses if use not in seen.uses]
    if more:
        what = "; ".join(use.words() for use in more)
        raise DiskBusy(
            f"{seen.path} came into use since the plan was made: {what}; nothing was written",
            hint="release the disk and start again",
        )
    fields = [field.name for field in dataclasses.fields(seen) if field.name not in _CHANGING]
    differing = [name for name in fields if getattr(seen, name) != getattr(now, name)]
    if differing:
        raise _changed(seen, f"its {', '.join(differing)} differ")


def _changed(seen: DiskFacts, what: str) -> DiskChanged:
    return DiskChanged(
        f"{seen.path} is not the disk that the plan saw: {what}; nothing was written",
        hint="make a new plan and read it",
    )


def _apply(each: Step) -> None:
    match each:
        case WipeSignatures():
            _zero(each.device, each.zeros)
            _run_all(each)
        case WriteTable():
            _run_all(each, table_script(each).encode())
        case ShowPartitions():
            _run_all(each)
            wait_for_nodes(each)
        case ForgetPartitions():
            _drop_partitions(Path(os.path.realpath(each.disk)).name, each.disk)
        case StopBcache():
            (_SYS / each.name / "bcache" / "stop").write_text("1")
        case CreateSubvolumes():
            _make_subvolumes(each)
        case MountFilesystem() | MakeSwapFile():
            raise ValueError("mounting is not done here")
        case _:
            _run_all(each)


def _make_subvolumes(each: CreateSubvolumes) -> None:
    with private_folder() as folder, mounted_device(each.device, folder):
        for argv in step_commands(each):
            target = folder / argv[-1]
            target.parent.mkdir(parents=True, exist_ok=True)
            run([*argv[:-1], target], timeout=_TOOL_TIMEOUT_S)


def _run_all(each: Step | Release, script: bytes | None = None) -> None:
    for argv in step_commands(each):
        # In "/" no bare word among the layout's mkfs options can be the name of a device.
        run(argv, input=script, timeout=_TOOL_TIMEOUT_S, cwd=Path("/"))


def _zero(device: str, regions: tuple[Region, ...]) -> None:
    """Write zeros over the regions, or both ends, with nobody else on the device."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise DiskBusy(f"{device} came into use; it was not written") from exc
        raise
    try:
        for region in regions or _ends(os.lseek(fd, 0, os.SEEK_END)):
            _write_zeros(fd, region.start, region.size)
        os.fsync(fd)
    finally:
        os.close(fd)


def _ends(size: int) -> tuple[Region, ...]:
    length = min(_WIPED_ENDS, size)
    return Region(start=0, size=length), Region(start=size - length, size=length)


def _write_zeros(fd: int, start: int, length: int) -> None:
    zeros = memoryview(bytes(_ZEROS_AT_ONCE))
    end = start + length
    while start < end:
        start += os.pwrite(fd, zeros[: end - start], start)


def wait_for_nodes(shown: ShowPartitions) -> None:
    """Wait until the kernel shows each partition where it was planned, and its node is there."""
    began = time.monotonic()
    for entry in shown.entries:
        if entry.is_extended or shown.is_map:
            continue
        while not _is_shown(entry, make_node=time.monotonic() - began > _NO_UDEV_S):
            if time.monotonic() - began > _NODE_WAIT_S:
                raise ReadBackFailed(
                    f"the kernel does not show {entry.path} within {_NODE_WAIT_S:g} s",
                    hint=f"try partx --update {shown.disk} and look into dmesg",
                )
            time.sleep(_NODE_POLL_S)


def _is_shown(planned: TableEntry, *, make_node: bool) -> bool:
    folder = _SYS / planned.path.removeprefix("/dev/").replace("/", "!")
    try:
        start = int((folder / "start").read_text()) * 512  # sysfs counts in 512 bytes always
        size = int((folder / "size").read_text()) * 512
        major, minor = (int(word) for word in (folder / "dev").read_text().split(":"))
    except OSError:
        return False
    if (start, size) != (planned.start, planned.size):
        return False
    device = os.makedev(major, minor)
    node = Path(planned.path)
    try:
        found = node.stat()
    except FileNotFoundError:
        if make_node:  # an initramfs without devtmpfs and udev
            os.mknod(node, stat.S_IFBLK | 0o600, device)
        return False
    return stat.S_ISBLK(found.st_mode) and found.st_rdev == device


def _flush(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
