"""A disk that is slow: QEMU's throttle before an image, as a file of FUSE, as a loop device."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from loop_disks import attach, sh

_READY_S = 20.0


@contextlib.contextmanager
def slow_mount(folder: Path, *, size: int, rate: int) -> Iterator[Path]:
    """Yield a mounted ext4 of `size` bytes that reads and writes `rate` bytes a second together.

    One second's worth may go at once.
    """
    image, export, mount = (folder / name for name in ("slow.img", "slow.export", "slow"))
    with image.open("wb") as file:
        file.truncate(size)
    sh("mkfs.ext4", "-q", image)
    export.touch()
    mount.mkdir()
    daemon = subprocess.Popen(
        [
            "qemu-storage-daemon",
            "--object", f"throttle-group,id=slow,x-bps-total={rate},x-bps-total-max={rate}",
            "--blockdev", f"driver=file,node-name=file,filename={image}",
            "--blockdev", "driver=throttle,node-name=disk,throttle-group=slow,file=file",
            "--export", f"fuse,id=export,node-name=disk,mountpoint={export},writable=on",
        ]
    )  # fmt: skip
    try:
        until = time.monotonic() + _READY_S
        while export.stat().st_size != size:
            assert daemon.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        with _mounted(export, mount):
            yield mount
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)


@contextlib.contextmanager
def _mounted(export: Path, mount: Path) -> Iterator[None]:
    device = attach(export)
    try:
        sh("mount", device, mount)
        try:
            yield
        finally:
            sh("umount", mount)
    finally:
        sh("losetup", "--detach", device)


def forget_cached(mount: Path) -> None:
    """Let the next reader of each file go to the disk."""
    sh("sync", "--file-system", mount)
    for path in mount.rglob("*"):
        if path.is_file():
            sh("dd", f"if={path}", "of=/dev/null", "iflag=nocache", "count=0", "status=none")
