"""md, LVM, LUKS, vfat and partition tables that this kernel may not know, in one guest."""

from pathlib import Path

import pytest
from guest.lab import MIB, Bus, new_disk, run_tests_in_guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1600)]


def test_disks_in_a_guest(tmp_path: Path) -> None:
    disks = [
        new_disk(tmp_path / "ONE", 400 * MIB),
        new_disk(tmp_path / "TWO", 336 * MIB),
        new_disk(tmp_path / "THREE", 320 * MIB, bus=Bus.SCSI),
        new_disk(tmp_path / "FOUR", 256 * MIB, bus=Bus.NVME, sector=4096),
    ]
    output = run_tests_in_guest(
        tmp_path / "guest", "-rA", "--timeout=1200", "tests/guest/inside/test_disk_stack.py",
        disks=disks, timeout=1500,
    )  # fmt: skip
    assert " passed" in output
    assert "skipped" not in output
