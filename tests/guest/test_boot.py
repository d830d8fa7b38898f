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


def test_one_disk_boots_by_uefi_and_by_bios(tmp_path: Path) -> None:
    disk = new_disk(tmp_path / "SYSTEM", 1200 * MIB)
    done = run_in_guest(
        tmp_path / "clone",
        "python3 -m guest.inside.clone_here plain.toml node07 no /dev/vda",
        disks=[disk],
        files={"plain.toml": (LAYOUTS / "plain.toml").read_bytes()},
        timeout=900,
    )
    check(done)
    report = json.loads((done.results / "node07.json").read_text())
    assert report["boot"]["firmwares"] == ["bios", "uefi"]
    assert report["boot"]["loader"] == "shim and GRUB"
    for firmware in Firmware:
        booted = boot_disks(tmp_path / firmware, [disk], firmware, timeout=600)
        found = expect(booted, report, firmware)
        assert "/boot/efi vfat" in found["mounts"]
