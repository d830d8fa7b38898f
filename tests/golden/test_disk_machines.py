"""Machines and layouts give exactly these steps, programs and tables.

A change here is a change of what is done to somebody's disk: read the difference. The file is
written anew with NODECTL_WRITE_GOLDEN=1.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from disk_machines import GIB, disk, held, holding, mirror_with_lvm, multipath, node, part
from disk_samples import counted_uuids
from facts_files import read_facts

from nodectl.disk.capture import captured_layout
from nodectl.disk.choose import choose_disks
from nodectl.disk.commands import step_commands, table_script
from nodectl.disk.facts import MachineFacts, Signature
from nodectl.disk.plan import PlanWish, plan_layout
from nodectl.disk.steps import WipeSignatures, WriteTable
from nodectl.disk.text import parse_layout
from nodectl.errors import DiskBusy

GOLDEN = Path(__file__).with_name("disk_machines.json")


def layout(*tables: str, firmware: str = "") -> str:
    """Write tables shortly: "partition; id = 'a'; ..."."""
    head = "schema = 2\n" + (f'firmware = "{firmware}"\n' if firmware else "")
    written = []
    for table in tables:
        name, *fields = table.split("; ")
        written.append(f"[[{name}]]\n" + "\n".join(fields).replace("'", '"') + "\n")
    return head + "".join(written)


def one(path: str, *tables: str, more: str = "") -> str:
    """Return a layout of one disk with these tables after it."""
    return layout(f"disk; id = 'd'; match.path = '{path}'{more}", *tables)


def empty(path: str, **more: object) -> MachineFacts:
    return MachineFacts(disks=(disk(path, **more),))  # type: ignore[arg-type]


ROOT = (
    "partition; id = 'root'; disk = 'd'; type = 'linux'; size = 'rest'",
    "filesystem; volume = 'root'; type = 'ext4'; label = 'root'; mount = '/'",
)
UEFI = (
    "partition; id = 'efi'; disk = 'd'; type = 'esp'; size = '512MiB'",
    "partition; id = 'swap'; disk = 'd'; type = 'swap'; size = '8GiB'",
    "partition; id = 'root'; disk = 'd'; type = 'linux'; size = 'rest'",
    "filesystem; volume = 'efi'; type = 'vfat'; label = 'efi'; mount = '/boot/efi'",
    "filesystem; volume = 'swap'; type = 'swap'; label = 'swap'",
    "filesystem; volume = 'root'; type = 'xfs'; mount = '/'; mount_options = ['noatime']",
)
MIRROR = (
    "disk; id = 'l'; match.serial = 'SDA'",
    "disk; id = 'r'; match.serial = 'SDB'",
    "partition; id = 'gl'; disk = 'l'; type = 'bios_grub'; size = '1MiB'",
    "partition; id = 'ml'; disk = 'l'; type = 'raid'; size = 'rest'",
    "partition; id = 'gr'; disk = 'r'; type = 'bios_grub'; size = '1MiB'",
    "partition; id = 'mr'; disk = 'r'; type = 'raid'; size = 'rest'",
    "raid; id = 'mirror'; level = 'raid1'; devices = ['ml', 'mr']",
)
LVM = (
    "volume_group; id = 'vg0'; devices = ['mirror']",
    "logical_volume; id = 'root'; group = 'vg0'; size = '10GiB'",
    "logical_volume; id = 'var'; group = 'vg0'; size = 'rest'",
    "filesystem; volume = 'root'; type = 'ext4'; mount = '/'",
    "filesystem; volume = 'var'; type = 'xfs'; mount = '/var'",
)


def disks(*names: str, size: int = 64 * GIB) -> MachineFacts:
    return MachineFacts(disks=tuple(disk(f"/dev/{name}", size=size) for name in names))


def array_of(level: str, count: int, *fields: str) -> tuple[MachineFacts, str]:
    names = [f"sd{letter}" for letter in "abcdefgh"[:count]]
    tables = [f"disk; id = 'd{n}'; match.serial = '{n.upper()}'" for n in names]
    tables += [
        f"partition; id = 'p{n}'; disk = 'd{n}'; type = 'raid'; size = 'rest'" for n in names
    ]
    devices = ", ".join(f"'p{n}'" for n in names[: count - (level == "raid5")])
    words = "; ".join(["raid; id = 'md0'", f"level = '{level}'", f"devices = [{devices}]", *fields])
    fs = "filesystem; volume = 'md0'; type = 'ext4'; mount = '/'"
    return disks(*names), layout(*tables, words, fs)


def on_vg(count: int, *volumes: str) -> tuple[MachineFacts, str]:
    names = [f"sd{letter}" for letter in "abc"[:count]]
    tables = [f"disk; id = 'd{n}'; match.serial = '{n.upper()}'; table = 'none'" for n in names]
    group = ", ".join(f"'d{n}'" for n in names)
    root = "filesystem; volume = 'root'; type = 'ext4'; mount = '/'"
    return disks(*names), layout(
        *tables, f"volume_group; id = 'vg'; devices = [{group}]; extent = '8MiB'", *volumes, root
    )


def leftover(kind: str) -> MachineFacts:
    """One disk whose only partition holds something that nothing has opened."""
    return MachineFacts(disks=(holding(disk("/dev/sda"), part(1, "/dev/sda1", 1, 30_000, kind)),))


# What the probe saw on loop devices: GPT, MBR with logical partitions, sectors of 4096 bytes, btrfs
# on a whole disk; one partition was mounted, another one was swap in use.
RECORDED = read_facts(Path(__file__).parents[1] / "recorded/loop_disks.json")
LOOPS = ("loop0", "loop1", "loop2", "loop3")
LV = "logical_volume; id = 'root'; group = 'vg'"
CASES: dict[str, tuple[MachineFacts, str]] = {
    "nvme_uefi": (empty("/dev/nvme0n1"), one("/dev/nvme0n1", *UEFI)),
    "nvme_4kn_uefi": (empty("/dev/nvme1n1", sector=4096), one("/dev/nvme1n1", *UEFI)),
    "mmcblk": (empty("/dev/mmcblk0"), one("/dev/mmcblk0", *ROOT)),
    "cciss": (empty("/dev/cciss/c0d0"), one("/dev/cciss/c0d0", *ROOT)),
    "virtio": (empty("/dev/vda"), one("/dev/vda", *ROOT)),
    "firmware_raid_volume": (empty("/dev/md126"), one("/dev/md126", *ROOT)),
    "multipath": (multipath(), one("/dev/mapper/mpatha", *ROOT)),
    "mirror_bios_lvm": (disks("sda", "sdb"), layout(*MIRROR, *LVM, firmware="bios")),
    "mirror_over_mirror": (mirror_with_lvm(), layout(*MIRROR, *LVM)),
    "raid0_chunk": array_of("raid0", 2, "chunk = '64KiB'"),
    "raid5_with_spare": array_of("raid5", 4, "spares = ['psdd']", "bitmap = true"),
    "raid6": array_of("raid6", 4, "name = 'big'"),
    "raid10_far": array_of("raid10", 4, "layout = 'f2'", "metadata = '1.0'"),
    "lvm_striped": on_vg(2, f"{LV}; kind = 'striped'; stripes = 2; size = '10GiB'"),
    "lvm_raid1": on_vg(2, f"{LV}; kind = 'raid1'; size = '10GiB'"),
    "lvm_percent_and_weights": on_vg(
        1,
        f"{LV}; size = '25%'",
        "logical_volume; id = 'a'; group = 'vg'; size = { weight = 1, max = '8GiB' }",
        "logical_volume; id = 'b'; group = 'vg'; size = { weight = 3 }",
    ),
    "lvm_thin": on_vg(
        1,
        "logical_volume; id = 'pool'; group = 'vg'; kind = 'thin-pool'; size = '80%'",
        "logical_volume; id = 'root'; group = 'vg'; kind = 'thin'; pool = 'pool'; size = '100GiB'",
    ),
    "luks_btrfs": (
        empty("/dev/sda"),
        one(
            "/dev/sda",
            "partition; id = 'safe'; disk = 'd'; type = 'luks'; size = 'rest'",
            "luks; id = 'open'; device = 'safe'; key_file = '/run/key'; key_bits = 512; "
            "cipher = 'aes-xts-plain64'; pbkdf = 'argon2id'; sector = 4096",
            "filesystem; volume = 'open'; type = 'btrfs'; "
            "subvolumes = [{ path = '@', mount = '/' }, { path = '@/snap' }, "
            "{ path = '@home', mount = '/home', mount_options = ['noatime'] }]",
        ),
    ),
    "mbr_logical": (
        empty("/dev/sda"),
        one(
            "/dev/sda",
            "partition; id = 'boot'; disk = 'd'; type = 'linux'; size = '1GiB'; flags = ['active']",
            "partition; id = 'swap'; disk = 'd'; type = 'swap'; size = '4GiB'; logical = true",
            "partition; id = 'root'; disk = 'd'; type = '83'; size = 'rest'; logical = true",
            "filesystem; volume = 'boot'; type = 'ext2'; mount = '/boot'",
            "filesystem; volume = 'swap'; type = 'swap'",
            "filesystem; volume = 'root'; type = 'ext3'; mount = '/'",
            more="; table = 'mbr'",
        ),
    ),
    "whole_disk": (
        leftover("ntfs"),
        one(
            "/dev/sda",
            "filesystem; volume = 'd'; type = 'xfs'; mount = '/'",
            more="; table = 'none'",
        ),
    ),
    "data_disk_beside_system_disk": (
        MachineFacts(
            disks=(
                holding(disk("/dev/sda"), part(1, "/dev/sda1", 1, 9000, "ext4 old")),
                holding(
                    disk("/dev/sdb"), part(1, "/dev/sdb1", 1, 60_000, "xfs data", label="data")
                ),
            )
        ),
        layout(
            "disk; id = 'd'; match.serial = 'SDA'; role = 'system'",
            "disk; id = 'e'; match.serial = 'SDB'; role = 'data'",
            *ROOT,
            "partition; id = 'data'; disk = 'e'; type = 'linux'; size = 'rest'; preserve = 'keep'",
            "filesystem; volume = 'data'; type = 'xfs'; label = 'data'; mount = '/data'; "
            "preserve = 'keep'",
        ),
    ),
    "flags_names_starts_discard": (
        empty("/dev/sda"),
        one(
            "/dev/sda",
            "partition; id = 'root'; disk = 'd'; type = 'root_x86_64'; size = '20GiB'; number = 3; "
            "label = 'my root'; flags = ['no_auto', 'legacy_boot']; start = '4MiB'; "
            "uuid = '01234567-89ab-4def-8123-456789abcdef'",
            "filesystem; volume = 'root'; type = 'ext4'; mount = '/'; mkfs_options = ['-m', '1']; "
            "uuid = 'ffffffff-89ab-4def-8123-456789abcdef'",
            "swap_file; path = '/swap/file'; size = '1GiB'; priority = 3",
            more="; discard = true; alignment = '4MiB'",
        ),
    ),
    "recorded_disks_all_anew": (
        RECORDED,
        layout(
            *(f"disk; id = '{n}'; match.path = '/dev/{n}'; role = 'data'" for n in LOOPS),
            *(
                f"partition; id = 'p{n}'; disk = '{n}'; type = 'linux'; size = 'rest'"
                for n in LOOPS
            ),
            *(f"filesystem; volume = 'p{n}'; type = 'ext4'" for n in LOOPS),
        ),
    ),
    "leftover_lvm": (leftover("LVM2_member"), one("/dev/sda", *ROOT)),
    "leftover_md": (leftover("linux_raid_member"), one("/dev/sda", *ROOT)),
    "leftover_luks": (leftover("crypto_LUKS"), one("/dev/sda", *ROOT)),
    "leftover_zfs": (leftover("zfs_member"), one("/dev/sda", *ROOT)),
    "leftover_swap_with_hibernation": (leftover("swsuspend"), one("/dev/sda", *ROOT)),
    "leftover_several": (leftover("several"), one("/dev/sda", *ROOT)),
    "leftover_bcache_assembled": (
        MachineFacts(
            disks=(
                held(
                    holding(disk("/dev/sda"), part(1, "/dev/sda1", 1, 900, "bcache")), "/dev/sda1"
                ),
            ),
            blocks=(
                node("sda", 0),
                node("sda1", 1, "sda", "bcache0"),
                node("bcache0", 60, words="bcache0"),
            ),
        ),
        one("/dev/sda", *ROOT),
    ),
    "leftover_logical_partitions": (
        MachineFacts(
            disks=(
                holding(
                    disk("/dev/sda"),
                    part(1, "/dev/sda1", 1, 100, "ext4"),
                    part(2, "/dev/sda2", 101, 2000, type="5"),
                    part(5, "/dev/sda5", 102, 1000, "LVM2_member", type="8e"),
                    table="dos",
                ),
            )
        ),
        one("/dev/sda", *ROOT),
    ),
    "leftover_whole_disk_pv": (
        MachineFacts(
            disks=(
                replace(
                    disk("/dev/sda"),
                    contents=replace(
                        disk("/dev/sda").contents,  # type: ignore[type-var]
                        signatures=(Signature(type="LVM2_member", uuid="pv"),),
                    ),
                ),
            )
        ),
        one("/dev/sda", *ROOT),
    ),
}


def planned(machine: MachineFacts, text: str) -> list[object]:
    wanted = parse_layout(text)
    chosen = choose_disks(machine.disks, wanted, {})
    steps: Sequence[object] = plan_layout(
        machine, wanted, chosen, PlanWish(unmount=True), counted_uuids()
    ).steps
    found: list[object] = []
    for step in steps:
        lines: list[object] = [" ".join(argv) for argv in step_commands(step)]  # type: ignore[arg-type]
        if isinstance(step, WriteTable):
            lines.append(table_script(step).splitlines())
        if isinstance(step, WipeSignatures):
            lines += [f"zero {each.start >> 20}+{each.size >> 20} MiB" for each in step.zeros]
        found.append([type(step).__name__, *lines])
    return found


@pytest.mark.parametrize("name", CASES)
def test_machine(name: str) -> None:
    found = planned(*CASES[name])
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("NODECTL_WRITE_GOLDEN"):
        golden = {each: found if each == name else golden.get(each) for each in CASES}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    assert json.loads(json.dumps(found)) == golden[name]


def test_the_recorded_disks_are_captured_and_then_as_wished() -> None:
    wanted, remarks = captured_layout(RECORDED, RECORDED.disks, named=True)
    assert remarks == ()
    assert [each.table for each in wanted.disks] == ["gpt", "mbr", "gpt", "none"]
    assert [part.logical for part in wanted.partitions_of("disk2")] == [False, True, True]
    assert [(fs.type, fs.label) for fs in wanted.filesystems] == [
        ("vfat", "EFI"), ("swap", ""), ("ext4", "root"), ("ext2", ""), ("ext4", ""),
        ("swap", "page"), ("xfs", "data"), ("btrfs", "pool"), ("btrfs", "whole"),
    ]  # fmt: skip
    (mounted,) = [fs for fs in wanted.filesystems if fs.mount]
    assert mounted.mount == "/srv/old"
    assert mounted.min_used > 0
    chosen = choose_disks(RECORDED.disks, wanted, {})
    wish = PlanWish(keep_equal=True, unmount=True)
    assert plan_layout(RECORDED, wanted, chosen, wish, counted_uuids()).is_empty


def test_the_recorded_disks_are_in_use() -> None:
    wanted = parse_layout(CASES["recorded_disks_all_anew"][1])
    chosen = choose_disks(RECORDED.disks, wanted, {})
    with pytest.raises(DiskBusy, match="/dev/loop1p6 is in use as swap"):
        plan_layout(RECORDED, wanted, chosen, PlanWish(), counted_uuids())
