"""The lab itself: what a guest sees, and what becomes of one that fails."""

from pathlib import Path

import pytest
from guest.lab import MIB, Bus, Firmware, check, new_disk, run_in_guest

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]


def test_a_guest_has_its_disks_its_firmware_and_the_kernel_of_a_real_machine(
    tmp_path: Path,
) -> None:
    disks = [
        new_disk(tmp_path / "FIRST", 64 * MIB),
        new_disk(tmp_path / "second", 64 * MIB, serial="S4K", bus=Bus.SCSI, sector=4096),
        new_disk(tmp_path / "NVME1", 96 * MIB, bus=Bus.NVME),
    ]
    script = """
        lsblk --noheadings --nodeps --output NAME,SERIAL,LOG-SEC,SIZE | tee results/disks
        ls /sys/firmware/efi/efivars | grep -c ^Boot
        for module in raid1 dm-crypt dm-thin-pool vfat btrfs; do modprobe $module; done
        echo seen >/dev/vda
        python3 -m nodectl version
    """
    folder = tmp_path / "guest"
    done = run_in_guest(folder, script, disks=disks, firmware=Firmware.UEFI)
    check(done)
    lines = (done.results / "disks").read_text().splitlines()
    found = {tuple(line.split()) for line in lines}
    assert ("vda", "FIRST", "512", "64M") in found
    assert ("sda", "S4K", "4096", "64M") in found
    assert ("nvme0n1", "NVME1", "512", "96M") in found
    assert disks[0].path.read_bytes()[:5] == b"seen\n"


def test_a_script_that_fails_says_where(tmp_path: Path) -> None:
    done = run_in_guest(tmp_path / "guest", "echo before\nfalse\necho never")
    assert (done.status, done.output) == (1, "before\n")
    with pytest.raises(AssertionError, match=r"status 1 after .*\nbefore"):
        check(done)


def test_a_guest_that_hangs_is_ended(tmp_path: Path) -> None:
    done = run_in_guest(tmp_path / "guest", "sleep 1000", timeout=8)
    assert done.status == -1
    with pytest.raises(AssertionError, match="the guest did not finish"):
        check(done)
