"""What earlier lives leave on a disk, with the magic numbers as their own programs write them.

Each is seen by blkid or wipefs as what it is, shown in the plan as lost, and gone afterwards. What
real md, LVM, LUKS, btrfs and ext leave is met in tests/guest/test_disk_stack.py and test_clone.py.
"""

import json
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, LoopDisk, loop_disk, sh

from nodectl.cli.disk_plan import plan_text
from nodectl.disk.apply import apply_plan, locked, released
from nodectl.disk.kinds import FsType
from nodectl.disk.plan import PlanWish
from nodectl.disk.survey import look_and_plan
from nodectl.events import NullObserver

pytestmark = pytest.mark.root

SIZE = 96 * MIB
LAYOUT = layout_of(("a", None, 16 * MIB, ""), ("root", FsType.EXT4, None, "/"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path / "disk.img", SIZE) as attached:
        yield attached


def write(disk: LoopDisk, *places: tuple[int, bytes]) -> None:
    with Path(disk.path).open("r+b") as file:
        for offset, data in places:
            file.seek(offset)
            file.write(data)


def zfs(disk: LoopDisk) -> None:
    """Uberblocks of the first label: ZFS On-Disk Specification, section 1.3."""
    magic = struct.pack("<Q", 0x00BAB10C)
    write(disk, *((128 * 1024 + number * 1024, magic) for number in range(8)))


def drbd(disk: LoopDisk) -> None:
    """The metadata at the end: struct meta_data_on_disk of Linux drivers/block/drbd."""
    write(disk, (SIZE - 4096 + 60, struct.pack(">I", 0x8374026D)))


def ceph(disk: LoopDisk) -> None:
    write(disk, (0, b"bluestore block device\n"))


def hibernation(disk: LoopDisk) -> None:
    """Swap with the image of a machine that sleeps: Linux kernel/power/swap.c."""
    sh("mkswap", disk.path)
    write(disk, (4096 - 10, b"S1SUSPEND\0"))


def bcache(disk: LoopDisk) -> None:
    """A backing device: struct cache_sb_disk of Linux drivers/md/bcache."""
    magic = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    body = struct.pack("<QQ16s16s16s32s", 8, 1, magic, b"u" * 16, b"s" * 16, b"label")
    body += bytes(208 - 8 - len(body))
    write(disk, (4096, struct.pack("<Q", crc64(body)) + body))


def crc64(data: bytes) -> int:
    """CRC-64/WE, which bcache takes."""
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte << 56
        for _ in range(8):
            high = value >> 63
            value = (value << 1 & (1 << 64) - 1) ^ (0x42F0E1EBA9EA3693 if high else 0)
    return value ^ (1 << 64) - 1


@pytest.mark.parametrize(
    ("leave", "name"),
    [
        (zfs, "zfs_member"),
        (drbd, "drbd"),
        (ceph, "ceph_bluestore"),
        (hibernation, "swsuspend"),
        (bcache, "bcache"),
    ],
)
def test_a_label_is_named_and_gone(
    leave: Callable[[LoopDisk], None], name: str, disk: LoopDisk
) -> None:
    leave(disk)
    assert name in types(disk.path)
    plan = look_and_plan(LAYOUT, [disk.path], PlanWish())
    assert f"LOST  {disk.path}: {name}" in plan_text(plan)
    with released(plan), locked(plan):
        apply_plan(plan, NullObserver())
    assert types(disk.path) == {"gpt", "PMBR"}
    with disk.partitions():
        assert types(f"{disk.path}p1") == set()
        assert types(f"{disk.path}p2") == {"ext4"}


def types(device: str) -> set[str]:
    document = json.loads(sh("wipefs", "--json", device) or "{}")
    return {each["type"] for each in document.get("signatures", [])}


def gpt_of_a_smaller_disk(disk: LoopDisk) -> None:
    """The copy of a small disk's table stands in the middle of this one."""
    small = disk.backing.with_name("small.img")
    with small.open("wb") as file:
        file.truncate(32 * MIB)
    table(small, "label: gpt\nsize=20M\n")
    write(disk, (0, small.read_bytes()))


def hybrid_mbr(disk: LoopDisk) -> None:
    """A GPT whose protective MBR names a Linux partition beside 0xEE."""
    table(disk.path, "label: gpt\nsize=20M\n")
    entry = struct.pack("<B3sB3sII", 0x80, b"\0" * 3, 0x83, b"\0" * 3, 2048, 40960)
    write(disk, (446 + 16, entry))


def table(device: str | Path, script: str) -> None:
    words = ["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", device]
    subprocess.run(words, input=script, text=True, check=True, capture_output=True)


@pytest.mark.parametrize("leave", [gpt_of_a_smaller_disk, hybrid_mbr])
def test_a_strange_table_becomes_a_sound_one(
    leave: Callable[[LoopDisk], None], disk: LoopDisk
) -> None:
    leave(disk)
    plan = look_and_plan(LAYOUT, [disk.path], PlanWish())
    with released(plan), locked(plan):
        apply_plan(plan, NullObserver())
    assert "No errors detected" in sh("sfdisk", "--verify", disk.path)
    found = json.loads(sh("sfdisk", "--json", disk.path))["partitiontable"]
    assert found["lastlba"] * 512 > SIZE - 64 * 1024  # the copy stands at the disk's own end
    with Path(disk.path).open("rb") as file:
        file.seek(446)
        entries = file.read(64)
    assert entries[4] == 0xEE
    assert entries[16:] == bytes(48)  # one protective entry, nothing beside it


def test_two_clones_in_one_machine_share_no_uuid(disk: LoopDisk, tmp_path: Path) -> None:
    seen: list[str] = []
    with loop_disk(tmp_path / "twin.img", SIZE) as twin:
        for each in (disk, twin):
            plan = look_and_plan(LAYOUT, [each.path], PlanWish())
            with released(plan), locked(plan):
                apply_plan(plan, NullObserver())
            found = json.loads(sh("sfdisk", "--json", each.path))["partitiontable"]
            seen += [found["id"], *(part["uuid"] for part in found["partitions"])]
            seen += [fs.uuid for fs in plan.filesystems]
    assert len(seen) == 8
    assert len(set(seen)) == 8
