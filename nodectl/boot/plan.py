"""What makes a restored tree boot from its place: steps as values. Pure.

Two looks are taken: before any write, at the names in the image (`boot/tree.py`); and when the tree
stands on the disk, at a few of its files (`TreeTexts`). `boot/apply.py` carries the steps out.

Why the tree's own programs do it: the loader, its configuration and the initramfs are then the ones
that the next kernel update of that system will make again in the same way.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nodectl.boot.model import (
    FALLBACK_FOLDER,
    FALLBACK_LOADER,
    BootPlace,
    Family,
    Firmware,
    Loader,
    TreeFacts,
)
from nodectl.boot.texts import (
    entry_name,
    entry_options,
    esp_grub_config,
    fix_entry,
    fix_grub_defaults,
    kernel_options,
    resume_conf,
)
from nodectl.boot.tree import uefi_loader

INITRAMFS_TIMEOUT_S = 900.0
LOADER_TIMEOUT_S = 300.0
GRUB_DEFAULTS = "etc/default/grub"
RESUME = "etc/initramfs-tools/conf.d/resume"
MODULES = "etc/initramfs-tools/modules"
DRACUT_CONF = "etc/dracut.conf.d/90-nodectl.conf"
CMDLINE = "etc/kernel/cmdline"
ENTRIES = "boot/loader/entries"
DEVICE_MAPS = ("boot/grub/device.map", "boot/grub2/device.map")
_HEADER = "# Written by nodectl for the disks of this node.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeTexts:
    """Files of the restored tree that decide how it boots; empty where there is none."""

    os_id: str  # ID of os-release: debian, ubuntu, rocky, ...
    machine_id: str
    files: Mapping[str, str]  # path -> content, of those that are named above and of all entries
    missing_drivers: Mapping[str, frozenset[str]]  # kernel -> drivers that its initramfs lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteText:
    """Replace a file of the tree."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveFile:
    """Remove a file of the tree."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInside:
    """Run a program of the tree, with the tree as its root."""

    argv: tuple[str, ...]
    timeout: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLoader:
    """Copy a loader of the tree onto an ESP, where it is not the same already."""

    source: str  # in the tree
    target: str  # in the tree


BootStep = WriteText | RemoveFile | RunInside | CopyLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPlan:
    """Everything that makes one tree boot from one place."""

    steps: tuple[BootStep, ...]
    loader: Loader | None  # of UEFI
    label: str  # of the firmware's entries
    file: str  # what they lead to, from the top of the ESP, with "/"
    kernels: tuple[str, ...]  # each must have an initramfs with the drivers
    files: tuple[str, ...]  # of the tree, that must be there afterwards
    has_menu: bool  # whether a grub.cfg must start the root


def plan_boot(facts: TreeFacts, texts: TreeTexts, place: BootPlace) -> BootPlan:
    """Plan for a tree without mistakes (`tree_mistakes`)."""
    loader = uefi_loader(facts) if Firmware.UEFI in place.firmwares else None
    vendor = loader_folder(facts, texts.os_id, loader)
    file = f"EFI/{vendor}/{_loader_file(loader)}" if loader else ""
    starts = (file, f"{FALLBACK_FOLDER}/{FALLBACK_LOADER}")
    steps = (
        *_config(facts, texts, place),
        *_initramfs(facts, texts, place),
        *_loaders(facts, place, vendor, loader),
        *_menu(facts, texts, place, loader),
    )
    return BootPlan(
        steps=steps,
        loader=loader,
        label=vendor,
        file=file,
        kernels=facts.kernels,
        files=tuple(f"{_strip(mount)}/{name}" for mount in place.esp_mounts for name in starts),
        has_menu=loader is not Loader.SYSTEMD_BOOT or bool(place.bios_disks),
    )


def loader_folder(facts: TreeFacts, os_id: str, loader: Loader | None) -> str:
    """Return the folder below ESP/EFI, which is the entries' label too.

    A signed GRUB looks for its configuration in a folder that its builder chose.
    """
    if loader is Loader.SYSTEMD_BOOT:
        return "systemd"
    if facts.family is Family.RHEL and facts.esp_vendors:
        return facts.esp_vendors[0]
    return "ubuntu" if os_id == "ubuntu" else "debian"


def _loader_file(loader: Loader) -> str:
    match loader:
        case Loader.SHIM_GRUB:
            return "shimx64.efi"
        case Loader.GRUB:
            return "grubx64.efi"
        case Loader.SYSTEMD_BOOT:
            return "systemd-bootx64.efi"


def _strip(path: str) -> str:
    return path.strip("/")


def _config(facts: TreeFacts, texts: TreeTexts, place: BootPlace) -> Iterator[BootStep]:
    """Take what names the golden node's devices out of the configuration."""
    old = texts.files.get(GRUB_DEFAULTS, "")
    if old and fix_grub_defaults(old) != old:
        yield WriteText(path=GRUB_DEFAULTS, text=fix_grub_defaults(old))
    for path in DEVICE_MAPS:
        if path in texts.files:
            yield RemoveFile(path=path)
    speaks_of_swap = RESUME in texts.files or bool(place.swap_uuid)
    resume = resume_conf(place.swap_uuid)
    if facts.family is Family.DEBIAN and speaks_of_swap and texts.files.get(RESUME) != resume:
        yield WriteText(path=RESUME, text=resume)
    if CMDLINE in texts.files:
        options = _options(facts, texts.files[CMDLINE].split(), place)
        yield WriteText(path=CMDLINE, text=" ".join(options) + "\n")


def _options(facts: TreeFacts, old: Sequence[str], place: BootPlace) -> list[str]:
    """Return a kernel's command line for this place."""
    # dracut looks for what the root stands on only where it is told what, or to find it itself.
    finds = ("rd.auto=1",) if place.stack and facts.family is Family.RHEL else ()
    return kernel_options(
        old, root_uuid=place.root_uuid, root_subvolume=place.root_subvolume, more=finds
    )


def _initramfs(facts: TreeFacts, texts: TreeTexts, place: BootPlace) -> Iterator[BootStep]:
    """Rebuild the initramfs where it lacks a driver or must know what the root stands on."""
    missing = frozenset().union(*texts.missing_drivers.values())
    config_changes = any(isinstance(each, WriteText) and each.path == RESUME
                         for each in _config(facts, texts, place))  # fmt: skip
    without = [version for version in facts.kernels if version not in facts.initramfs]
    if not (missing or without or place.stack or config_changes):
        return
    if facts.family is Family.DEBIAN:
        yield from _debian_initramfs(facts, texts, missing)
    else:
        if missing:
            drivers = " ".join(sorted(missing))
            text = f'{_HEADER}hostonly="no"\nadd_drivers+=" {drivers} "\n'
            yield WriteText(path=DRACUT_CONF, text=text)
        for version in facts.kernels:
            yield run_dracut(version)


def run_dracut(version: str) -> RunInside:
    """Return the step that makes a kernel's initramfs by dracut.

    Not for the host that it runs on: that is the machine on which the clone is made.
    """
    words = ("dracut", "--force", "--no-hostonly", "--kver", version)
    return RunInside(argv=(*words, f"/boot/initramfs-{version}.img"), timeout=INITRAMFS_TIMEOUT_S)


def _debian_initramfs(
    facts: TreeFacts, texts: TreeTexts, missing: frozenset[str]
) -> Iterator[BootStep]:
    old = texts.files.get(MODULES, "")
    new = sorted(missing - set(old.split()))
    if new:
        yield WriteText(path=MODULES, text=old + _HEADER + "".join(f"{name}\n" for name in new))
    for version in facts.kernels:
        flag = "-u" if version in facts.initramfs else "-c"
        yield RunInside(argv=("update-initramfs", flag, "-k", version), timeout=INITRAMFS_TIMEOUT_S)


def _loaders(
    facts: TreeFacts, place: BootPlace, vendor: str, loader: Loader | None
) -> Iterator[BootStep]:
    """Install the loader for each firmware that the layout has room for, on each of its disks."""
    grub = "grub2-install" if facts.family is Family.RHEL else "grub-install"
    for disk in place.bios_disks:
        argv = (grub, "--target=i386-pc", "--recheck", "--no-floppy", disk)
        yield RunInside(argv=argv, timeout=LOADER_TIMEOUT_S)
    for mount in place.esp_mounts:
        if loader is Loader.SYSTEMD_BOOT:
            yield from _systemd_boot(mount)
        elif facts.family is Family.RHEL:
            yield from _copied_grub(place, mount, vendor)
        else:
            flags = ("--no-nvram", "--recheck", "--no-floppy", "--force-extra-removable")
            where = (f"--efi-directory={mount}", f"--bootloader-id={vendor}")
            words = ("grub-install", "--target=x86_64-efi", *where, *flags)
            yield RunInside(argv=words, timeout=LOADER_TIMEOUT_S)
            # It would make an entry at the first boot and put it before the network.
            yield RemoveFile(path=f"{_strip(mount)}/{FALLBACK_FOLDER}/fbx64.efi")


def _systemd_boot(mount: str) -> Iterator[BootStep]:
    source = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    esp = _strip(mount)
    yield CopyLoader(source=source, target=f"{esp}/EFI/systemd/systemd-bootx64.efi")
    yield CopyLoader(source=source, target=f"{esp}/{FALLBACK_FOLDER}/{FALLBACK_LOADER}")


def _copied_grub(place: BootPlace, mount: str, vendor: str) -> Iterator[BootStep]:
    """Use the signed files of the packages, which stand on the ESP that was captured."""
    esp = _strip(mount)
    first = _strip(place.esps[0].mount)
    for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi"):
        source = f"{first}/EFI/{vendor}/{name}"
        if esp != first:
            yield CopyLoader(source=source, target=f"{esp}/EFI/{vendor}/{name}")
        fallback = FALLBACK_LOADER if name == "shimx64.efi" else name
        yield CopyLoader(source=source, target=f"{esp}/{FALLBACK_FOLDER}/{fallback}")
    yield RemoveFile(path=f"{esp}/{FALLBACK_FOLDER}/fbx64.efi")
    folder = "/grub2" if place.boot_is_separate else "/boot/grub2"
    for config in (f"EFI/{vendor}", FALLBACK_FOLDER):
        text = esp_grub_config(place.boot_uuid, folder)
        yield WriteText(path=f"{esp}/{config}/grub.cfg", text=text)


def _menu(
    facts: TreeFacts, texts: TreeTexts, place: BootPlace, loader: Loader | None
) -> Iterator[BootStep]:
    """Write the menu: grub.cfg by GRUB's own program, boot loader entries by hand."""
    if loader is Loader.SYSTEMD_BOOT:
        yield from _systemd_entries(facts, texts, place)
    if loader is not Loader.SYSTEMD_BOOT or place.bios_disks:
        yield from _entries(facts, texts, place)
        if facts.family is Family.RHEL:
            config = ("grub2-mkconfig", "--output=/boot/grub2/grub.cfg")
        else:
            config = ("grub-mkconfig", "--output=/boot/grub/grub.cfg")
        # What other disks of the machine hold is no business of this system.
        argv = ("env", "GRUB_DISABLE_OS_PROBER=true", *config)
        yield RunInside(argv=argv, timeout=LOADER_TIMEOUT_S)


def _entries(facts: TreeFacts, texts: TreeTexts, place: BootPlace) -> Iterator[BootStep]:
    """Rename the boot loader entries to this machine-id, and give them the new root."""
    for path, text in sorted(texts.files.items()):
        folder, _, name = path.rpartition("/")
        if folder != ENTRIES:
            continue
        new = entry_name(name, texts.machine_id)
        if new is not None:
            options = _options(facts, entry_options(text), place)
            fixed = fix_entry(text, texts.machine_id, options)
            if (new, fixed) != (name, text):
                yield WriteText(path=f"{folder}/{new}", text=fixed)
        if new != name:
            yield RemoveFile(path=path)


def _systemd_entries(facts: TreeFacts, texts: TreeTexts, place: BootPlace) -> Iterator[BootStep]:
    """Copy each kernel to the ESP and write its entry (Boot Loader Specification, type 1)."""
    esp = _strip(place.esps[0].mount)
    is_rhel = facts.family is Family.RHEL
    old = texts.files.get(CMDLINE, "").split()
    options = _options(facts, old or ["ro", "quiet"], place)
    for version in facts.kernels:
        folder = f"{texts.machine_id}/{version}"
        initramfs = f"initramfs-{version}.img" if is_rhel else f"initrd.img-{version}"
        for name, source in (("linux", f"vmlinuz-{version}"), ("initrd", initramfs)):
            yield CopyLoader(source=f"boot/{source}", target=f"{esp}/{folder}/{name}")
        lines = (
            f"title {texts.os_id}",
            f"version {version}",
            f"machine-id {texts.machine_id}",
            f"linux /{folder}/linux",
            f"initrd /{folder}/initrd",
            f"options {' '.join(options)}",
        )
        path = f"{esp}/loader/entries/{texts.machine_id}-{version}.conf"
        yield WriteText(path=path, text="".join(f"{line}\n" for line in lines))
    yield WriteText(path=f"{esp}/loader/loader.conf", text="timeout 3\n")
