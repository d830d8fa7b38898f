"""What a plan consists of: small values, each one thing that will be done. Pure.

Steps that destroy data are a union of their own, so that they can be listed before anybody is
asked. `disk/commands.py` says which programs they run, `disk/apply.py` runs them.
"""

from dataclasses import dataclass

from nodectl.disk.kinds import FsType, LvKind, RaidLevel, TableKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A part of a disk, in bytes."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """The first byte behind it."""
        return self.start + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """A partition as its table holds it."""

    number: int
    path: str  # /dev/sda1, /dev/nvme0n1p1, /dev/loop0p1
    start: int  # bytes
    size: int  # bytes
    type: str  # GUID in capitals, or hexadecimal digits of an MBR
    uuid: str = ""  # in capitals; an MBR has none
    name: str = ""
    flags: tuple[str, ...] = ()  # as sfdisk names them, sorted; "bootable" of an MBR
    is_extended: bool = False


# ---- release what holds a disk: nothing on it changes --------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmount:
    """Unmount a filesystem of an old system."""

    device: str
    target: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"unmount {self.device} from {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSwap:
    """The kernel stops swapping to a device."""

    device: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"stop swapping to {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMapping:
    """Take down a device-mapper device: a logical volume, an opened LUKS volume, ..."""

    name: str
    what: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"take down {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopArray:
    """Stop an array of md."""

    device: str
    what: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"stop {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StopBcache:
    """Stop a bcache device."""

    name: str  # kernel name

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"stop {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachLoop:
    """Detach a loop device that stands on a disk or partition."""

    device: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"detach {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeactivateGroup:
    """Take down all logical volumes of a group that this plan made."""

    name: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"take down the volumes of {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetPartitions:
    """The kernel drops the partitions it knows of; nothing on the disk changes."""

    disk: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"drop the old partitions of {self.disk} from the kernel"


Release = (
    Unmount
    | StopSwap
    | RemoveMapping
    | StopArray
    | StopBcache
    | DetachLoop
    | DeactivateGroup
    | ForgetPartitions
)


# ---- destroy, then make ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscardBlocks:
    """Tell a disk that all its blocks are free."""

    device: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"discard {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WipeSignatures:
    """Zero parts of a device, then erase the magic numbers that are left."""

    device: str
    zeros: tuple[Region, ...] = ()  # empty: both ends of the device
    erase: bool = True  # False where the table stays, for a partition that is kept

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"wipe {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteTable:
    """Write a new partition table, marked as unfinished until `SealTable`."""

    disk: str
    table: TableKind
    uuid: str  # while it is unfinished
    sector: int  # bytes
    entries: tuple[TableEntry, ...]

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"partition {self.disk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowPartitions:
    """The kernel learns the new partitions; each gets its node under /dev."""

    disk: str
    entries: tuple[TableEntry, ...]
    is_map: bool = False  # of a multipath device: kpartx makes them

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"show the partitions of {self.disk}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateArray:
    """Make and start an array of md."""

    device: str  # /dev/md/name
    name: str
    uuid: str
    level: RaidLevel
    devices: tuple[str, ...]
    spares: tuple[str, ...]
    metadata: str
    chunk: int | None  # bytes
    layout: str
    bitmap: bool | None

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make {self.level} {self.device} of {', '.join(self.devices)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatePhysicalVolume:
    """Make a device a physical volume of LVM."""

    device: str
    uuid: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make {self.device} a physical volume"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroup:
    """Make a volume group."""

    name: str
    devices: tuple[str, ...]
    extent: int  # bytes

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make volume group {self.name} of {', '.join(self.devices)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateVolume:
    """Make a logical volume."""

    device: str  # /dev/group/name
    group: str
    name: str
    kind: LvKind
    extents: int | None  # None: all that are free
    virtual: int | None = None  # bytes, of a thin volume
    pool: str = ""
    stripes: int | None = None
    stripe_size: int | None = None  # bytes
    mirrors: int | None = None
    metadata: int | None = None  # bytes, of a thin pool

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make {self.kind} volume {self.group}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatLuks:
    """Make an encrypted volume."""

    device: str
    uuid: str
    key_file: str
    cipher: str
    key_bits: int | None
    pbkdf: str
    sector: int | None

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"encrypt {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLuks:
    """Open an encrypted volume; it appears as /dev/mapper/name."""

    device: str
    name: str
    key_file: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"open {self.device} as {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatFilesystem:
    """Make a filesystem."""

    device: str
    type: FsType
    uuid: str
    label: str
    options: tuple[str, ...]

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"format {self.device} as {self.type}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSwap:
    """Make a swap area."""

    device: str
    uuid: str
    label: str
    options: tuple[str, ...]

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"format {self.device} as swap"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSubvolumes:
    """Make subvolumes in a btrfs, parents first."""

    device: str
    paths: tuple[str, ...]

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make {len(self.paths)} subvolumes on {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealTable:
    """Give a table its final id: everything on this disk was made and read back."""

    disk: str
    table: TableKind
    uuid: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"mark {self.disk} as complete"


# ---- use it -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MountFilesystem:
    """Mount a filesystem beneath the private folder of the clone."""

    device: str
    path: str  # in the target system
    type: FsType
    options: tuple[str, ...]

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"mount {self.device} at {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeSwapFile:
    """Make a swap area in a file beneath the mounted root."""

    path: str  # in the target system
    size: int  # bytes
    uuid: str

    def describe(self) -> str:
        """Return the step in words for progress and errors."""
        return f"make swap file {self.path}"


Destructive = (
    DiscardBlocks
    | WipeSignatures
    | WriteTable
    | CreateArray
    | CreatePhysicalVolume
    | CreateGroup
    | CreateVolume
    | FormatLuks
    | FormatFilesystem
    | MakeSwap
)
Step = (
    Release
    | Destructive
    | ShowPartitions
    | OpenLuks
    | CreateSubvolumes
    | SealTable
    | MountFilesystem
    | MakeSwapFile
)
