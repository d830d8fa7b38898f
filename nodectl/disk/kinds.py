"""The closed sets of a layout, and what is known of each member: types, limits, smallest sizes.

Pure. Sources are named where the figures stand.
"""

import re
from enum import StrEnum

from nodectl.units import KIB, MIB


class Role(StrEnum):
    """What a disk is for."""

    SYSTEM = "system"  # carries what the system boots from or mounts at /, /usr, /boot
    DATA = "data"  # carries none of it
    NEVER_TOUCH = "never_touch"  # is not written, whatever else the layout says


class TableKind(StrEnum):
    """A kind of partition table."""

    GPT = "gpt"
    MBR = "mbr"
    NONE = "none"  # the disk as a whole is the volume


class Preserve(StrEnum):
    """Whether what stands there is kept."""

    NONE = "none"
    KEEP = "keep"  # it must be there
    IF_THERE = "if_there"  # it is made where it is not


class FsType(StrEnum):
    """What a volume is formatted as."""

    EXT2 = "ext2"
    EXT3 = "ext3"
    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"
    VFAT = "vfat"
    SWAP = "swap"


EXT_TYPES = (FsType.EXT2, FsType.EXT3, FsType.EXT4)

# Longest label in bytes: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkfs.vfat(8), mkswap(8).
LABEL_LIMITS = {
    FsType.EXT2: 16,
    FsType.EXT3: 16,
    FsType.EXT4: 16,
    FsType.XFS: 12,
    FsType.BTRFS: 255,
    FsType.VFAT: 11,
    FsType.SWAP: 15,
}

# Smallest size in bytes that mkfs accepts (xfsprogs 6: 300 MB, btrfs-progs 6: 109 MiB).
MIN_FS_BYTES = {
    FsType.EXT2: MIB,
    FsType.EXT3: 8 * MIB,
    FsType.EXT4: 8 * MIB,
    FsType.XFS: 300 * MIB,
    FsType.BTRFS: 110 * MIB,
    FsType.VFAT: 33 * MIB,  # FAT32 needs 65,525 clusters: Microsoft, "FAT: General Overview"
    FsType.SWAP: MIB,
}
MIN_VFAT_4K_BYTES = 260 * MIB  # the same number of clusters of 4096 bytes


def min_fs_bytes(kind: FsType, sector: int) -> int:
    """Return the smallest volume for a filesystem, on disks with this logical sector."""
    return MIN_VFAT_4K_BYTES if kind is FsType.VFAT and sector > 512 else MIN_FS_BYTES[kind]  # noqa: PLR2004 - bytes


class RaidLevel(StrEnum):
    """A level of Linux md."""

    RAID0 = "raid0"
    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"


MIN_MEMBERS = {
    RaidLevel.RAID0: 2,
    RaidLevel.RAID1: 2,
    RaidLevel.RAID5: 3,
    RaidLevel.RAID6: 4,
    RaidLevel.RAID10: 2,
}
RAID_METADATA = ("0.90", "1.0", "1.1", "1.2")
# Where the superblock stands at the end, firmware and boot loaders see a plain filesystem: md(4).
METADATA_AT_END = ("0.90", "1.0")
RAID_LAYOUT = re.compile(r"[nof][2-9]|(?:left|right)-(?:a?symmetric)")


class LvKind(StrEnum):
    """A kind of logical volume."""

    LINEAR = "linear"
    STRIPED = "striped"
    RAID1 = "raid1"
    THIN_POOL = "thin-pool"
    THIN = "thin"


class PartitionFlag(StrEnum):
    """A flag of a partition table entry."""

    ACTIVE = "active"  # MBR: the one that the BIOS code boots
    LEGACY_BOOT = "legacy_boot"  # GPT bit 2
    REQUIRED = "required"  # GPT bit 0
    NO_BLOCK_IO = "no_block_io"  # GPT bit 1
    GROW_FS = "grow_fs"  # bits 59, 60 and 63 of the Discoverable Partitions Specification
    READ_ONLY = "read_only"
    NO_AUTO = "no_auto"


# How sfdisk(8) writes them ("attrs" in a script).
GPT_ATTRIBUTES = {
    PartitionFlag.REQUIRED: "RequiredPartition",
    PartitionFlag.NO_BLOCK_IO: "NoBlockIOProtocol",
    PartitionFlag.LEGACY_BOOT: "LegacyBIOSBootable",
    PartitionFlag.GROW_FS: "GUID:59",
    PartitionFlag.READ_ONLY: "GUID:60",
    PartitionFlag.NO_AUTO: "GUID:63",
}

# Source: UAPI group, "Discoverable Partitions Specification", and the GNU GRUB manual.
GPT_TYPES = {
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "swap": "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F",
    "bios_grub": "21686148-6449-6E6F-744E-656564454649",
    "raid": "A19D880F-05FC-4D3B-A006-743F0F84911E",
    "lvm": "E6D6D379-F507-44C2-A23C-238F2A3DF928",
    "luks": "CA7D7CCB-63ED-4C53-861C-1742536059CC",
    "home": "933AC7E1-2EB4-4F13-B844-0E14E2AEF915",
    "srv": "3B8F8425-20E0-4F3B-907F-1A25A76F98E8",
    "boot": "BC13C2FF-59E6-4262-A352-B275FD6F7172",
    "prep": "9E1A2D38-C612-4316-AA26-8B49521E5A8B",
    "root_x86_64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "root_arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    "msdata": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
}

# Source: "Partition types", Andries Brouwer; sfdisk --list-types.
MBR_TYPES = {
    "linux": "83",
    "esp": "ef",
    "swap": "82",
    "raid": "fd",
    "lvm": "8e",
    "luks": "e8",
    "prep": "41",
    "msdata": "7",
}
MBR_EXTENDED = "5"
MBR_EXTENDED_TYPES = ("5", "f", "85")
MBR_PRIMARIES = 4
MBR_SECTORS = 1 << 32  # starts and sizes are 32-bit counts of them
MAX_GPT_LABEL = 36  # characters, UEFI specification 2.10 section 5.3.3
MAX_PARTITIONS = 128  # what a GPT of the usual size holds

LUKS_HEADER = 16 * MIB  # cryptsetup's default for LUKS2

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_BYTE = re.compile(r"[0-9A-Fa-f]{1,2}")
MIN_ALIGNMENT = 4 * KIB


def is_guid(text: str) -> bool:
    """Say whether `text` is a UUID in its usual form."""
    return _GUID.fullmatch(text) is not None


def type_code(name: str, table: TableKind) -> str | None:
    """Return what a partition table holds for a type: a GUID in capitals, or hexadecimal digits."""
    if table is TableKind.MBR:
        if _BYTE.fullmatch(name):
            return f"{int(name, 16):x}"
        return MBR_TYPES.get(name)
    return name.upper() if is_guid(name) else GPT_TYPES.get(name)


def type_name(code: str, table: TableKind) -> str:
    """Return the name of a type for a layout, or the code where it has none."""
    known = MBR_TYPES if table is TableKind.MBR else GPT_TYPES
    wanted = code.lower() if table is TableKind.MBR else code.upper()
    return next((name for name, value in known.items() if value == wanted), code)
