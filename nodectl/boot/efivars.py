"""Reads the firmware's boot entries from efivarfs. Writes nothing.

Source: Linux Documentation/filesystems/efivarfs.rst: a file for each variable, four bytes of
attributes before its value.
"""

import os
import re
from pathlib import Path

from nodectl.boot.entries import BootEntry, FirmwareFacts, parse_load_option

EFI = Path("/sys/firmware/efi")
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
_BOOT = re.compile(rf"Boot([0-9A-F]{{4}})-{_GLOBAL}")
_ATTRIBUTES = 4  # bytes
_MAX_VARIABLE = 1 << 16
_LEAST_FREE = 8 << 10  # bytes; a few entries, and what firmware itself may want to write


def is_uefi(efi: Path = EFI) -> bool:
    """Say whether this system was started by UEFI firmware."""
    return efi.is_dir()


def why_not_writable(efi: Path = EFI) -> str:
    """Return why entries cannot be written, a clause; empty: nothing stands against it."""
    folder = efi / "efivars"
    if not is_uefi(efi):
        return "this system was started by BIOS"
    if not any(folder.glob(f"*-{_GLOBAL}")):
        return f"{folder} is not mounted"
    if not os.access(folder, os.W_OK) or os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"{folder} is read-only"
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    # Since Linux 6.6 the file system tells what is free; before, all its counts are 0.
    if found.f_blocks and free < _LEAST_FREE:
        return f"the firmware's memory is full ({free} bytes free)"
    return ""


def probe_firmware(efi: Path = EFI) -> FirmwareFacts:
    """Read entries, their order and what this system was started by.

    An entry that cannot be understood is passed over, and never touched either.
    """
    folder = efi / "efivars"
    entries = []
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        match = _BOOT.fullmatch(path.name)
        entry = _entry(int(match[1], 16), path) if match else None
        if entry is not None:
            entries.append(entry)
    order = _value(folder / f"BootOrder-{_GLOBAL}")
    numbers = [int.from_bytes(order[n : n + 2], "little") for n in range(0, len(order) - 1, 2)]
    current = _value(folder / f"BootCurrent-{_GLOBAL}")
    return FirmwareFacts(
        entries=tuple(entries),
        order=tuple(numbers),
        current=int.from_bytes(current, "little") if current else None,
    )


def _entry(number: int, path: Path) -> BootEntry | None:
    try:
        return parse_load_option(number, _value(path))
    except ValueError:
        return None


def _value(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_VARIABLE)[_ATTRIBUTES:]
    except OSError:
        return b""
