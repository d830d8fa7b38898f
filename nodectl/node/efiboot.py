"""Mends how the running system starts by UEFI: its fallback loader and the firmware's entries.

Nothing else is touched. What is right already is not written.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodectl.boot.efivars import is_uefi
from nodectl.boot.entries import WantedEntry
from nodectl.boot.model import FALLBACK_FOLDER, FALLBACK_LOADER, BootOrder
from nodectl.boot.nvram import apply_entries, entry_words, look_at_entries
from nodectl.disk.kinds import TableKind, type_code
from nodectl.errors import BootFailed, FirmwareRefused, NeedsRoot
from nodectl.fsio import write_atomic
from nodectl.run import run

_ESP = type_code("esp", TableKind.GPT)
# In each folder below EFI, the first that is there is what the firmware should start.
_LOADERS = ("shimx64.efi", "grubx64.efi", "systemd-bootx64.efi")
# What a shim starts, and what that reads, from the folder that it stands in itself.
_COMPANIONS = ("grubx64.efi", "mmx64.efi", "grub.cfg")
_VFAT_MODE = 0o755


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedEsp:
    """An EFI system partition of the running system."""

    folder: Path
    disk: str
    number: int
    partuuid: str  # lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """What is to be written, or was."""

    copies: tuple[tuple[Path, Path], ...]  # from, to
    wanted: tuple[WantedEntry, ...]
    lines: tuple[str, ...]  # for people; none: all is right


def plan_mending(order: BootOrder) -> Mending:
    """Look at ESPs and entries; writes nothing.

    Raises:
        NeedsRoot: only root may read them.
        FirmwareRefused: this system was not started by UEFI.
        BootFailed: no ESP is mounted, or none has a loader.
    """
    if os.geteuid() != 0:
        raise NeedsRoot("boot entries are root's", hint="run the command with sudo")
    if not is_uefi():
        raise FirmwareRefused(
            "this system was started by BIOS, and BIOS has no boot entries to mend",
            hint="start it by UEFI, or leave it as it is",
        )
    esps = list(_mounted_esps())
    if not esps:
        raise BootFailed(
            "no EFI system partition is mounted", hint="mount it at /boot/efi, /efi or /boot"
        )
    loaders = {esp: _loader(esp.folder) for esp in esps}
    copies = [pair for esp, loader in loaders.items() for pair in _fallback(esp.folder, loader)]
    many = len(esps) > 1
    wanted = tuple(
        WantedEntry(
            label=f"{loader.parent.name} {n}" if many else loader.parent.name,
            disk=esp.disk,
            number=esp.number,
            partuuid=esp.partuuid,
            file="\\" + str(loader.relative_to(esp.folder)).replace("/", "\\"),
        )
        for n, (esp, loader) in enumerate(loaders.items(), start=1)
    )
    _, steps = look_at_entries(wanted, order)
    lines = [f"copy {source} to {target}" for source, target in copies]
    lines += [entry_words(each) for each in steps]
    return Mending(copies=tuple(copies), wanted=wanted, lines=tuple(lines))


def mend(mending: Mending, order: BootOrder) -> tuple[str, ...]:
    """Write what is to be written, read it back, and return a line for each thing.

    Raises:
        FirmwareRefused: the entries cannot be written; the fallback loader is in place by then.
        BootFailed: a copy does not read back.
    """
    lines = []
    for source, target in mending.copies:
        data = source.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, data, mode=_VFAT_MODE)
        if target.read_bytes() != data:
            raise BootFailed(f"{target} is not what was copied from {source}")
        lines.append(f"copied {source} to {target}")
    return (*lines, *apply_entries(mending.wanted, order).lines)


def _mounted_esps() -> Iterator[MountedEsp]:
    columns = "PATH,PKNAME,PARTTYPE,PARTUUID,FSTYPE,MOUNTPOINTS"
    listed = json.loads(run(["lsblk", "--json", "--list", "--output", columns]).stdout or b"{}")
    for each in listed.get("blockdevices", []):
        if str(each.get("parttype")).upper() == _ESP and each.get("fstype") == "vfat":
            yield from _as_esp(each)


def _as_esp(each: dict[str, Any]) -> Iterator[MountedEsp]:
    points = [point for point in each.get("mountpoints") or () if point]
    name = Path(each["path"]).name
    number = Path(f"/sys/class/block/{name}/partition")
    if points and number.exists():
        yield MountedEsp(
            folder=Path(points[0]),
            disk=f"/dev/{each['pkname']}",
            number=int(number.read_text()),
            partuuid=str(each["partuuid"]).lower(),
        )


def _loader(esp: Path) -> Path:
    """Return what the firmware should start.

    Where several systems have one, the running system's own (by os-release) comes first.
    """
    found = []
    for folder in sorted((esp / "EFI").glob("*/")):
        if folder.name.upper() != "BOOT":
            found += [folder / name for name in _LOADERS if (folder / name).is_file()][:1]
    if not found:
        raise BootFailed(
            f"{esp}/EFI has no loader of a system",
            hint="install one: grub-install, bootctl install, or the distribution's shim package",
        )
    ours = _os_ids()
    return min(found, key=lambda path: (path.parent.name not in ours, path.parent.name))


def _os_ids() -> set[str]:
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    words = [line.partition("=")[2].strip("\"'") for line in lines
             if line.startswith(("ID=", "ID_LIKE="))]  # fmt: skip
    return {"redhat" if word == "rhel" else word for line in words for word in line.split()}


def _fallback(esp: Path, loader: Path) -> Iterator[tuple[Path, Path]]:
    """Yield what must be copied so that firmware without entries starts the system."""
    folder = esp / FALLBACK_FOLDER
    if (folder / FALLBACK_LOADER).is_file() and (folder / FALLBACK_LOADER).stat().st_size:
        return
    yield loader, folder / FALLBACK_LOADER
    if loader.name == _LOADERS[0]:
        for name in _COMPANIONS:
            if (loader.parent / name).is_file():
                yield loader.parent / name, folder / name
