"""Every field of a layout file: how it is called, what it takes, what it means. Values only, pure.

The reader and the writer (`disk/text.py`), the schema for editors (`disk/schema.py`) and the table
in docs/disk-layouts.md all follow this one list.
"""

from dataclasses import dataclass, field
from enum import Enum, StrEnum

from nodectl.disk.kinds import FsType, LvKind, PartitionFlag, Preserve, RaidLevel, Role, TableKind
from nodectl.disk.volumes import (
    DiskMatch,
    DiskWish,
    Filesystem,
    LogicalVolume,
    Luks,
    Partition,
    Raid,
    Subvolume,
    SwapFile,
    VolumeGroup,
)

SCHEMA = 2  # what is written; 1 is still read


class Form(Enum):
    """What a field takes."""

    TEXT = "a text"
    TEXTS = "a list of texts"
    BYTES = 'a size such as "1MiB"'
    SIZE = 'a size such as "20GiB", "30%" or "rest"'
    NUMBER = "a whole number"
    FLAG = "true or false"
    CHOICE = "one of the words"
    CHOICES = "a list of the words"
    CONDITIONS = 'a condition such as ">= 100GiB", or a list of them'
    TABLE = "a table"
    TABLES = "a list of tables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a table."""

    key: str
    form: Form
    words: str
    needed: bool = False
    choices: type[StrEnum] | None = None
    table: "Table | None" = None  # of the forms TABLE and TABLES
    since: int = 2  # the first schema that has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One kind of table: `[[key]]` in the file, `Parts.attribute` in the model."""

    key: str
    attribute: str
    kind: type
    words: str
    fields: tuple[Field, ...] = field(default=())
    since: int = 2


def _text(key: str, words: str, *, needed: bool = False, since: int = 2) -> Field:
    return Field(key=key, form=Form.TEXT, words=words, needed=needed, since=since)


def _of(key: str, form: Form, words: str, *, needed: bool = False, since: int = 2) -> Field:
    return Field(key=key, form=form, words=words, needed=needed, since=since)


def _choice(key: str, choices: type[StrEnum], words: str, *, since: int = 2) -> Field:
    return Field(key=key, form=Form.CHOICE, words=words, choices=choices, since=since)


_ID = _text("id", "Its name in this file; letters, digits, _ and -.", needed=True, since=1)
_MOUNT = _text("mount", "Where it is mounted in the system.", since=1)
_MOUNT_OPTIONS = _of("mount_options", Form.TEXTS, "Options of mount, one for each entry.", since=1)

MATCH = Table(
    key="match",
    attribute="match",
    kind=DiskMatch,
    words="What must hold for a disk; * and ? stand for any letters.",
    since=1,
    fields=(
        _text("path", "/dev/... or any link under /dev/disk, such as by-path.", since=1),
        _text("serial", "Serial number, as lsblk shows it.", since=1),
        _text("wwn", "World-wide name.", since=1),
        _text("model", "Model.", since=1),
        _text("vendor", "Vendor.", since=1),
        _text("transport", "nvme, sata, sas, usb, virtio, mmc, ...", since=1),
        _text("hctl", 'SCSI address; "*:0:0:0", since the host\'s number changes.'),
        _of("rotational", Form.FLAG, "Whether it is a spinning disk."),
        _of("removable", Form.FLAG, "Whether its medium can be taken out."),
        _of("sector", Form.NUMBER, "Bytes of its logical sector."),
        _of("size", Form.CONDITIONS, "Its size: <, <=, =, >=, >, != and a size.", since=1),
    ),
)

DISK = Table(
    key="disk",
    attribute="disks",
    kind=DiskWish,
    words="A disk of the machine.",
    since=1,
    fields=(
        _ID,
        Field(key="match", form=Form.TABLE, words=MATCH.words, table=MATCH, since=1),
        _choice("role", Role, "never_touch: no disk that matches is ever written."),
        _choice("table", TableKind, "Partition table; none: the disk itself is a volume.", since=1),
        _of("alignment", Form.BYTES, "Partitions begin and end on multiples of it (1MiB)."),
        _of("sector", Form.NUMBER, "The logical sector that the layout was made for."),
        _of("discard", Form.FLAG, "Discard all blocks before anything is written."),
    ),
)

PARTITION = Table(
    key="partition",
    attribute="partitions",
    kind=Partition,
    words="A partition, in the order in which it stands on its disk.",
    since=1,
    fields=(
        _ID,
        _text("disk", "The id of its disk.", needed=True, since=1),
        _text("type", "linux, esp, swap, ..., a GUID, or two hexadecimal digits.", needed=True,
              since=1),
        _of("size", Form.SIZE, "How large it is.", needed=True, since=1),
        _text("label", "Its name in the GPT; without it, the id.", since=1),
        _of("number", Form.NUMBER, "Its number; without it, the next free one."),
        _of("start", Form.BYTES, "Where it begins; without it, behind the one before."),
        _of("logical", Form.FLAG, "In the extended partition of an MBR."),
        Field(key="flags", form=Form.CHOICES, words="Flags of the table's entry.",
              choices=PartitionFlag),
        _text("uuid", "PARTUUID; without it, a new one."),
        _choice("preserve", Preserve, "keep: it is there and stays; if_there: else it is made."),
    ),
)  # fmt: skip

RAID = Table(
    key="raid",
    attribute="raids",
    kind=Raid,
    words="An array of Linux md.",
    fields=(
        _ID,
        Field(key="level", form=Form.CHOICE, words="RAID level.", choices=RaidLevel, needed=True),
        _of("devices", Form.TEXTS, "The ids of its members.", needed=True),
        _of("spares", Form.TEXTS, "The ids of its spares."),
        _text("name", "Its name under /dev/md; without it, the id."),
        _text("metadata", "1.2; 1.0 for what firmware or a boot loader must read."),
        _of("chunk", Form.BYTES, "Bytes on one member before the next."),
        _text("layout", "Such as n2 or f2 (RAID 10), left-symmetric (RAID 5, 6)."),
        _of("bitmap", Form.FLAG, "A write-intent bitmap."),
    ),
)

VOLUME_GROUP = Table(
    key="volume_group",
    attribute="groups",
    kind=VolumeGroup,
    words="A volume group of LVM; its devices become physical volumes.",
    fields=(
        _ID,
        _of("devices", Form.TEXTS, "The ids of what it stands on.", needed=True),
        _text("name", "Its name for LVM; without it, the id."),
        _of("extent", Form.BYTES, "Extent size (4MiB)."),
    ),
)

LOGICAL_VOLUME = Table(
    key="logical_volume",
    attribute="logical_volumes",
    kind=LogicalVolume,
    words="A logical volume, a thin pool, or a thin volume in one.",
    fields=(
        _ID,
        _text("group", "The id of its volume group.", needed=True),
        _of("size", Form.SIZE, "How large it is, of a thin volume virtually.", needed=True),
        _choice("kind", LvKind, "What it is."),
        _text("name", "Its name for LVM; without it, the id."),
        _text("pool", "Of a thin volume: the id of its thin pool."),
        _of("stripes", Form.NUMBER, "Over how many devices it is striped."),
        _of("stripe_size", Form.BYTES, "Bytes on one device before the next."),
        _of("mirrors", Form.NUMBER, "Of kind raid1: copies beside the first (1)."),
        _of("pool_metadata", Form.BYTES, "Of a thin pool: room for its metadata."),
    ),
)

LUKS = Table(
    key="luks",
    attribute="luks",
    kind=Luks,
    words="An encrypted volume (LUKS2).",
    fields=(
        _ID,
        _text("device", "The id of what it stands on.", needed=True),
        _text("key_file", "The key's file on the machine that applies.", needed=True),
        _text("name", "Its name under /dev/mapper; without it, the id."),
        _text("cipher", "Such as aes-xts-plain64."),
        _of("key_bits", Form.NUMBER, "Bits of the volume's key."),
        _text("pbkdf", "argon2id, argon2i or pbkdf2."),
        _of("sector", Form.NUMBER, "Bytes of an encryption sector."),
        _text("crypttab_key", "Key in crypttab: a path in the system, or none (ask)."),
        _of("options", Form.TEXTS, "Options in crypttab, one for each entry."),
    ),
)

SUBVOLUME = Table(
    key="subvolumes",
    attribute="subvolumes",
    kind=Subvolume,
    words="Subvolumes of btrfs.",
    fields=(_text("path", "Such as @home.", needed=True), _MOUNT, _MOUNT_OPTIONS),
)

FILESYSTEM = Table(
    key="filesystem",
    attribute="filesystems",
    kind=Filesystem,
    words="A filesystem or swap area on a volume.",
    since=1,
    fields=(
        _text("volume", "The id of what it stands on.", needed=True, since=1),
        Field(key="type", form=Form.CHOICE, words="What it is formatted as.", choices=FsType,
              needed=True, since=1),
        _text("label", "Its label.", since=1),
        _text("uuid", "Its UUID; without it, a new one."),
        _of("mkfs_options", Form.TEXTS, "Words added to the mkfs command.", since=1),
        _MOUNT,
        _MOUNT_OPTIONS,
        Field(key="subvolumes", form=Form.TABLES, words=SUBVOLUME.words, table=SUBVOLUME),
        _choice("preserve", Preserve, "keep: it is there and stays; if_there: else it is made."),
        _of("min_used", Form.BYTES, "What its content needs; less room is refused."),
    ),
)  # fmt: skip

SWAP_FILE = Table(
    key="swap_file",
    attribute="swap_files",
    kind=SwapFile,
    words="A swap area in a file.",
    fields=(
        _text("path", "Its path in the system.", needed=True),
        _of("size", Form.BYTES, "How large it is.", needed=True),
        _of("priority", Form.NUMBER, "The higher, the earlier it is used."),
    ),
)

TABLES = (
    DISK, PARTITION, RAID, VOLUME_GROUP, LOGICAL_VOLUME, LUKS, FILESYSTEM, SWAP_FILE,
)  # fmt: skip
HEAD = (
    _of("schema", Form.NUMBER, "The version of this language.", needed=True, since=1),
    _text("name", "The layout's name.", since=1),
    _text("firmware", "uefi or bios: what the machine must boot with."),
)
