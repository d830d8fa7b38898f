"""Looks at a restored tree, and at the controllers of disks, for what booting needs to know."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from nodectl.boot.initramfs import builtin_names, initramfs_names, module_names
from nodectl.boot.model import TreeFacts
from nodectl.boot.plan import (
    CMDLINE,
    DEVICE_MAPS,
    ENTRIES,
    GRUB_DEFAULTS,
    MODULES,
    RESUME,
    TreeTexts,
)
from nodectl.boot.tree import tree_facts
from nodectl.errors import BootFailed
from nodectl.fsio import folder_beneath, read_beneath
from nodectl.run import run

_TEXT_LIMIT = 1 << 20
_INITRAMFS_LIMIT = 1 << 30
_SYS = Path("/sys/class/block")
_LOOKED_INTO = (
    "boot", "bin", "sbin", "usr/bin", "usr/sbin",
    "usr/lib/grub", "usr/lib/shim", "usr/lib/systemd/boot",
)  # fmt: skip
# Kernel modules that a driver's name in sysfs does not tell.
_DISK_DRIVERS = {"sd": "sd_mod"}


def probe_tree(root: Path) -> TreeFacts:
    """Return what the tree at `root` has for booting."""
    return tree_facts(_names(root))


def _names(root: Path) -> Iterable[str]:
    for entry in root.iterdir():
        yield entry.name
    for top in _LOOKED_INTO:
        for folder, _, files in os.walk(root / top):
            for name in files:
                yield str(Path(folder, name).relative_to(root))
    for version in (root / "usr/lib/modules").glob("*/"):
        for name in ("modules.dep", "vmlinuz"):
            if (version / name).exists():
                yield f"usr/lib/modules/{version.name}/{name}"


def probe_texts(root: Path, facts: TreeFacts, drivers: frozenset[str]) -> TreeTexts:
    """Read the files that decide how the tree boots; `drivers` are modules that its root needs.

    Raises:
        BootFailed: an initramfs is damaged, or a kernel has no such driver at all.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        paths = [GRUB_DEFAULTS, RESUME, MODULES, CMDLINE, *DEVICE_MAPS]
        texts = {path: boot_text(root_fd, path) for path in paths} | boot_entries(root_fd)
        release = (
            boot_text(root_fd, "etc/os-release") or boot_text(root_fd, "usr/lib/os-release") or ""
        )
        missing = {version: _missing(root_fd, version, drivers) for version in facts.kernels}
        machine_id = boot_text(root_fd, "etc/machine-id") or ""
    finally:
        os.close(root_fd)
    return TreeTexts(
        os_id=_os_id(release),
        machine_id=machine_id.strip(),
        files={path: text for path, text in texts.items() if text is not None},
        missing_drivers={version: names for version, names in missing.items() if names},
    )


def boot_entries(root_fd: int) -> dict[str, str]:
    """Return the entries of the Boot Loader Specification: path -> text."""
    paths = [f"{ENTRIES}/{name}" for name in _listed(root_fd, ENTRIES)]
    texts = ((path, boot_text(root_fd, path)) for path in paths)
    return {path: text for path, text in texts if text is not None}


def boot_text(root_fd: int, path: str) -> str | None:
    """Return a text beneath the tree; None: it is not there.

    Raises:
        BootFailed: it is far too long for one.
    """
    try:
        data = read_beneath(root_fd, path, limit=_TEXT_LIMIT)
    except ValueError as exc:
        raise BootFailed(f"/{path} is no text that decides how a system boots: {exc}") from exc
    return None if data is None else data.decode("utf-8", "surrogateescape")


def _listed(root_fd: int, path: str) -> list[str]:
    try:
        with folder_beneath(root_fd, path) as folder:
            return sorted(
                entry.name for entry in os.scandir(folder) if entry.name.endswith(".conf")
            )
    except FileNotFoundError:
        return []


def _os_id(release: str) -> str:
    for line in release.splitlines():
        if line.startswith("ID="):
            return line.removeprefix("ID=").strip().strip("\"'")
    return ""


def _missing(root_fd: int, version: str, drivers: frozenset[str]) -> frozenset[str]:
    """Return the drivers that the kernel's initramfs lacks; none where it has no initramfs."""
    if not drivers:
        return frozenset()
    builtin, modules = _known_modules(root_fd, version)
    nowhere = drivers - builtin - modules
    if nowhere:
        raise BootFailed(
            f"kernel {version} of the image has no driver {', '.join(sorted(nowhere))}, and the "
            "root's disk needs it",
            hint="install a kernel with that driver on the machine that is captured",
        )
    inside = initramfs_modules(root_fd, version)
    return frozenset() if inside is None else drivers - builtin - inside


def _known_modules(root_fd: int, version: str) -> tuple[frozenset[str], frozenset[str]]:
    folder = f"usr/lib/modules/{version}"
    try:
        builtin = builtin_names(boot_text(root_fd, f"{folder}/modules.builtin") or "")
        listed = boot_text(root_fd, f"{folder}/modules.dep") or ""
    except FileNotFoundError:
        return frozenset(), frozenset()
    paths = (line.partition(":")[0] for line in listed.splitlines())
    return builtin, module_names(frozenset(f"lib/modules/{version}/{path}" for path in paths))


def initramfs_path(root_fd: int, version: str) -> str | None:
    """Return the initramfs of a kernel, from the top of the tree; None: it has none."""
    for path in (f"boot/initrd.img-{version}", f"boot/initramfs-{version}.img"):
        try:
            with folder_beneath(root_fd, "boot") as folder:
                found = os.stat(path.rpartition("/")[2], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode) and found.st_size:
            return path
    return None


def initramfs_modules(root_fd: int, version: str) -> frozenset[str] | None:
    """Return the modules in a kernel's initramfs; None: there is none, or it cannot be read.

    Raises:
        BootFailed: it is damaged.
    """
    path = initramfs_path(root_fd, version)
    if path is None:
        return None
    data = read_beneath(root_fd, path, limit=_INITRAMFS_LIMIT) or b""
    try:
        names = initramfs_names(data)
    except ValueError as exc:
        raise BootFailed(f"/{path} is damaged: {exc}") from exc
    return None if names is None else module_names(names)


def disk_drivers(disk: str) -> frozenset[str]:
    """Return the kernel modules on the way from the machine's bus to a disk (/dev/sda).

    Where this system's kernel has a driver built in, nothing is known of its module.
    """
    name = disk.removeprefix("/dev/").replace("/", "!")
    place = (_SYS / name / "device").resolve()
    found = set()
    while place != place.parent and place.is_relative_to("/sys/devices"):
        module = place / "driver/module"
        if module.exists():
            found.add(module.resolve().name)
        place = place.parent
    return frozenset(_DISK_DRIVERS.get(each, each) for each in found)


def partition_uuids() -> frozenset[str]:
    """Return the UUID of every GPT partition of this machine, in lower case."""
    listed = json.loads(run(["lsblk", "--json", "--list", "--output", "PARTUUID"]).stdout or b"{}")
    values = (each.get("partuuid") for each in listed.get("blockdevices", []))
    return frozenset(str(value).lower() for value in values if value)
