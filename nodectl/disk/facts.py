"""What is there: disks as they were seen, who uses them, and what is built on them. Values, pure.

`disk/probe.py` and `disk/probe_stack.py` make these. They compare by value, so that a second look
shows what changed.
"""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from nodectl.disk.volumes import DiskMatch


class UseKind(StrEnum):
    """Why a disk may not be written."""

    SYSTEM = "system"  # the running system stands on it
    MOUNT = "mount"
    SWAP = "swap"
    HOLDER = "holder"  # LVM, md, dm-crypt, bcache, multipath
    CLAIMED = "claimed"  # somebody else has it open exclusively; nobody says who
    READ_ONLY = "read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One thing that holds a disk or a part of it."""

    kind: UseKind
    device: str  # /dev/sda2
    detail: str  # mount point, holder's name, ...

    def words(self) -> str:
        """Return the clause for a sentence: "/dev/sda2 is mounted at /home"."""
        match self.kind:
            case UseKind.SYSTEM:
                return f"{self.device} carries {self.detail} of the running system"
            case UseKind.MOUNT:
                return f"{self.device} is mounted at {self.detail}"
            case UseKind.SWAP:
                return f"{self.device} is in use as swap"
            case UseKind.HOLDER:
                return f"{self.device} is part of {self.detail}"
            case UseKind.CLAIMED:
                return f"{self.device} is held by another program or part of the kernel"
            case UseKind.READ_ONLY:
                return f"{self.device} is read-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A magic number that says what a device holds."""

    type: str  # ext4, swap, LVM2_member, gpt, PMBR, ...
    uuid: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionFacts:
    """An entry of a partition table."""

    number: int
    path: str
    start: int  # bytes from the start of the disk
    size: int  # bytes
    type: str  # GUID in capitals, or two hexadecimal digits of an MBR
    uuid: str
    label: str
    signatures: tuple[Signature, ...]
    flags: tuple[str, ...] = ()  # as sfdisk names them; "bootable" of an MBR


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskContents:
    """What stands on a disk."""

    signatures: tuple[Signature, ...]  # of the disk as a whole
    table: str  # gpt, dos, ... or empty
    table_uuid: str
    partitions: tuple[PartitionFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFacts:
    """One whole disk or attached loop device."""

    path: str  # /dev/<kernel name>
    name: str  # kernel name; differs from path in cciss!c0d0
    device: str  # "major:minor"
    sequence: int  # grows whenever the kernel meets a disk; 0 before Linux 5.15
    type: str  # disk, loop, mpath
    size: int  # bytes
    logical_sector: int  # bytes
    physical_sector: int  # bytes
    serial: str
    wwn: str
    model: str
    vendor: str
    transport: str
    removable: bool
    rotational: bool | None = None  # None: nobody says
    hctl: str = ""
    backing_file: str = ""  # of a loop device, else empty
    links: tuple[str, ...] = ()  # /dev/disk/by-*/... that lead here, sorted
    nodes: tuple[str, ...] = ()  # kernel names of its partitions as the kernel knows them now
    uses: tuple[Use, ...] = ()
    map: str = ""  # of a path of a multipath device: the device's path
    contents: DiskContents | None = None  # None: not looked at yet


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockNode:
    """A block device as sysfs shows it."""

    name: str  # kernel name
    device: str  # "major:minor"
    parent: str = ""  # of a partition: its disk
    holders: tuple[str, ...] = ()  # kernel names of what is built on it
    words: str = ""  # for people: "vg0-root (LVM)"
    sequence: int = 0
    backing_file: str = ""
    serial: str = ""
    dm_name: str = ""
    dm_uuid: str = ""  # such as LVM-..., CRYPT-LUKS2-..., mpath-..., part1-mpath-...
    md_level: str = ""  # "inactive" for an array that does not run

    @property
    def path(self) -> str:
        """Its node; the kernel writes "!" where the node's name has "/"."""
        if self.dm_name:
            return f"/dev/mapper/{self.dm_name}"
        return "/dev/" + self.name.replace("!", "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class MountEntry:
    """A line of mountinfo."""

    device: str  # "major:minor"; major 0 for btrfs and what has no device
    target: str
    source: str
    type: str = ""
    root: str = "/"  # what of the filesystem is mounted; of btrfs a subvolume
    options: tuple[str, ...] = ()  # of the mount, then of the filesystem


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFacts:
    """What stands on a partition, array, logical or encrypted volume."""

    path: str
    size: int  # bytes
    signatures: tuple[Signature, ...] = ()
    subvolumes: tuple[str, ...] | None = None  # of a mounted btrfs; None: nobody looked
    used: int | None = None  # bytes of a mounted filesystem, as df counts; None: it is not mounted


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayFacts:
    """A running array of md."""

    path: str  # /dev/md127
    name: str  # without the host's name
    level: str
    metadata: str
    uuid: str
    devices: tuple[str, ...]  # paths, by role
    spares: tuple[str, ...] = ()
    missing: int = 0  # how many members it has lost
    chunk: int = 0  # bytes
    layout: str = ""
    bitmap: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LvFacts:
    """A logical volume."""

    name: str
    path: str
    size: int  # bytes
    kind: str  # segment type: linear, striped, raid1, thin-pool, thin, ...
    uuid: str = ""
    pool: str = ""
    stripes: int = 1
    stripe_size: int = 0  # bytes
    metadata_size: int = 0  # bytes, of a thin pool
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """A volume group."""

    name: str
    uuid: str
    extent: int  # bytes
    devices: tuple[str, ...]  # paths of its physical volumes; "[unknown]" for one that is missing
    free: int = 0  # bytes
    volumes: tuple[LvFacts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CryptFacts:
    """An opened LUKS volume."""

    mapping: str
    path: str
    device: str
    uuid: str
    version: int
    cipher: str = ""
    key_bits: int = 0
    pbkdf: str = ""
    sector: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """Everything that was seen."""

    disks: tuple[DiskFacts, ...]
    blocks: tuple[BlockNode, ...] = ()
    mounts: tuple[MountEntry, ...] = ()
    swaps: tuple[str, ...] = ()
    firmware: str = ""  # uefi, bios
    arrays: tuple[ArrayFacts, ...] = ()
    groups: tuple[GroupFacts, ...] = ()
    crypts: tuple[CryptFacts, ...] = ()
    volumes: tuple[VolumeFacts, ...] = ()

    def volume_at(self, path: str) -> VolumeFacts | None:
        """Return what is known of the device at `path`."""
        return next((each for each in self.volumes if each.path == path), None)


def is_match(disk: DiskFacts, wish: DiskMatch) -> bool:
    """Say whether `disk` is what `wish` describes; an empty wish describes no disk."""
    if wish.is_empty:
        return False
    texts = (
        (wish.serial, disk.serial),
        (wish.wwn, disk.wwn),
        (wish.model, disk.model),
        (wish.vendor, disk.vendor),
        (wish.transport, disk.transport),
        (wish.hctl, disk.hctl),
    )
    values = (
        (wish.rotational, disk.rotational),
        (wish.removable, disk.removable),
        (wish.sector, disk.logical_sector),
    )
    return (
        (not wish.path or any(_fits(each, wish.path) for each in (disk.path, *disk.links)))
        and all(not wanted or _fits(found, wanted) for wanted, found in texts)
        and all(wanted is None or wanted == found for wanted, found in values)
        and all(condition.holds(disk.size) for condition in wish.size)
    )


def _fits(found: str, wanted: str) -> bool:
    """Compare texts; "*" and "?" of `wanted` stand for any letters."""
    return found == wanted or fnmatchcase(found, wanted.replace("[", "[[]"))
