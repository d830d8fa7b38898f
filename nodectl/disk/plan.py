"""From facts and a layout to a plan: what will be written where, as values. Pure.

A plan is a tuple of steps. Those that destroy data are types of their own (`Destructive`), so that
they can be listed before anybody is asked. UUIDs come in as an argument. `disk/apply.py` does it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from nodectl.disk.facts import DiskFacts, is_match
from nodectl.disk.model import (
    ALIGNMENT,
    MIN_FS_BYTES,
    DiskMatch,
    Filesystem,
    FsType,
    Layout,
    Partition,
    type_guid,
)
from nodectl.errors import DiskBusy, DiskMissing, DiskTooSmall
from nodectl.units import format_size

_GPT_ENTRIES_BYTES = 128 * 128  # UEFI specification 2.10 section 5.3.1: entries, each end
_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a disk, in bytes."""

    start: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPartitions:
    """The kernel drops the partitions it knows of; nothing on the disk changes."""

    disk: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WipeSignatures:
    """Zero both ends of each region of a device, then erase the magic numbers that are left."""

    device: str
    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTable:
    """Write a new partition table; `script` is in the language of sfdisk(8)."""

    disk: str
    script: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowPartitions:
    """The kernel learns the new partitions; each gets its node under /dev."""

    disk: str
    partitions: tuple["PlannedPartition", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFilesystem:
    """Make a filesystem."""

    device: str
    type: FsType
    uuid: str
    label: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSwap:
    """Make a swap area."""

    device: str
    uuid: str
    label: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem:
    """Mount a filesystem beneath the private folder of the clone."""

    device: str
    path: str  # in the target system
    type: FsType
    options: tuple[str, ...]


Destructive = WipeSignatures | WriteTable | FormatFilesystem | MakeSwap
Step = ForgetPartitions | ShowPartitions | MountFilesystem | Destructive


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPartition:
    """A partition as it will be."""

    partition: Partition
    number: int
    path: str  # /dev/sda1, /dev/nvme0n1p1, /dev/loop0p1
    start: int  # bytes
    size: int  # bytes
    uuid: str
    filesystem: Filesystem | None
    fs_uuid: str  # as blkid writes it; empty without filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """Everything that will happen to one disk."""

    disk: DiskFacts
    layout: Layout
    disk_uuid: str
    partitions: tuple[PlannedPartition, ...]
    steps: tuple[Step, ...]
    fingerprint: str  # of facts and layout; the same disk and wish have the same one

    @property
    def destructive(self) -> tuple[Destructive, ...]:
        """The steps that destroy data."""
        return tuple(step for step in self.steps if isinstance(step, Destructive))

    @property
    def mounts(self) -> tuple[MountFilesystem, ...]:
        """What to mount, parents first."""
        return tuple(step for step in self.steps if isinstance(step, MountFilesystem))


def choose_disk(disks: Sequence[DiskFacts], wishes: Sequence[DiskMatch]) -> DiskFacts:
    """Return the one disk that every non-empty wish describes, if it may be written.

    Raises:
        DiskMissing: no disk is named, none matches, or more than one does.
        DiskBusy: something holds it.
    """
    asked = [wish for wish in wishes if not wish.is_empty]
    if not asked:
        raise DiskMissing(
            "no disk is named",
            hint="name it with --disk /dev/... (or its serial), or by match in the layout",
        )
    found = [disk for disk in disks if all(is_match(disk, wish) for wish in asked)]
    words = " and ".join(_match_words(wish) for wish in asked)
    here = "; ".join(disk_words(disk) for disk in disks) or "none"
    if not found:
        raise DiskMissing(f"no disk has {words}", hint=f"the disks here: {here}")
    if len(found) > 1:
        names = "; ".join(disk_words(disk) for disk in found)
        raise DiskMissing(
            f"{len(found)} disks have {words}: {names}", hint="name one of them by its path"
        )
    _refuse_busy(found[0])
    return found[0]


def _refuse_busy(disk: DiskFacts) -> None:
    if disk.uses:
        what = "; ".join(use.words() for use in disk.uses)
        raise DiskBusy(
            f"{disk.path} is in use: {what}; nothing was written",
            hint="name another disk, or release this one first",
        )


def _match_words(wish: DiskMatch) -> str:
    names = ("path", "serial", "wwn", "model", "vendor", "transport")
    words = [f"{name} {getattr(wish, name)}" for name in names if getattr(wish, name)]
    words += [f"size {each.compare} {format_size(each.size)}" for each in wish.size]
    return ", ".join(words)


def disk_words(disk: DiskFacts) -> str:
    """Return a disk in a few words: path, model, serial, size."""
    parts = [disk.path, disk.model or disk.backing_file]
    parts += [f"serial {disk.serial}"] if disk.serial else []
    return ", ".join([part for part in parts if part] + [format_size(disk.size)])


def plan_disk(
    disk: DiskFacts, layout: Layout, *, image_bytes: int, new_uuid: Callable[[], UUID]
) -> DiskPlan:
    """Plan `layout` onto `disk`, whose contents were looked at.

    `image_bytes` is the plain size of what will be restored onto it.

    Raises:
        DiskBusy: something holds the disk.
        DiskTooSmall: the layout or the image does not fit.
    """
    _refuse_busy(disk)
    if disk.contents is None:
        raise ValueError("the contents of the disk were not looked at")
    partitions = _place(disk, layout, new_uuid)
    _check_filesystems_fit(disk, partitions)
    _check_image_fits(disk, partitions, image_bytes)
    disk_uuid = str(new_uuid()).upper()
    return DiskPlan(
        disk=disk,
        layout=layout,
        disk_uuid=disk_uuid,
        partitions=partitions,
        steps=_steps(disk, disk_uuid, partitions),
        fingerprint=_fingerprint(disk, layout),
    )


def usable_region(disk: DiskFacts) -> Region:
    """Return the aligned part of the disk that partitions may fill, between both GPTs."""
    sector = disk.logical_sector
    entries = -(-_GPT_ENTRIES_BYTES // sector) * sector
    end = (disk.size - entries - sector) // ALIGNMENT * ALIGNMENT
    return Region(start=ALIGNMENT, size=max(end - ALIGNMENT, 0))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(
    disk: DiskFacts, layout: Layout, new_uuid: Callable[[], UUID]
) -> tuple[PlannedPartition, ...]:
    """Give each partition its start and size: aligned, disjoint, in the order of the layout."""
    usable = usable_region(disk)
    fixed = sum(_aligned(each.size) for each in layout.partitions if each.size is not None)
    has_rest = any(each.size is None for each in layout.partitions)
    needed = fixed + (ALIGNMENT if has_rest else 0)
    if needed > usable.size:
        raise DiskTooSmall(
            f"{disk.path} has room for {_exact(usable.size)} of partitions, "
            f"the layout needs {_exact(needed)}; nothing was written",
            hint="use a larger disk or smaller sizes in the layout",
        )
    placed = []
    start = usable.start
    for number, partition in enumerate(layout.partitions, start=1):
        size = usable.size - fixed if partition.size is None else _aligned(partition.size)
        filesystem = layout.filesystem_on(partition)
        planned = PlannedPartition(
            partition=partition,
            number=number,
            path=partition_path(disk.path, number),
            start=start,
            size=size,
            uuid=str(new_uuid()).upper(),
            filesystem=filesystem,
            fs_uuid=_fs_uuid(filesystem, new_uuid),
        )
        placed.append(planned)
        start += size
    return tuple(placed)


def _exact(size: int) -> str:
    return f"{format_size(size)} ({size} bytes)"


def partition_path(disk: str, number: int) -> str:
    """Return the node of a partition: sda1, but nvme0n1p1, loop0p1, mmcblk0p1.

    Source: Linux block/partitions/core.c, "p" stands between when the name ends with a digit.
    """
    return f"{disk}p{number}" if disk[-1].isdigit() else f"{disk}{number}"


def _fs_uuid(filesystem: Filesystem | None, new_uuid: Callable[[], UUID]) -> str:
    if filesystem is None:
        return ""
    uuid = new_uuid()
    if filesystem.type is FsType.VFAT:
        digits = uuid.hex[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"
    return str(uuid)


def _check_filesystems_fit(disk: DiskFacts, partitions: Sequence[PlannedPartition]) -> None:
    for planned in partitions:
        filesystem = planned.filesystem
        if filesystem and planned.size < MIN_FS_BYTES[filesystem.type]:
            raise DiskTooSmall(
                f"on {disk.path} only {_exact(planned.size)} are left for partition "
                f"{planned.partition.id}, {filesystem.type} needs "
                f"{_exact(MIN_FS_BYTES[filesystem.type])}; nothing was written",
                hint="use a larger disk or smaller sizes in the layout",
            )


def _check_image_fits(
    disk: DiskFacts, partitions: Sequence[PlannedPartition], image_bytes: int
) -> None:
    """Refuse what cannot fit: file data alone larger than all filesystems that are mounted.

    A lower bound on purpose: the filesystems' own needs are only estimated (2 %), so that nothing
    that fits is refused; what is fuller than this is met as a full disk while restoring.
    """
    mounted = sum(each.size for each in partitions if each.filesystem and each.filesystem.mount)
    room = mounted - mounted // 50
    if image_bytes > room:
        raise DiskTooSmall(
            f"the image holds {_exact(image_bytes)}, the filesystems of the layout on {disk.path} "
            f"have room for about {_exact(room)}; nothing was written",
            hint="use a larger disk or another layout",
        )


def _steps(
    disk: DiskFacts, disk_uuid: str, partitions: tuple[PlannedPartition, ...]
) -> tuple[Step, ...]:
    old = disk.contents.partitions if disk.contents else ()
    spans = [(0, disk.size), *((each.start, each.size) for each in old)]
    spans += [(each.start, each.size) for each in partitions]
    regions = tuple(
        Region(start=start, size=min(size, disk.size - start))
        for start, size in sorted(set(spans))
        if 0 <= start < disk.size and size > 0
    )
    mounts = [step for each in partitions for step in _mount_step(each)]
    return (
        *([ForgetPartitions(disk=disk.path)] if disk.nodes else []),
        WipeSignatures(device=disk.path, regions=regions),
        WriteTable(disk=disk.path, script=_table_script(disk, disk_uuid, partitions)),
        ShowPartitions(disk=disk.path, partitions=partitions),
        *(WipeSignatures(device=each.path, regions=()) for each in partitions),
        *(step for each in partitions for step in _format_step(each)),
        *sorted(mounts, key=lambda step: (step.path.rstrip("/").count("/"), step.path)),
    )


def _format_step(planned: PlannedPartition) -> tuple[Step, ...]:
    fs = planned.filesystem
    if fs is None:
        return ()
    if fs.type is FsType.SWAP:
        return (
            MakeSwap(
                device=planned.path, uuid=planned.fs_uuid, label=fs.label, options=fs.mkfs_options
            ),
        )
    return (
        FormatFilesystem(
            device=planned.path,
            type=fs.type,
            uuid=planned.fs_uuid,
            label=fs.label.upper() if fs.type is FsType.VFAT else fs.label,
            options=fs.mkfs_options,
        ),
    )


def _mount_step(planned: PlannedPartition) -> tuple[MountFilesystem, ...]:
    fs = planned.filesystem
    if fs is None or not fs.mount:
        return ()
    return (
        MountFilesystem(device=planned.path, path=fs.mount, type=fs.type, options=fs.mount_options),
    )


def _table_script(disk: DiskFacts, disk_uuid: str, partitions: Sequence[PlannedPartition]) -> str:
    """Return the input of sfdisk; starts and sizes in logical sectors."""
    sector = disk.logical_sector
    lines = ["label: gpt", f"label-id: {disk_uuid}", "unit: sectors", ""]
    for each in partitions:
        fields = (
            f"start={each.start // sector}",
            f"size={each.size // sector}",
            f"type={type_guid(each.partition.type)}",
            f"uuid={each.uuid}",
            f'name="{each.partition.label or each.partition.id}"',
        )
        lines.append(", ".join(fields))
    return "\n".join(lines) + "\n"


def _fingerprint(disk: DiskFacts, layout: Layout) -> str:
    """Return hexadecimal digits that change whenever the disk or the wish does."""
    document = json.dumps([asdict(disk), asdict(layout)], sort_keys=True, default=str)
    return hashlib.sha256(document.encode()).hexdigest()[:_FINGERPRINT_DIGITS]
