"""The golden system that guests clone: their own root, and a unit that reports and ends it."""

import fcntl
import subprocess
from pathlib import Path

KEY = "a key that a test may show"  # opens the root; in the initramfs, as for a server room
REPORT = "etc/systemd/system/test-report.service"
_UNIT = """[Unit]
Description=Tell the test what booted
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/bash /usr/local/sbin/test-report
[Install]
WantedBy=multi-user.target
"""
# Everything that the test asks about, a line each; then off.
_SCRIPT = r"""
port=/dev/virtio-ports/nodectl.report
for _ in $(seq 100); do [ -e $port ] && break; sleep 0.1; done
exec >$port
echo "hostname=$(cat /proc/sys/kernel/hostname)"
echo "machine-id=$(cat /etc/machine-id)"
echo "root=$(findmnt -n -o UUID /)"
echo "failed=$(systemctl list-units --state=failed --no-legend --plain | cut -d' ' -f1 | xargs)"
echo "mounts=$(findmnt -n -l -o TARGET,FSTYPE -t ext4,xfs,vfat,btrfs | xargs)"
echo "firmware=$([ -d /sys/firmware/efi ] && echo uefi || echo bios)"
echo "cmdline=$(cat /proc/cmdline)"
echo "md=$(grep -ho "\[[0-9]*/[0-9]*\]" /proc/mdstat 2>/dev/null | xargs)"
echo "stack=$(lsblk -n -s -o TYPE $(findmnt -n -o SOURCE /) | xargs)"
sync
systemctl poweroff --force --force
"""


def golden_root(place: Path, *, rebuilds: bool) -> Path:
    """Mount the guest's own root at `place`, without what is mounted on it, and make it golden.

    With `rebuilds` its initramfs waits for another machine's swap, so that a clone has to make it
    anew. That takes minutes in an emulated machine, even with the few modules that are listed here.
    """
    with Path("/run/golden.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several clones may be made at the same time
        return place if place.exists() else _made(place, rebuilds=rebuilds)


def _made(place: Path, *, rebuilds: bool) -> Path:
    place.mkdir()
    subprocess.run(["mount", "--bind", "/", place], check=True)
    # A fifth of it is what only tests need.
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "opt/nodectl-test"], check=True)
    (place / REPORT).write_text(_UNIT)
    wants = place / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / Path(REPORT).name).symlink_to(f"/{REPORT}")
    (place / "usr/local/sbin/test-report").write_text(_SCRIPT)
    # As on a golden machine: another one's disks in the configuration.
    (place / "etc/default/grub").write_text(
        "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_TERMINAL=console\nGRUB_DISTRIBUTOR=Debian\n"
        'GRUB_CMDLINE_LINUX_DEFAULT="quiet resume=UUID=11111111-2222-3333-4444-555555555555"\n'
        'GRUB_CMDLINE_LINUX="console=ttyS0 mitigations=off panic=-1"\n'
    )
    (place / "etc/initramfs-tools/conf.d/quick").write_text(
        "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n"
    )
    (place / "etc/initramfs-tools/modules").write_text("virtio_pci\nvirtio_blk\next4\n")
    if rebuilds:
        (place / "etc/keys").mkdir()
        (place / "etc/keys/root.key").write_text(KEY)
        (place / "etc/keys/root.key").chmod(0o400)
        (place / "etc/cryptsetup-initramfs/conf-hook").write_text(
            "KEYFILE_PATTERN=/etc/keys/*.key\n"
        )
        with (place / "etc/initramfs-tools/initramfs.conf").open("a") as file:
            file.write("UMASK=0077\n")
        (place / "etc/initramfs-tools/conf.d/resume").write_text(
            "RESUME=UUID=11111111-2222-3333-4444-555555555555\n"
        )
    (place / "boot/efi").mkdir(exist_ok=True)
    return place
