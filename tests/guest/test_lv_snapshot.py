"""A logical volume's snapshot as a source: this kernel may have no device-mapper, a guest's has."""

from pathlib import Path

import pytest
from guest.lab import MIB, new_disk, run_tests_in_guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


def test_a_snapshot_in_a_guest(tmp_path: Path) -> None:
    output = run_tests_in_guest(
        tmp_path / "guest", "-rA", "--timeout=400", "tests/guest/inside/test_lv_snapshot.py",
        disks=[new_disk(tmp_path / "ONE", 200 * MIB)], timeout=500,
    )  # fmt: skip
    assert " passed" in output
    assert "skipped" not in output
