"""What is there: a disk as it was seen, who uses it, and what stands on it. Values only, pure.

`disk/probe.py` makes these. They compare by value, so that a second look shows what changed.
"""

from dataclasses import dataclass
from enum import StrEnum

from nodectl.disk.model import DiskMatch


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
    type: str  # disk, loop
    size: int  # bytes
    logical_sector: int  # bytes
    physical_sector: int  # bytes
    serial: str
    wwn: str
    model: str
    vendor: str
    transport: str
    removable: bool
    backing_file: str  # of a loop device, else empty
    links: tuple[str, ...]  # /dev/disk/by-*/... that lead here, sorted
    nodes: tuple[str, ...]  # kernel names of its partitions as the kernel knows them now
    uses: tuple[Use, ...]
    contents: DiskContents | None = None  # None: not looked at yet


def is_match(disk: DiskFacts, wish: DiskMatch) -> bool:
    """Say whether `disk` is what `wish` describes; an empty wish describes no disk."""
    if wish.is_empty:
        return False
    named = {disk.path, *disk.links}
    pairs = (
        (wish.serial, disk.serial),
        (wish.wwn, disk.wwn),
        (wish.model, disk.model),
        (wish.vendor, disk.vendor),
        (wish.transport, disk.transport),
    )
    return (
        (not wish.path or wish.path in named)
        and all(not wanted or wanted == found for wanted, found in pairs)
        and all(condition.holds(disk.size) for condition in wish.size)
    )
