"""Guests under QEMU: run a script as root on disks of any kind, or boot what stands on disks.

There is no KVM on the machines that run the tests, so every instruction is emulated (TCG): about
ten seconds go by before a script begins. One guest should therefore do the work of many tests.
QEMU is always ended, at the latest with the process that started it; on a failure the console log
stands in the message and in `folder`.
"""

import contextlib
import enum
import io
import os
import shlex
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from guest.system import REPOSITORY, cpio, debian_system, missing_programs

MIB = 1 << 20
_OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
_OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
_TAIL = 6000  # characters of a log that a failure shows

_SYSTEM_SERIAL = "nodectl-test-system"

# Process 1 in the initramfs: finds the disk with the system, however many others there are.
_STAGE1 = f"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in /modules/*; do /bin/busybox insmod $module; done
for disk in /sys/block/vd*; do
  [ "$(/bin/busybox cat $disk/serial)" != {_SYSTEM_SERIAL} ] || system=/dev/${{disk##*/}}
done
/bin/busybox mount -t ext4 -o noatime "$system" /root || /bin/busybox poweroff -f
/bin/busybox mount -t tmpfs lab /root/mnt
/bin/busybox cp -a /payload/. /root/mnt/
/bin/busybox umount /sys /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /bin/sh /mnt/init
"""

# Runs as process 1 of the guest, after the system's disk was mounted as "/".
_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
hostname guest
ip link set lo up
/lib/systemd/systemd-udevd --daemon
udevadm trigger --action=add --subsystem-match=pci --subsystem-match=virtio
udevadm settle --timeout=60
udevadm trigger --action=add --subsystem-match=block --subsystem-match=virtio-ports
udevadm settle --timeout=60
[ ! -d /sys/firmware/efi ] || mount -t efivarfs efivarfs /sys/firmware/efi/efivars
export PYTHONPATH=/opt/nodectl-test:/mnt:/mnt/tests NODECTL_IN_GUEST=1
mkdir -p /mnt/results
cd /mnt
port=/dev/virtio-ports/nodectl
bash -eu /mnt/script >$port.output 2>&1 </dev/null
echo $? >$port.status
tar -C /mnt/results -cf $port.results .
sync
umount -a -r -t ext4,xfs,btrfs,vfat 2>/dev/null
echo o >/proc/sysrq-trigger
sleep 60
"""


class Bus(enum.StrEnum):
    """How a disk is attached; it decides what the guest calls it."""

    VIRTIO = "virtio"  # /dev/vda
    SCSI = "scsi"  # /dev/sda
    NVME = "nvme"  # /dev/nvme0n1


class Firmware(enum.StrEnum):
    """What starts the guest."""

    BIOS = "bios"  # SeaBIOS
    UEFI = "uefi"  # OVMF


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A raw image that the guest sees as a disk."""

    path: Path
    serial: str  # at most 20 characters
    bus: Bus = Bus.VIRTIO
    sector: int = 512  # bytes, logical and physical
    boots: bool = True  # whether the firmware may boot from it


def new_disk(path: Path, size: int, *, serial: str = "", bus: Bus = Bus.VIRTIO,
             sector: int = 512) -> Disk:  # fmt: skip
    """Make an empty sparse disk of `size` bytes; its serial is the file's stem by default."""
    with path.open("wb") as file:
        file.truncate(size)
    return Disk(path=path, serial=serial or path.stem, bus=bus, sector=sector)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a guest left behind."""

    status: int  # of the script; -1: it did not come to its end
    output: str  # of the script, both streams
    console: str
    results: Path  # what the script put into /mnt/results
    seconds: float


def need_guests() -> None:
    """Skip the test where guests cannot run."""
    if os.geteuid() != 0:
        pytest.skip("guests need root (debootstrap)")
    if missing := [*missing_programs(), *([] if _OVMF_CODE.exists() else ["ovmf"])]:
        pytest.skip(f"guests need {', '.join(missing)}: bash tests/run --setup installs them")


def run_in_guest(
    folder: Path,
    script: str,
    *,
    disks: Sequence[Disk] = (),
    firmware: Firmware | None = None,
    files: Mapping[str, bytes] | None = None,
    memory: int = 1024,
    timeout: float = 240,
    more: Sequence[str] = (),
) -> Finished:
    """Run a bash script (with -eu) as root in a guest, in /mnt, where nodectl/ and tests/ stand.

    Args:
        folder: empty or new; logs and results are kept there.
        script: `python3 -m nodectl ...` and `python3 -m pytest ...` work in it.
        disks: in this order, as its bus names them; the system itself is on another disk, and
            whatever is written to it is gone afterwards. It stands at "/".
        firmware: None boots the kernel at once, without efivars.
        files: more files, path beneath /mnt -> content.
        memory: MiB.
        timeout: seconds until the guest is ended.
        more: further arguments of QEMU.
    """
    need_guests()
    system = debian_system()
    folder.mkdir(parents=True, exist_ok=True)
    payload = {f"payload/{path}": (0o100644, data) for path, data in (files or {}).items()}
    payload |= {f"payload/{path}": (0o100644, data) for path, data in _sources()}
    payload["payload/script"] = (0o100644, script.encode())
    payload["payload/init"] = (0o100644, _INIT.encode())
    payload["init"] = (0o100755, _STAGE1.encode())
    initrd = folder / "initrd"
    initrd.write_bytes((system / "stage1").read_bytes() + cpio(payload))
    ports = [_port(folder, name) for name in ("output", "status", "results")]
    own = Disk(path=system / "root.ext4", serial=_SYSTEM_SERIAL, boots=False)
    argv = [
        *_machine(folder, firmware, memory),
        "-kernel", str(system / "vmlinuz"), "-initrd", str(initrd),
        "-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=1 no_timer_check",
        *_disk_words(disks), *_one_disk(own, len(disks), snapshot=True),
        "-device", "virtio-serial", *(word for port in ports for word in port), *more,
    ]  # fmt: skip
    seconds = _qemu(argv, folder, timeout)
    initrd.unlink()
    status = _read(folder / "status").strip()
    results = folder / "results"
    with contextlib.suppress(tarfile.TarError):
        data = io.BytesIO((folder / "results.port").read_bytes())
        with tarfile.open(fileobj=data) as archive:
            archive.extractall(results, filter="data")
    return Finished(
        status=int(status) if status else -1,
        output=_read(folder / "output"),
        console=_read(folder / "console"),
        results=results,
        seconds=seconds,
    )


def check(done: Finished) -> str:
    """Return what a script said that must have succeeded."""
    if done.status == 0:
        return done.output
    what = f"status {done.status}" if done.status >= 0 else "the guest did not finish"
    raise AssertionError(
        f"{what} after {done.seconds:.0f} s; its output:\n{done.output[-_TAIL:]}\n"
        f"--- console:\n{done.console[-_TAIL:]}"
    )


def run_tests_in_guest(
    folder: Path,
    *arguments: str,
    disks: Sequence[Disk] = (),
    firmware: Firmware | None = None,
    timeout: float = 240,
) -> str:
    """Run pytest in a guest, with paths from the top of the repository; all must pass.

    Tests that are only for guests stand in tests/guest/inside/.
    """
    words = shlex.join(("-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments))
    script = f"python3 -m pytest {words}\n"
    return check(run_in_guest(folder, script, disks=disks, firmware=firmware, timeout=timeout))


@dataclass(frozen=True, kw_only=True)
class Booted:
    """What a machine did that started from its own disks."""

    report: str  # what it wrote to its port "nodectl.report"
    console: str
    seconds: float


def boot_disks(
    folder: Path,
    disks: Sequence[Disk],
    firmware: Firmware,
    *,
    memory: int = 768,
    timeout: float = 240,
    more: Sequence[str] = (),
) -> Booted:
    """Start a machine from its disks alone, and wait until it switches itself off.

    The variables of UEFI are kept in `folder`/vars.fd; a file that is there is taken.
    """
    need_guests()
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        *_machine(folder, firmware, memory),
        *_disk_words(disks),
        "-device", "virtio-serial", *_port(folder, "report"), *more,
    ]  # fmt: skip
    seconds = _qemu(argv, folder, timeout)
    report = _read(folder / "report")
    return Booted(report=report, console=_read(folder / "console"), seconds=seconds)


def _sources() -> Iterator[tuple[str, bytes]]:
    yield "pyproject.toml", (REPOSITORY / "pyproject.toml").read_bytes()
    for top in ("nodectl", "tests"):
        for path in sorted((REPOSITORY / top).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield str(path.relative_to(REPOSITORY)), path.read_bytes()


def _machine(folder: Path, firmware: Firmware | None, memory: int) -> list[str]:
    words = [
        "qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel",
        "tcg,thread=multi", "-smp", "2",
        "-cpu", "max,la57=off", "-m", str(memory), "-nodefaults", "-no-user-config",
        "-display", "none", "-no-reboot", "-serial", f"file:{folder / 'console'}",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip
    if firmware is Firmware.UEFI:
        variables = folder / "vars.fd"
        if not variables.exists():
            shutil.copy(_OVMF_VARS, variables)
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={_OVMF_CODE}"]
        words += ["-drive", f"if=pflash,format=raw,file={variables}"]
    return words


def _disk_words(disks: Sequence[Disk]) -> list[str]:
    words = []
    if any(disk.bus is Bus.SCSI for disk in disks):
        words += ["-device", "virtio-scsi-pci,id=scsi"]
    for number, disk in enumerate(disks):
        words += _one_disk(disk, number, snapshot=False)
    return words


def _one_disk(disk: Disk, number: int, *, snapshot: bool) -> list[str]:
    drive = f"if=none,id=disk{number},format=raw,discard=unmap,cache=unsafe,file={disk.path}"
    kinds = {Bus.VIRTIO: "virtio-blk-pci", Bus.SCSI: "scsi-hd,bus=scsi.0", Bus.NVME: "nvme"}
    sizes = f"logical_block_size={disk.sector},physical_block_size={disk.sector}"
    device = f"{kinds[disk.bus]},drive=disk{number},serial={disk.serial},{sizes}"
    if disk.boots:
        device += f",bootindex={number + 1}"  # 0 is the kernel of -kernel
    return ["-drive", drive + (",snapshot=on" if snapshot else ""), "-device", device]


def _port(folder: Path, name: str) -> list[str]:
    path = folder / ("results.port" if name == "results" else name)
    return ["-chardev", f"file,id={name},path={path}",
            "-device", f"virtserialport,chardev={name},name=nodectl.{name}"]  # fmt: skip


def _qemu(argv: Sequence[str], folder: Path, timeout: float) -> float:
    """Run QEMU to its end, or end it; return the seconds that it took."""
    began = time.monotonic()
    # snapshot=on puts what is written into TMPDIR.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "qemu.log").open("wb") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *argv],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
        )  # fmt: skip
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    seconds = time.monotonic() - began
    if process.returncode > 0:
        raise AssertionError(f"QEMU: {_read(folder / 'qemu.log')}")
    return seconds


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return ""
