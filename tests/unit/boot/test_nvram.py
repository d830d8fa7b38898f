"""Entries are written by efibootmgr and read back from the firmware, whatever efibootmgr says.

The firmware is a folder of variables, and efibootmgr a script that changes them, so that both can
fail; the real ones are tried in tests/guest/test_boot.py.
"""

import sys
from pathlib import Path

import pytest
from unit.boot.test_entries import OURS, WANTED, hard_drive, node, option

from nodectl.boot.efivars import is_uefi, probe_firmware, why_not_writable
from nodectl.boot.model import BootOrder
from nodectl.boot.nvram import apply_entries
from nodectl.errors import FirmwareRefused

GUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
PXE = option("Slot 3", node(3, 0x0B, bytes(33)))
# Keeps to the flags that efibootmgr(8) has; makes Boot0009.
EFIBOOTMGR = """#!{python}
import sys
from pathlib import Path
folder, words = Path({folder!r}), sys.argv[1:]
(folder / "../calls").open("a").write(" ".join(words) + "\\n")
assert words.pop(0) == "--quiet"
if words[0] == "--delete-bootnum":
    (folder / f"Boot{{words[2]}}-{guid}").unlink()
elif words[0] == "--create-only":
    (folder / "Boot0009-{guid}").write_bytes(bytes(4) + bytes.fromhex({made!r}))
elif words[0] == "--bootorder":
    numbers = [int(word, 16) for word in words[1].split(",")]
    data = b"".join(number.to_bytes(2, "little") for number in numbers)
    (folder / "BootOrder-{guid}").write_bytes(bytes(4) + data)
else:
    sys.exit("unknown: " + " ".join(words))
"""


@pytest.fixture
def efi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "efi/efivars"
    folder.mkdir(parents=True)
    (folder / f"Boot0001-{GUID}").write_bytes(bytes(4) + PXE)
    (folder / f"BootOrder-{GUID}").write_bytes(bytes(4) + b"\1\0")
    (folder / f"BootCurrent-{GUID}").write_bytes(bytes(4) + b"\1\0")
    (folder / f"Boot0002-{GUID}").write_bytes(bytes(4) + b"torn")
    file = node(4, 4, f"{WANTED.file}\0".encode("utf-16-le"))
    made = option("debian", hard_drive(OURS) + file).hex()
    tool(
        tmp_path, EFIBOOTMGR.format(python=sys.executable, folder=str(folder), guid=GUID, made=made)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    return folder.parent


def tool(tmp_path: Path, text: str) -> None:
    (tmp_path / "efibootmgr").write_text(text)
    (tmp_path / "efibootmgr").chmod(0o755)


def calls(efi: Path) -> list[str]:
    path = efi / "calls"
    return path.read_text().splitlines() if path.exists() else []


def test_what_is_there_is_read_and_what_is_torn_is_passed_over(efi: Path) -> None:
    found = probe_firmware(efi)
    assert [(each.number, each.label, each.is_network) for each in found.entries] == [
        (1, "Slot 3", True)
    ]
    assert (found.order, found.current) == ((1,), 1)
    assert is_uefi(efi)
    assert why_not_writable(efi) == ""


def test_an_entry_is_made_put_in_order_and_read_back(efi: Path) -> None:
    report = apply_entries([WANTED], BootOrder.LEAVE, efi)
    assert calls(efi) == [
        f"--quiet --create-only --disk /dev/sda --part 2 --label debian --loader {WANTED.file}",
        "--quiet --bootorder 0001,0009",
    ]
    assert report.entries.order == (1, 9)
    assert len(report.lines) == 2


def test_the_second_time_nothing_is_written(efi: Path) -> None:
    apply_entries([WANTED], BootOrder.DISK_FIRST, efi)
    before = calls(efi)
    assert apply_entries([WANTED], BootOrder.DISK_FIRST, efi).lines == ()
    assert calls(efi) == before


def test_a_tool_that_says_done_and_wrote_nothing_is_found_out(efi: Path, tmp_path: Path) -> None:
    tool(tmp_path, "#!/bin/sh\nexit 0\n")
    with pytest.raises(FirmwareRefused, match="do not read back"):
        apply_entries([WANTED], BootOrder.LEAVE, efi)


def test_full_memory_is_told_with_what_the_tool_said(efi: Path, tmp_path: Path) -> None:
    said = "Could not prepare Boot variable: No space left on device"
    tool(tmp_path, f"#!/bin/sh\necho '{said}' >&2\nexit 5\n")
    with pytest.raises(FirmwareRefused, match=said) as caught:
        apply_entries([WANTED], BootOrder.LEAVE, efi)
    assert "dump-" in caught.value.hint


def test_a_machine_that_was_started_by_bios_is_told_so(efi: Path, tmp_path: Path) -> None:
    assert why_not_writable(tmp_path / "none") == "this system was started by BIOS"
    with pytest.raises(FirmwareRefused, match="started by BIOS"):
        apply_entries([WANTED], BootOrder.LEAVE, tmp_path / "none")
    assert calls(efi) == []


def test_variables_that_are_not_mounted_are_told(tmp_path: Path) -> None:
    (tmp_path / "efi").mkdir()
    assert "is not mounted" in why_not_writable(tmp_path / "efi")
