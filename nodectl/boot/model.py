"""What booting is about: firmware, the places on disks that it starts from, and its own entries.

Pure. What an image can boot with is `boot/tree.py`; what is to be done, `boot/plan.py`; the entries
in the firmware's memory, `boot/entries.py`.
"""

from dataclasses import dataclass
from enum import StrEnum

FALLBACK_FOLDER = "EFI/BOOT"
# Source: UEFI specification 2.10, table 3.2: what firmware of x86-64, the one that is known here,
# starts where no entry leads on.
FALLBACK_LOADER = "BOOTX64.EFI"


class Firmware(StrEnum):
    """What starts a machine."""

    UEFI = "uefi"
    BIOS = "bios"


class Loader(StrEnum):
    """What the firmware starts."""

    SHIM_GRUB = "shim and GRUB"  # signed; works with Secure Boot on and off
    GRUB = "GRUB"
    SYSTEMD_BOOT = "systemd-boot"


class Family(StrEnum):
    """How a distribution keeps its kernels."""

    DEBIAN = "Debian"  # update-initramfs, update-grub, grub-install
    RHEL = "RHEL"  # dracut, BLS entries, grub2-*; a signed loader on the ESP


class BootOrder(StrEnum):
    """Whether the network or the disk comes first in the firmware's list."""

    PXE_FIRST = "pxe-first"
    DISK_FIRST = "disk-first"
    LEAVE = "leave"  # network entries stay where they are


@dataclass(frozen=True, slots=True, kw_only=True)
class Esp:
    """An EFI system partition."""

    disk: str  # /dev/sda
    number: int
    partuuid: str  # lower case
    uuid: str  # of its vfat, as blkid writes it
    mount: str  # in the target system, such as /boot/efi


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPlace:
    """Where a system stands, as far as booting it is concerned."""

    esps: tuple[Esp, ...]  # the first is the one that is mounted in the system
    bios_disks: tuple[str, ...]  # disks with room for GRUB's core image; all of a mirror
    root_uuid: str
    root_subvolume: str = ""  # of btrfs, from its top; empty: the filesystem itself is the root
    boot_uuid: str  # of the filesystem that holds /boot; often root_uuid
    boot_is_separate: bool
    stack: frozenset[str]  # of "md", "lvm", "luks": what the root stands on
    swap_uuid: str  # for resume; empty: none
    drivers: frozenset[str]  # kernel modules of the controllers of the root's disks

    @property
    def esp_mounts(self) -> tuple[str, ...]:
        """Where ESPs are mounted; both halves of a mirrored one are the same place."""
        return tuple(dict.fromkeys(esp.mount for esp in self.esps))

    @property
    def firmwares(self) -> frozenset[Firmware]:
        """What the layout has room for a loader of."""
        uefi = {Firmware.UEFI} if self.esps else set()
        return frozenset(uefi | ({Firmware.BIOS} if self.bios_disks else set()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFacts:
    """What a tree has for booting, known by the names of its files alone."""

    family: Family | None
    kernels: tuple[str, ...]  # versions, sorted
    initramfs: frozenset[str]  # versions that have one
    modules: frozenset[str]  # versions whose modules are there
    programs: frozenset[str]  # of the ones that matter here: grub-install, update-grub, ...
    grub_platforms: frozenset[str]  # x86_64-efi, i386-pc, ...
    has_signed_shim: bool
    has_signed_grub: bool
    has_systemd_boot: bool
    esp_vendors: tuple[str, ...]  # folders of ESP/EFI with a shim: fedora, redhat, ...
    missing_folders: tuple[str, ...]  # of those that a running system cannot be without
