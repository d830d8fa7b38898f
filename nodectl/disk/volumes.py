"""The parts of a disk layout: disks to match, partitions, what is built on them, and mounts.

Pure. They are values and may contradict each other; a `Layout` (`disk/model.py`) does not. Sizes
are bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from nodectl.disk.kinds import (
    LUKS_HEADER,
    FsType,
    LvKind,
    PartitionFlag,
    Preserve,
    RaidLevel,
    Role,
    TableKind,
)
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.units import MIB

ALIGNMENT = MIB  # bytes; unless a disk of the layout says another


class Compare(StrEnum):
    """How a disk's size is compared with the one in the layout."""

    LESS = "<"
    AT_MOST = "<="
    EQUAL = "="
    AT_LEAST = ">="
    MORE = ">"
    NOT = "!="


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeCondition:
    """A condition on the size of a disk."""

    compare: Compare
    size: int  # bytes

    def holds(self, size: int) -> bool:
        """Say whether a disk of `size` bytes fulfils it."""
        match self.compare:
            case Compare.LESS:
                return size < self.size
            case Compare.AT_MOST:
                return size <= self.size
            case Compare.EQUAL:
                return size == self.size
            case Compare.AT_LEAST:
                return size >= self.size
            case Compare.MORE:
                return size > self.size
            case Compare.NOT:
                return size != self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMatch:
    """Which disk is meant: every field that is set must hold. None set: nothing matches.

    Texts may have the wildcards "*" and "?".
    """

    path: str = ""  # /dev/sda or any link to it such as /dev/disk/by-path/...
    serial: str = ""
    wwn: str = ""
    model: str = ""
    vendor: str = ""
    transport: str = ""  # sata, nvme, sas, usb, ...
    hctl: str = ""  # SCSI host:channel:target:lun; the host's number may change at each boot
    rotational: bool | None = None
    removable: bool | None = None
    sector: int | None = None  # bytes of a logical sector
    size: tuple[SizeCondition, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is asked, so that no disk is meant."""
        return self == DiskMatch()


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskWish:
    """A disk of the layout."""

    id: str
    match: DiskMatch = field(default_factory=DiskMatch)
    role: Role | None = None  # None: nothing is claimed
    table: TableKind = TableKind.GPT
    alignment: int = ALIGNMENT  # bytes; partitions begin and end on multiples of it
    sector: int | None = None  # bytes of a logical sector; another one is refused
    discard: bool = False  # tell the disk that all its blocks are free before it is written


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, in the order in which it stands on its disk."""

    id: str
    disk: str  # id of a DiskWish
    type: str  # a name such as "linux" or "esp", a GUID (GPT), or two hexadecimal digits (MBR)
    size: Size = REST_SIZE
    label: str = ""  # GPT name; empty: the id
    number: int | None = None  # None: the next free one
    start: int | None = None  # bytes; None: behind the one before
    logical: bool = False  # of an MBR: inside the extended partition
    flags: frozenset[PartitionFlag] = frozenset()
    uuid: str = ""  # PARTUUID; empty: a new one
    preserve: Preserve = Preserve.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Raid:
    """An array of Linux md."""

    id: str
    level: RaidLevel
    devices: tuple[str, ...]  # ids of volumes
    spares: tuple[str, ...] = ()
    name: str = ""  # empty: the id
    metadata: str = "1.2"
    chunk: int | None = None  # bytes; None: mdadm's choice
    layout: str = ""  # such as n2 or f2 of RAID 10
    bitmap: bool | None = None  # a write-intent bitmap; None: mdadm's choice

    @property
    def array_name(self) -> str:
        """The name under /dev/md."""
        return self.name or self.id


def array_bytes(raid: Raid, members: Sequence[int]) -> int:
    """Return the bytes of an array of members of these sizes, if md kept nothing for itself."""
    count, least = len(members), min(members)
    match raid.level:
        case RaidLevel.RAID0:
            return sum(members)
        case RaidLevel.RAID1:
            return least
        case RaidLevel.RAID5:
            return least * max(count - 1, 0)
        case RaidLevel.RAID6:
            return least * max(count - 2, 0)
        case RaidLevel.RAID10:
            copies = raid.layout[1:]
            return least * count // (int(copies) if copies.isdecimal() else 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeGroup:
    """A volume group of LVM."""

    id: str
    devices: tuple[str, ...]  # ids of volumes, each of which becomes a physical volume
    name: str = ""  # empty: the id
    extent: int = 4 * MIB  # bytes

    @property
    def group_name(self) -> str:
        """The name that LVM knows it by."""
        return self.name or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalVolume:
    """A logical volume of LVM."""

    id: str
    group: str  # id of a VolumeGroup
    size: Size = REST_SIZE  # of a thin volume: its virtual size, which is exact
    kind: LvKind = LvKind.LINEAR
    name: str = ""  # empty: the id
    pool: str = ""  # of a thin volume: id of a LogicalVolume of kind thin-pool
    stripes: int | None = None
    stripe_size: int | None = None  # bytes
    mirrors: int | None = None  # copies beside the first, of kind raid1
    pool_metadata: int | None = None  # bytes, of a thin pool

    @property
    def volume_name(self) -> str:
        """The name that LVM knows it by."""
        return self.name or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Luks:
    """An encrypted volume (LUKS2)."""

    id: str
    device: str  # id of a volume
    key_file: str  # path on the machine that applies the layout
    name: str = ""  # under /dev/mapper; empty: the id
    cipher: str = ""  # empty: cryptsetup's choice
    key_bits: int | None = None
    pbkdf: str = ""
    sector: int | None = None  # bytes of an encryption sector
    crypttab_key: str = "none"  # third field of crypttab(5): a path in the system, or none: ask
    options: tuple[str, ...] = ()  # fourth field of crypttab(5)

    @property
    def mapping(self) -> str:
        """The name under /dev/mapper."""
        return self.name or self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Subvolume:
    """A subvolume of btrfs."""

    path: str  # from the top of the filesystem, such as @home
    mount: str = ""
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """A filesystem or swap area on a volume."""

    volume: str  # id of a partition, array, logical volume, LUKS volume, or disk without table
    type: FsType
    label: str = ""
    uuid: str = ""  # empty: a new one
    mkfs_options: tuple[str, ...] = ()  # words added to the mkfs command
    mount: str = ""  # absolute path in the system; empty: not mounted
    mount_options: tuple[str, ...] = ()
    subvolumes: tuple[Subvolume, ...] = ()
    preserve: Preserve = Preserve.NONE
    min_used: int = 0  # bytes that its content needs; a smaller volume is refused


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFile:
    """A swap area in a file."""

    path: str  # absolute path in the system
    size: int  # bytes
    priority: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that a layout says; it may contradict itself."""

    disks: tuple[DiskWish, ...] = ()
    partitions: tuple[Partition, ...] = ()
    raids: tuple[Raid, ...] = ()
    groups: tuple[VolumeGroup, ...] = ()
    logical_volumes: tuple[LogicalVolume, ...] = ()
    luks: tuple[Luks, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    swap_files: tuple[SwapFile, ...] = ()
    name: str = ""
    firmware: str = ""  # uefi, bios; empty: nothing is claimed

    @property
    def stacks(self) -> tuple[Raid | VolumeGroup | Luks, ...]:
        """What is built on other volumes."""
        found: list[Raid | VolumeGroup | Luks] = [*self.raids, *self.groups, *self.luks]
        return tuple(found)

    @property
    def used_disks(self) -> tuple[DiskWish, ...]:
        """The disks that are written; those that are never touched are not among them."""
        return tuple(disk for disk in self.disks if disk.role is not Role.NEVER_TOUCH)

    def partitions_of(self, disk: str) -> tuple[Partition, ...]:
        """Return the partitions of a disk."""
        return tuple(each for each in self.partitions if each.disk == disk)

    def filesystem_on(self, volume: str) -> Filesystem | None:
        """Return what stands on a volume, or None where it stays raw or is built upon."""
        return next((fs for fs in self.filesystems if fs.volume == volume), None)

    def below(self, volume: str) -> tuple[str, ...]:
        """Return the ids of the volumes that a volume stands on directly; none of a partition."""
        found = (
            *((raid.id, (*raid.devices, *raid.spares)) for raid in self.raids),
            *((group.id, group.devices) for group in self.groups),
            *((lv.id, (lv.group,)) for lv in self.logical_volumes),
            *((luks.id, (luks.device,)) for luks in self.luks),
        )
        return next((ids for name, ids in found if name == volume), ())

    def most_bytes(self, volume: str) -> int | None:
        """Return how large a volume can be at most, where the layout itself says so.

        Without what md and LVM keep for themselves; a volume below itself has no size.
        """
        return self._most(volume, frozenset())

    def _most(self, volume: str, above: frozenset[str]) -> int | None:
        stated = [each.size.largest for each in self.partitions if each.id == volume]
        stated += [each.size.largest for each in self.logical_volumes if each.id == volume]
        if stated or volume in above:
            return stated[0] if stated else None
        below = [self._most(each, above | {volume}) for each in self._members(volume)]
        sizes = [each for each in below if each is not None]
        if not sizes or len(sizes) < len(below):
            return None
        raid = next((each for each in self.raids if each.id == volume), None)
        return array_bytes(raid, sizes) if raid else max(sum(sizes) - LUKS_HEADER, 0)

    def _members(self, volume: str) -> tuple[str, ...]:
        """Return the ids of what an array or encrypted volume has its bytes from."""
        found = (
            *((raid.id, raid.devices) for raid in self.raids),
            *((luks.id, (luks.device,)) for luks in self.luks),
        )
        return next((ids for name, ids in found if name == volume), ())

    def disks_below(self, volume: str) -> frozenset[str]:
        """Return the ids of the disks that a volume stands on; a circle ends nowhere."""
        partitions = {part.id: part.disk for part in self.partitions}
        whole = {disk.id for disk in self.disks if disk.table is TableKind.NONE}
        seen: set[str] = set()
        disks: set[str] = set()
        waiting = [volume]
        while waiting:
            each = waiting.pop()
            if each in partitions:
                disks.add(partitions[each])
            elif each in whole:
                disks.add(each)
            elif each not in seen:
                seen.add(each)
                waiting += self.below(each)
        return frozenset(disks)


def mount_points(fs: Filesystem) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield mount point, subvolume ("" for the whole) and options of all mounts of a filesystem."""
    if fs.mount:
        yield fs.mount, "", fs.mount_options
    for each in fs.subvolumes:
        if each.mount:
            yield each.mount, each.path, each.mount_options
