"""Makes a plan so: partitions and formats one disk, and reads back each thing that it wrote.

Just before the first write the disk is looked at again; a disk that is not the one that the plan
saw stops it. Mounting is `disk/mounts.py`.
"""

import contextlib
import dataclasses
import errno
import fcntl
import logging
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from nodectl.disk.commands import step_commands
from nodectl.disk.facts import DiskFacts
from nodectl.disk.model import type_guid
from nodectl.disk.mounts import uninterrupted
from nodectl.disk.plan import (
    DiskPlan,
    ForgetPartitions,
    FormatFilesystem,
    MakeSwap,
    MountFilesystem,
    PlannedPartition,
    Region,
    ShowPartitions,
    Step,
    WipeSignatures,
    WriteTable,
)
from nodectl.disk.probe import probe_contents, probe_disks, read_signatures, read_table
from nodectl.errors import CommandFailed, DiskBusy, DiskChanged, ReadBackFailed
from nodectl.events import Observer, step
from nodectl.run import run

log = logging.getLogger(__name__)

# Superblocks of md 0.90 and 1.0, ZFS, LUKS, LVM and GPT lie within 1 MiB of an end.
_WIPED_ENDS = 1 << 20
_TOOL_TIMEOUT_S = 1800.0  # mkfs discards a large flash disk as a whole
_NODE_WAIT_S = 15.0
_DROP_WAIT_S = 10.0
_LOCK_WAIT_S = 10.0  # udev holds the lock for moments
_NODE_POLL_S = 0.02
_NO_UDEV_S = 1.0  # a node that is late by this much is made by hand
_SYS = Path("/sys/class/block")
_CHANGING = frozenset({"links"})  # udev may come up with more names meanwhile


@contextlib.contextmanager
def locked(disk: DiskFacts) -> Iterator[None]:
    """Hold the disk's lock, which keeps udev from probing it and other clones away.

    Source: systemd, "Locking Block Device Access" (BSD lock on the whole disk).

    Raises:
        DiskBusy: somebody else has the lock.
    """
    fd = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _take_lock(fd, disk)
        yield
    finally:
        os.close(fd)


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
def partitions_released(plan: DiskPlan) -> Iterator[None]:
    """At the end take the partitions off a loop device again, which the kernel never would."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(CommandFailed):  # the first failure is the one to tell
            _release_partitions(plan)
        raise
    _release_partitions(plan)


def _release_partitions(plan: DiskPlan) -> None:
    disk = plan.disk
    if disk.type != "loop":
        return
    with uninterrupted():
        _drop_partitions(disk)
        for planned in plan.partitions:  # a node that we made by hand, nobody else removes
            Path(planned.path).unlink(missing_ok=True)


def _drop_partitions(disk: DiskFacts) -> None:
    """Let the kernel forget the disk's partitions.

    A program that looks at all disks may keep one of them open for a moment, so this is repeated.
    """
    deadline = time.monotonic() + _DROP_WAIT_S
    while _kernel_partitions(disk):
        late = time.monotonic() > deadline
        run(["partx", "--delete", disk.path], ok=(0,) if late else (0, 1))
        if _kernel_partitions(disk):
            time.sleep(_NODE_POLL_S)


def _kernel_partitions(disk: DiskFacts) -> list[Path]:
    return [each.parent for each in (_SYS / disk.name).glob("*/partition")]


def check_tools(plan: DiskPlan) -> None:
    """Start every program that the plan needs with --help, which shows that it is there and runs.

    Raises:
        ToolMissing: one is not installed; nothing was written.
    """
    commands = (argv for each in plan.steps for argv in step_commands(each))
    for tool in sorted({argv[0] for argv in commands} | {"umount"}):
        run([tool, "--help"], ok=range(128))


def apply_plan(plan: DiskPlan, observer: Observer) -> None:
    """Partition and format the disk; to be called with its lock held. Mounts nothing.

    Raises:
        DiskChanged: the disk is not what the plan saw; nothing was written.
        DiskBusy: somebody holds it now; nothing was written.
        ToolMissing: a program is not installed; nothing was written.
        CommandFailed: a program failed; the disk is undefined, and the same plan may be repeated.
        ReadBackFailed: what was written does not read back the same.
    """
    check_tools(plan)
    check_unchanged(plan.disk)
    for each in plan.steps:
        if not isinstance(each, MountFilesystem):
            with step(observer, step_words(each)):
                _apply(each, plan)
    _flush(plan.disk.path)


def step_words(each: Step) -> str:
    """Return a step in words for progress and errors."""
    match each:
        case ForgetPartitions():
            return f"drop the old partitions of {each.disk} from the kernel"
        case WipeSignatures():
            return f"wipe {each.device}"
        case WriteTable():
            return f"partition {each.disk}"
        case ShowPartitions():
            return f"show the partitions of {each.disk}"
        case FormatFilesystem():
            return f"format {each.device} as {each.type}"
        case MakeSwap():
            return f"format {each.device} as swap"
        case MountFilesystem():
            return f"mount {each.device} at {each.path}"


def check_unchanged(seen: DiskFacts) -> None:
    """Look at the disk again.

    Raises:
        DiskChanged: it is gone or differs from `seen`.
        DiskBusy: it is in use now.
    """
    now = next((disk for disk in probe_disks() if disk.device == seen.device), None)
    if now is None:
        raise _changed(seen, "it is gone")
    if not now.uses:
        now = probe_contents(now)
    if now.uses:
        what = "; ".join(use.words() for use in now.uses)
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


def _apply(each: Step, plan: DiskPlan) -> None:
    match each:
        case WipeSignatures():
            _zero_ends(each.device, each.regions)
            _run_all(each)
            _check_wiped(each.device)
        case WriteTable():
            _run_all(each, each.script.encode())
            _check_table(plan)
        case ShowPartitions():
            _run_all(each)
            _wait_for_nodes(plan.disk, each.partitions)
        case FormatFilesystem() | MakeSwap():
            _run_all(each)
            _check_formatted(each)
        case ForgetPartitions():
            _drop_partitions(plan.disk)
        case MountFilesystem():
            raise ValueError("mounting is not done here")


def _run_all(each: Step, script: bytes | None = None) -> None:
    for argv in step_commands(each):
        # In "/" no bare word among the layout's mkfs options can be the name of a device.
        run(argv, input=script, timeout=_TOOL_TIMEOUT_S, cwd=Path("/"))


def _zero_ends(device: str, regions: tuple[Region, ...]) -> None:
    """Write zeros over the first and last MiB of each region, with nobody else on the device."""
    try:
        fd = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise DiskBusy(f"{device} came into use; nothing was written") from exc
        raise
    try:
        for region in regions:
            length = min(_WIPED_ENDS, region.size)
            _write_zeros(fd, region.start, length)
            _write_zeros(fd, region.start + region.size - length, length)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_zeros(fd: int, start: int, length: int) -> None:
    zeros = memoryview(bytes(length))
    while zeros:
        done = os.pwrite(fd, zeros, start)
        start += done
        zeros = zeros[done:]


def _check_wiped(device: str) -> None:
    left = read_signatures(device)
    if left:
        names = ", ".join(each.type for each in left)
        raise ReadBackFailed(f"{device} still shows {names} after it was wiped")


def _check_table(plan: DiskPlan) -> None:
    """Compare the table on the disk with the planned one, entry by entry."""
    table = read_table(plan.disk.path)
    sector = int(table.get("sectorsize", plan.disk.logical_sector))
    found = [
        (
            int(entry["start"]) * sector,
            int(entry["size"]) * sector,
            str(entry["type"]).upper(),
            str(entry["uuid"]).upper(),
            entry.get("name", ""),
        )
        for entry in table.get("partitions", [])
    ]
    wanted = [
        (
            each.start,
            each.size,
            type_guid(each.partition.type),
            each.uuid,
            each.partition.label or each.partition.id,
        )
        for each in plan.partitions
    ]
    head = (table.get("label"), str(table.get("id", "")).upper())
    if head != ("gpt", plan.disk_uuid) or found != wanted:
        raise ReadBackFailed(
            f"the partition table of {plan.disk.path} reads back as {head}, {found} "
            f"and was written as {('gpt', plan.disk_uuid)}, {wanted}"
        )


def _wait_for_nodes(disk: DiskFacts, partitions: tuple[PlannedPartition, ...]) -> None:
    """Wait until the kernel shows each partition where it was planned, and its node is there."""
    began = time.monotonic()
    for planned in partitions:
        while not _is_shown(planned, make_node=time.monotonic() - began > _NO_UDEV_S):
            if time.monotonic() - began > _NODE_WAIT_S:
                raise ReadBackFailed(
                    f"the kernel does not show {planned.path} within {_NODE_WAIT_S:g} s",
                    hint=f"try partx --update {disk.path} and look into dmesg",
                )
            time.sleep(_NODE_POLL_S)


def _is_shown(planned: PlannedPartition, *, make_node: bool) -> bool:
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


def _check_formatted(each: FormatFilesystem | MakeSwap) -> None:
    kind = "swap" if isinstance(each, MakeSwap) else str(each.type)
    found = read_signatures(each.device)
    wanted = (kind, each.uuid.lower(), each.label)
    if wanted not in [(one.type, one.uuid.lower(), one.label) for one in found]:
        raise ReadBackFailed(f"{each.device} reads back as {found}, was formatted as {wanted}")


def _flush(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
