"""What a disk layout is: disks to match, a table, partitions, filesystems and where they mount.

Pure. The written form (TOML) is `disk/text.py`; what a real disk looks like is `disk/facts.py`.
Sizes are bytes. A `Layout` that exists is consistent: `layout_mistakes` names everything that is
wrong with its parts, and the constructor refuses them.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SCHEMA = 1
ALIGNMENT = 1 << 20  # bytes; every partition begins and ends on a multiple of it

MAX_GPT_LABEL = 36  # characters, UEFI specification 2.10 section 5.3.3
MAX_PARTITIONS = 128  # what a GPT of the usual size holds


class TableKind(StrEnum):
    """A kind of partition table."""

    GPT = "gpt"


class FsType(StrEnum):
    """What a partition is formatted as."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"
    VFAT = "vfat"
    SWAP = "swap"


# Longest label in bytes: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkfs.vfat(8), mkswap(8).
LABEL_LIMITS = {
    FsType.EXT4: 16,
    FsType.XFS: 12,
    FsType.BTRFS: 255,
    FsType.VFAT: 11,
    FsType.SWAP: 15,
}

# Smallest size in bytes that mkfs accepts (xfsprogs 6: 300 MB, btrfs-progs 6: 109 MiB).
MIN_FS_BYTES = {
    FsType.EXT4: 8 << 20,
    FsType.XFS: 300 << 20,
    FsType.BTRFS: 110 << 20,
    FsType.VFAT: 33 << 20,
    FsType.SWAP: 1 << 20,
}

# Source: UAPI group, "Discoverable Partitions Specification", and the GNU GRUB manual.
PARTITION_TYPES = {
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "bios_grub": "21686148-6449-6E6F-744E-656564454649",
}

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:+-]*")
_MOUNT_OPTION = re.compile(r"[A-Za-z0-9_.:=/+@%-]+")
# An option of mkfs may not name a device: mkfs.btrfs would format it, mkfs.xfs would log to it.
_NAMES_DEVICE = re.compile(r"/|device=|logdev=|rtdev=|^(?:UUID|LABEL)=", re.IGNORECASE)


def type_guid(name: str) -> str | None:
    """Return the GPT type GUID for "linux", "esp", ... or for a GUID as such, in capitals."""
    if _GUID.fullmatch(name):
        return name.upper()
    return PARTITION_TYPES.get(name)


class Compare(StrEnum):
    """How a disk's size is compared with the one in the layout."""

    LESS = "<"
    AT_MOST = "<="
    EQUAL = "="
    AT_LEAST = ">="
    MORE = ">"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskMatch:
    """Which disk is meant: every field that is set must hold. None set: nothing matches."""

    path: str = ""  # /dev/sda or any link to it such as /dev/disk/by-id/...
    serial: str = ""
    wwn: str = ""
    model: str = ""
    vendor: str = ""
    transport: str = ""  # sata, nvme, sas, usb, ...
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
    table: TableKind = TableKind.GPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, in the order in which it stands on its disk."""

    id: str
    disk: str  # id of a DiskWish
    type: str  # "linux", "esp", "swap", "bios_grub" or a GUID
    size: int | None  # bytes, rounded up to whole MiB by the plan; None: what the others leave
    label: str = ""  # GPT name; empty: the id


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem:
    """A filesystem or swap area on a partition."""

    volume: str  # id of a Partition
    type: FsType
    label: str = ""
    mkfs_options: tuple[str, ...] = ()  # words added to the mkfs command
    mount: str = ""  # absolute path in the system; empty: not mounted
    mount_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong, at a field such as `partition[1].size`."""

    field: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one disk is partitioned and formatted (`schema` 1 has exactly one disk)."""

    disks: tuple[DiskWish, ...]
    partitions: tuple[Partition, ...]
    filesystems: tuple[Filesystem, ...]
    name: str = ""

    def __post_init__(self) -> None:
        """Refuse a layout that contradicts itself."""
        mistakes = layout_mistakes(self.disks, self.partitions, self.filesystems)
        if mistakes:
            raise ValueError("; ".join(f"{each.field}: {each.text}" for each in mistakes))

    def filesystem_on(self, partition: Partition) -> Filesystem | None:
        """Return what stands on `partition`, or None where it stays raw."""
        return next((fs for fs in self.filesystems if fs.volume == partition.id), None)


def default_layout() -> Layout:
    """Return the layout that is used when none is given: one ext4 root on the whole disk.

    It has no room for a boot loader (no ESP, no BIOS boot partition): the data is complete and
    mountable; a machine boots it by netboot or after a layout with those partitions was used.
    """
    return Layout(
        name="default",
        disks=(DiskWish(id="system"),),
        partitions=(Partition(id="root", disk="system", type="linux", size=None),),
        filesystems=(Filesystem(volume="root", type=FsType.EXT4, label="root", mount="/"),),
    )


def layout_mistakes(
    disks: Sequence[DiskWish], partitions: Sequence[Partition], filesystems: Sequence[Filesystem]
) -> tuple[Mistake, ...]:
    """Return everything in which the parts of a layout are wrong or contradict each other."""
    return (
        *_disk_mistakes(disks),
        *_partition_mistakes(disks, partitions),
        *_filesystem_mistakes(partitions, filesystems),
        *_mount_mistakes(filesystems),
    )


def _repeated(values: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield index and value of each value that stood before; empty ones do not count."""
    for index, value in enumerate(values):
        if value and value in values[:index]:
            yield index, value


def _disk_mistakes(disks: Sequence[DiskWish]) -> Iterator[Mistake]:
    if len(disks) != 1:
        yield Mistake(field="disk", text=f"one disk is needed, here are {len(disks)}")
    for index, disk in enumerate(disks):
        if not _ID.fullmatch(disk.id):
            yield Mistake(field=f"disk[{index}].id", text=_bad_id(disk.id))


def _bad_id(text: str) -> str:
    return f"{text!r} is no usable id (a letter, then up to 31 letters, digits, '_' or '-')"


def _partition_mistakes(
    disks: Sequence[DiskWish], partitions: Sequence[Partition]
) -> Iterator[Mistake]:
    if not 0 < len(partitions) <= MAX_PARTITIONS:
        yield Mistake(
            field="partition", text=f"1 to {MAX_PARTITIONS} are needed, here are {len(partitions)}"
        )
    for index, value in _repeated([each.id for each in partitions]):
        yield Mistake(field=f"partition[{index}].id", text=f"{value!r} is used twice")
    for index, value in _repeated([each.label or each.id for each in partitions]):
        yield Mistake(field=f"partition[{index}].label", text=f"{value!r} is used twice")
    rests = [index for index, each in enumerate(partitions) if each.size is None]
    for index in rests[1:]:
        first = partitions[rests[0]].id
        yield Mistake(
            field=f"partition[{index}].size", text=f'"rest" is already taken by {first!r}'
        )
    known = {disk.id for disk in disks}
    for index, partition in enumerate(partitions):
        for name, text in _one_partition(partition, known):
            yield Mistake(field=f"partition[{index}].{name}", text=text)


def _one_partition(partition: Partition, disks: set[str]) -> Iterator[tuple[str, str]]:
    if not _ID.fullmatch(partition.id):
        yield "id", _bad_id(partition.id)
    if partition.disk not in disks:
        yield "disk", f"no disk has the id {partition.disk!r}"
    if type_guid(partition.type) is None:
        yield "type", f"{partition.type!r} is neither a GUID nor one of {_words(PARTITION_TYPES)}"
    if partition.size is not None and partition.size <= 0:
        yield "size", "a size is more than 0"
    if partition.label and not (
        _LABEL.fullmatch(partition.label) and len(partition.label) <= MAX_GPT_LABEL
    ):
        yield "label", f"{partition.label!r} is no usable label of at most {MAX_GPT_LABEL} letters"


def _words(values: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(values)


def _filesystem_mistakes(
    partitions: Sequence[Partition], filesystems: Sequence[Filesystem]
) -> Iterator[Mistake]:
    known = {each.id: each for each in partitions}
    for index, value in _repeated([each.volume for each in filesystems]):
        yield Mistake(field=f"filesystem[{index}].volume", text=f"{value!r} is formatted twice")
    for index, value in _repeated([each.label for each in filesystems]):
        yield Mistake(field=f"filesystem[{index}].label", text=f"{value!r} is used twice")
    for index, filesystem in enumerate(filesystems):
        partition = known.get(filesystem.volume)
        place = f"filesystem[{index}]"
        if partition is None:
            text = f"no partition has the id {filesystem.volume!r}"
            yield Mistake(field=f"{place}.volume", text=text)
        elif partition.size is not None and partition.size < MIN_FS_BYTES[filesystem.type]:
            least = MIN_FS_BYTES[filesystem.type] >> 20
            text = f"{filesystem.type} needs {least} MiB, partition {partition.id!r} is smaller"
            yield Mistake(field=f"{place}.volume", text=text)
        for name, text in _one_filesystem(filesystem):
            yield Mistake(field=f"{place}.{name}", text=text)


def _one_filesystem(filesystem: Filesystem) -> Iterator[tuple[str, str]]:
    limit = LABEL_LIMITS[filesystem.type]
    if filesystem.label and not (
        _LABEL.fullmatch(filesystem.label) and len(filesystem.label) <= limit
    ):
        yield (
            "label",
            f"{filesystem.label!r} is no usable {filesystem.type} label (at most {limit} letters)",
        )
    for option in filesystem.mkfs_options:
        if not option.isprintable() or not option or _NAMES_DEVICE.search(option):
            yield "mkfs_options", f"{option!r} is refused: an option may not name a path or device"
    for option in filesystem.mount_options:
        if not _MOUNT_OPTION.fullmatch(option):
            yield "mount_options", f"{option!r} is no mount option (one for each list entry)"


def _mount_mistakes(filesystems: Sequence[Filesystem]) -> Iterator[Mistake]:
    mounts = [each.mount for each in filesystems]
    for index, value in _repeated(mounts):
        yield Mistake(field=f"filesystem[{index}].mount", text=f"{value!r} is mounted twice")
    if "/" not in mounts:
        yield Mistake(field="filesystem", text='none has mount = "/"')
    for index, filesystem in enumerate(filesystems):
        text = _mount_mistake(filesystem)
        if text:
            yield Mistake(field=f"filesystem[{index}].mount", text=text)


def _mount_mistake(filesystem: Filesystem) -> str:
    path = filesystem.mount
    if filesystem.type is FsType.SWAP:
        return "swap has no mount point" if path else ""
    if not path or path == "/":
        return ""
    parts = path.split("/")[1:]
    if not path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        return f"{path!r} is no plain absolute path (such as /var/lib)"
    if not path.isprintable() or any(letter in path for letter in ' "\\#'):
        return f"{path!r} has a letter that fstab cannot carry"
    return ""
