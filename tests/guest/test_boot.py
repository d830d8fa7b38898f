"""Disks that nodectl cloned start machines by themselves, which then say who they are."""

import json
from pathlib import Path
from typing import Any

import pytest
from guest.lab import MIB, Booted, Firmware, boot_disks, check, new_disk, run_in_guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2400)]

LAYOUTS = Path(__file__).parent / "layouts"


def told(booted: Booted) -> dict[str, str]:
    lines = booted.report.splitlines()
    assert lines, f"nothing was reported; the console:\n{booted.console[-6000:]}"
    return dict(line.split("=", 1) for line in lines)


def expect(booted: Booted, report: dict[str, Any], firmware: Firmware) -> dict[str, str]:
    found = told(booted)
    assert found["hostname"] == report["node_name"]
    assert found["machine-id"] == report["machine_id"]
    assert found["root"] == report["filesystems"]["/"]
    assert found["failed"] == ""
    assert found["firmware"] == firmware
    assert "11111111" not in found["cmdline"]
    return found


# The entry and the fallback loader are lost, as after a firmware update and a clumsy hand. At the
# end the clone's own fallback loader is put back, for it is what must start the machine.
CLONE_AND_MEND = r"""
    python3 -m guest.inside.clone_here plain.toml node07 no /dev/vda
    udevadm settle
    efibootmgr --verbose >results/cloned
    efibootmgr --quiet --delete-bootnum --bootnum "$(sed -n 's/^Boot\(....\)\* debian.*/\1/p' results/cloned)"
    mount /dev/vda2 /boot/efi
    mv /boot/efi/EFI/BOOT /boot/efi/cloned
    efibootmgr --verbose >results/lost
    python3 -m nodectl cloner fix-efiboot --dry-run --json >results/dry.json
    python3 -m nodectl cloner fix-efiboot --json >results/mended.json
    efibootmgr --verbose >results/mended
    python3 -m nodectl cloner fix-efiboot --json >results/again.json
    cmp /boot/efi/cloned/BOOTX64.EFI /boot/efi/EFI/BOOT/BOOTX64.EFI
    rm -r /boot/efi/EFI/BOOT
    mv /boot/efi/cloned /boot/efi/EFI/BOOT
    umount /boot/efi
"""  # noqa: E501


def test_one_disk_boots_by_uefi_and_by_bios(tmp_path: Path) -> None:
    """The fallback loader starts it: the second machine's firmware never heard of the disk."""
    disk = new_disk(tmp_path / "SYSTEM", 1200 * MIB)
    done = run_in_guest(
        tmp_path / "clone",
        CLONE_AND_MEND,
        disks=[disk],
        firmware=Firmware.UEFI,
        files={"plain.toml": (LAYOUTS / "plain.toml").read_bytes()},
        timeout=900,
    )
    check(done)
    report = json.loads((done.results / "node07.json").read_text())
    assert report["boot"]["firmwares"] == ["bios", "uefi"]
    assert report["boot"]["loader"] == "shim and GRUB"
    expect_entries(done.results, report)
    for firmware in Firmware:
        booted = boot_disks(tmp_path / firmware, [disk], firmware, timeout=600)
        found = expect(booted, report, firmware)
        assert "/boot/efi vfat" in found["mounts"]


def expect_entries(results: Path, report: dict[str, Any]) -> None:
    """Judge by efibootmgr what a clone, and then fix-efiboot, left in the firmware's memory."""
    assert report["boot"]["entries"]
    assert len(debian_entries(results / "cloned")) == 1
    assert debian_entries(results / "lost") == []
    # The number may be another one.
    assert debian_entries(results / "mended") == debian_entries(results / "cloned")
    steps = {name: json.loads((results / f"{name}.json").read_text()) for name in
             ("dry", "mended", "again")}  # fmt: skip
    assert [each["written"] for each in steps.values()] == [False, True, False]
    assert any("BOOTX64.EFI" in line for line in steps["mended"]["steps"])
    assert steps["again"]["steps"] == []


def debian_entries(listed: Path) -> list[str]:
    """Return where those entries lead to that are ours."""
    lines = [line.partition("* ")[2] for line in listed.read_text().splitlines()]
    return [line for line in lines if line.startswith("debian") and "shimx64.efi" in line]
