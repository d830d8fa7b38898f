"""A snapshot of a logical volume as the source of a block image; runs only in a guest."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from commands import Commands

if not os.environ.get("NODECTL_IN_GUEST"):
    pytest.skip("runs only in a guest", allow_module_level=True)

MIB = 1 << 20
VOLUME, SNAPSHOT = Path("/dev/shelf/vm"), Path("/dev/shelf/frozen")


def lvm(command: str, *words: str | Path) -> None:
    """Run one of LVM's commands; its watching daemon is not started."""
    argv = (command, "--config", "activation/monitoring=0", *words)
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


def test_a_snapshot_is_captured_while_its_volume_goes_on(tmp_path: Path) -> None:
    disk = next(Path("/dev/disk/by-id").glob("*ONE"))
    lvm("vgcreate", "--yes", "shelf", disk)
    lvm("lvcreate", "--yes", "--wipesignatures", "n", "--size", "32m", "--name", "vm", "shelf")
    before = random.Random(1).randbytes(12 * MIB) + bytes(8 * MIB)
    before += random.Random(2).randbytes(12 * MIB)
    VOLUME.write_bytes(before)
    lvm("lvcreate", "--snapshot", "--size", "40m", "--name", "frozen", "shelf/vm")
    commands = Commands(tmp_path)
    try:
        commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        with VOLUME.open("r+b") as origin:  # the machine goes on
            origin.seek(4 * MIB)
            origin.write(random.Random(3).randbytes(8 * MIB))
        commands.ok("c", "image", "capture-block", "vm", "--device", str(SNAPSHOT))
        out = tmp_path / "out"
        commands.ok("c", "image", "restore", "vm", str(out))
        assert out.read_bytes() == before
        commands.ok("c", "image", "verify", "vm", "--against", str(SNAPSHOT))
        differs = commands.run("c", "image", "verify", "vm", "--against", str(VOLUME))
        assert differs.returncode == 24
        # And back onto a volume.
        commands.ok("c", "image", "restore", "vm", str(VOLUME), "--yes")
        assert VOLUME.read_bytes() == before
    finally:
        commands.end()
        lvm("vgchange", "--activate", "n", "shelf")
