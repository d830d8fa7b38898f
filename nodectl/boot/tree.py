"""What an image has for booting, by the names of its files, and what it lacks. Pure.

Sources: Debian's grub-efi-amd64-signed and shim-signed (where the signed files lie), the Boot
Loader Specification of the UAPI group, kernel-install(8), dracut(8).
"""

import re
from collections.abc import Iterable

from nodectl.boot.model import BootPlace, Family, Firmware, Loader, TreeFacts

_PROGRAMS = (
    "grub-install", "update-grub", "grub-mkconfig", "update-initramfs",
    "grub2-install", "grub2-mkconfig", "dracut", "grubby",
)  # fmt: skip
_BIN = re.compile(rf"(?:usr/)?s?bin/({'|'.join(_PROGRAMS)})")
_KERNEL = re.compile(r"boot/vmlinu[xz]-(.+)")
_INITRAMFS = re.compile(r"boot/(?:initrd\.img-(.+)|initramfs-(.+)\.img)")
_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)/modules\.dep")
_IN_MODULES = re.compile(r"(?:usr/)?lib/modules/([^/]+)/vmlinuz")
_PLATFORM = re.compile(r"usr/lib/grub/([a-z0-9_]+-(?:efi|pc))/kernel\.(?:img|exec)")
_VENDOR = re.compile(r"boot/efi/EFI/([^/]+)/shim(?:x64|aa64)\.efi")
_FOLDERS = ("dev", "proc", "sys", "run", "tmp", "etc")
_RESCUE = "0-rescue-"  # RHEL's rescue kernel: its name carries the machine-id of the golden node


def tree_facts(paths: Iterable[str]) -> TreeFacts:
    """Return what `paths` (relative, without leading "/") tell; O(n)."""
    seen = _Seen()
    for path in paths:
        if path.startswith(("boot/", "usr/", "bin/", "sbin/", "lib/")):
            seen.take(path)
        elif path in _FOLDERS:
            seen.folders.add(path)
    return seen.facts()


class _Seen:
    """Collects what the names tell."""

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.found: dict[str, set[str]] = {}
        self.exact: set[str] = set()

    def take(self, path: str) -> None:
        for name, pattern in _PATTERNS.items():
            match = pattern.fullmatch(path)
            if match:
                version = next(group for group in match.groups() if group)
                self.found.setdefault(name, set()).add(version)
                return
        if path in _EXACT:
            self.exact.add(path)

    def facts(self) -> TreeFacts:
        programs = frozenset(self.found.get("programs", ()))
        found = {name: frozenset(self.found.get(name, ())) for name in _PATTERNS}
        kernels = {
            each for each in found["kernels"] | found["inside"] if not each.startswith(_RESCUE)
        }
        return TreeFacts(
            family=_family(programs),
            kernels=tuple(sorted(kernels)),
            initramfs=frozenset(e for e in found["initramfs"] if not e.startswith(_RESCUE)),
            modules=found["modules"],
            programs=programs,
            grub_platforms=found["platforms"],
            has_signed_shim=SIGNED_SHIM in self.exact,
            has_signed_grub=SIGNED_GRUB in self.exact,
            has_systemd_boot=SYSTEMD_BOOT in self.exact,
            esp_vendors=tuple(sorted(found["vendors"] - {"BOOT"})),
            missing_folders=tuple(each for each in _FOLDERS if each not in self.folders),
        )


SIGNED_SHIM = "usr/lib/shim/shimx64.efi.signed"
SIGNED_GRUB = "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
SYSTEMD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
_EXACT = frozenset({SIGNED_SHIM, SIGNED_GRUB, SYSTEMD_BOOT})
_PATTERNS = {
    "programs": _BIN,
    "kernels": _KERNEL,
    "inside": _IN_MODULES,
    "initramfs": _INITRAMFS,
    "modules": _MODULES,
    "platforms": _PLATFORM,
    "vendors": _VENDOR,
}


def _family(programs: frozenset[str]) -> Family | None:
    if "update-initramfs" in programs:
        return Family.DEBIAN
    if "dracut" in programs:
        return Family.RHEL
    return None


def uefi_loader(facts: TreeFacts) -> Loader | None:
    """Return what UEFI firmware will start from this tree; None: there is nothing."""
    if facts.family is Family.RHEL:
        # An unsigned GRUB made by grub2-install would not start with Secure Boot on.
        if facts.esp_vendors:
            return Loader.SHIM_GRUB
        return Loader.SYSTEMD_BOOT if facts.has_systemd_boot else None
    if "grub-install" in facts.programs and "x86_64-efi" in facts.grub_platforms:
        signed = facts.has_signed_shim and facts.has_signed_grub
        return Loader.SHIM_GRUB if signed else Loader.GRUB
    return Loader.SYSTEMD_BOOT if facts.has_systemd_boot else None


def tree_mistakes(facts: TreeFacts, place: BootPlace) -> tuple[str, ...]:
    """Return why the tree cannot boot from that place, a clause each; empty: nothing is known."""
    mistakes = []
    if not facts.kernels:
        mistakes.append("it has no kernel (/boot/vmlinuz-*)")
    bare = [version for version in facts.kernels if version not in facts.modules]
    if bare:
        mistakes.append(f"it has no modules for kernel {', '.join(bare)}")
    if facts.family is None:
        mistakes.append("it has neither update-initramfs nor dracut to make an initramfs with")
    if facts.missing_folders:
        names = ", ".join(f"/{name}" for name in facts.missing_folders)
        mistakes.append(f"it lacks {names}, without which no system runs")
    if Firmware.UEFI in place.firmwares and uefi_loader(facts) is None:
        mistakes.append(_no_uefi_loader(facts))
    if Firmware.BIOS in place.firmwares and not _has_bios_grub(facts):
        mistakes.append("it has no GRUB for BIOS (Debian: grub-pc-bin, RHEL: grub2-pc)")
    return tuple(mistakes)


def _no_uefi_loader(facts: TreeFacts) -> str:
    if facts.family is Family.RHEL:
        return "it has no signed loader in /boot/efi/EFI (capture /boot/efi with the image)"
    return "it has no loader for UEFI (Debian: grub-efi-amd64-signed and shim-signed)"


def _has_bios_grub(facts: TreeFacts) -> bool:
    program = "grub2-install" if facts.family is Family.RHEL else "grub-install"
    return program in facts.programs and "i386-pc" in facts.grub_platforms
