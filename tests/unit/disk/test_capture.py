"""From facts to a layout: what is there, and what a layout cannot say."""

from dataclasses import replace

import pytest
from disk_machines import GIB, disk, holding, mirror_with_lvm, part
from disk_samples import EMPTY, MIB

from nodectl.disk.capture import captured_layout
from nodectl.disk.diff import layout_differences
from nodectl.disk.facts import DiskFacts, MachineFacts, MountEntry, Signature, VolumeFacts
from nodectl.disk.kinds import PartitionFlag, Role, TableKind
from nodectl.disk.model import Layout
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.disk.text import format_layout, parse_layout
from nodectl.errors import InvalidInput, PathUnreadable
from nodectl.node import disk_layout


def capture(machine: MachineFacts, *, named: bool = True) -> tuple[Layout, tuple[str, ...]]:
    layout, remarks = captured_layout(machine, machine.disks, named=named)
    assert parse_layout(format_layout(layout)) == layout
    return layout, remarks


def test_a_stack_is_captured_with_all_its_floors() -> None:
    machine = mirror_with_lvm()
    root = MountEntry(device="0:0", target="/", source="/dev/mapper/vg0-root", type="ext4",
                      options=("rw", "noatime", "errors=remount-ro"))  # fmt: skip
    layout, remarks = capture(replace(machine, mounts=(root,)))
    assert [each.match.serial for each in layout.disks] == ["SDA", "SDB"]
    assert [(each.id, each.level, each.devices) for each in layout.raids] == [
        ("mirror", "raid1", ("part1", "disk2-1"))
    ]
    assert [(each.id, each.devices) for each in layout.groups] == [("vg0", ("mirror",))]
    assert {each.id: each.size for each in layout.logical_volumes} == {
        "root": REST_SIZE,  # the first of the largest, since nothing is free
        "luks": Size(exact=10 * GIB),
    }
    assert [(each.id, each.device, each.key_bits) for each in layout.luks] == [
        ("safe", "luks", 512)
    ]
    assert {(each.volume, each.type, each.mount) for each in layout.filesystems} == {
        ("root", "ext4", "/"),
        ("safe", "xfs", ""),
    }
    assert layout.filesystems[0].mount_options == ("noatime",)
    assert remarks == (
        "the key of /dev/mapper/safe: the layout expects it in /etc/cryptsetup-keys.d/safe.key",
    )


def test_what_a_filesystem_uses_is_what_a_clone_needs() -> None:
    machine = mirror_with_lvm()
    volumes = tuple(replace(each, used=3 * GIB + 1) for each in machine.volumes[:1])
    layout, _ = capture(replace(machine, volumes=(*volumes, machine.volumes[1])))
    needs = {each.volume: each.min_used for each in layout.filesystems}
    assert needs == {"root": 3 * GIB + MIB, "safe": 0}
    grown = parse_layout(format_layout(layout).replace('"3073MiB"', '"4GiB"'))
    assert layout_differences(layout, grown) == (
        'filesystem vg-vg0-root min_used: "3073MiB" -> "4GiB"',
    )
    assert layout_differences(layout, grown, content=False) == ()


def mbr() -> DiskFacts:
    facts = holding(
        disk("/dev/sda", serial="", wwn="0x5"),
        part(1, "/dev/sda1", 1, 1024, "ext4 boot", type="83", label="", flags=("bootable",)),
        part(2, "/dev/sda2", 1025, 20_000, type="5", label=""),
        part(5, "/dev/sda5", 1026, 4096, "swap", type="82", label=""),
        part(6, "/dev/sda6", 5123, 15_902, "ntfs", type="7", label=""),
        table="dos",
    )
    return replace(facts, size=64 * GIB)


def test_an_mbr_is_captured_without_its_extended_partition() -> None:
    layout, remarks = capture(MachineFacts(disks=(mbr(),)))
    (wish,) = layout.disks
    assert (wish.table, wish.match.wwn, wish.role) == (TableKind.MBR, "0x5", Role.DATA)
    assert [(p.id, p.type, p.logical, p.start) for p in layout.partitions] == [
        ("disk1-1", "linux", False, None),
        ("disk1-5", "swap", True, None),
        ("disk1-6", "msdata", True, None),
    ]
    assert layout.partitions[0].flags == {PartitionFlag.ACTIVE}
    assert layout.partitions[2].size == Size(exact=15_902 * MIB)
    assert remarks == ("/dev/sda6 holds ntfs: no content that is known",)


def test_gaps_numbers_names_and_the_end_of_the_disk_are_seen() -> None:
    facts = holding(
        disk("/dev/nvme0n1"),
        part(2, "/dev/nvme0n1p2", 1, 100, "vfat", label="EFI System"),
        part(1, "/dev/nvme0n1p1", 500, 64 * 1024 - 501, "xfs data", label="data"),
    )
    layout, _ = capture(MachineFacts(disks=(facts,)))
    assert [(p.id, p.label, p.number, p.start) for p in layout.partitions] == [
        ("disk1-2", "EFI System", 2, None),
        ("data", "", 1, 500 * MIB),
    ]
    assert layout.partitions[1].size == REST_SIZE


def test_partitions_of_old_tools_get_a_smaller_alignment_or_a_remark() -> None:
    odd = holding(disk("/dev/sda"), replace(part(1, "/dev/sda1", 1, 100, "ext4"), start=63 * 512))
    layout, remarks = capture(MachineFacts(disks=(odd,)))
    assert layout.disks[0].alignment == 4096
    assert remarks == (
        "/dev/sda has partitions that are not aligned to 4 KiB; in the layout they are",
    )


def test_subvolumes_and_their_mounts_are_captured() -> None:
    facts = replace(
        disk("/dev/sdb"), contents=replace(EMPTY, signatures=(Signature(type="btrfs"),))
    )
    volume = VolumeFacts(
        path="/dev/sdb", size=GIB, signatures=(Signature(type="btrfs", label="pool"),),
        subvolumes=("@", "@home", "@home/.snap"),
    )  # fmt: skip
    mounts = tuple(
        MountEntry(device="0:9", target=target, source="/dev/sdb", type="btrfs", root=root,
                   options=("rw", "compress=zstd:1", "space_cache=v2", f"subvol={root}"))
        for target, root in (("/", "/@"), ("/home", "/@home"), ("/run/x", "/@home"))
    )  # fmt: skip
    layout, _ = capture(MachineFacts(disks=(facts,), volumes=(volume,), mounts=mounts))
    (fs,) = layout.filesystems
    assert (fs.mount, fs.label) == ("", "pool")
    assert [(s.path, s.mount, s.mount_options) for s in fs.subvolumes] == [
        ("@", "/", ("compress=zstd:1",)),
        ("@home", "/home", ("compress=zstd:1",)),
        ("@home/.snap", "", ()),
    ]


def test_unnamed_empty_removable_and_loop_disks_are_left_out() -> None:
    machine = MachineFacts(
        disks=(
            mbr(),
            disk("/dev/sdb"),
            disk("/dev/sdc", removable=True),
            disk("/dev/loop3", type="loop"),
        )
    )
    layout, remarks = capture(machine, named=False)
    assert len(layout.disks) == 1
    assert {"/dev/sdb: empty", "/dev/sdc: removable"} <= set(remarks)
    with pytest.raises(InvalidInput, match="at least one disk"):
        capture(MachineFacts(disks=machine.disks[1:]), named=False)


def test_a_disk_that_cannot_be_read_is_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are captured; a reader without a card is not even tried."""
    broken, card = disk("/dev/sdb"), disk("/dev/sdc", removable=True, contents=None)

    def look(facts: DiskFacts) -> DiskFacts:
        if facts is not broken:
            assert facts.path == "/dev/sda"
            return facts
        raise PathUnreadable("/dev/sdb cannot be opened: Input/output error")

    machine = MachineFacts(disks=(broken, mbr(), card))
    monkeypatch.setattr(disk_layout, "need_root", lambda: None)
    monkeypatch.setattr(disk_layout, "probe_machine", lambda: machine)
    monkeypatch.setattr(disk_layout, "probe_contents", look)
    monkeypatch.setattr(disk_layout, "probe_stack", lambda facts, _disks: facts)
    layout, remarks = disk_layout.capture_layout(())
    assert [each.match.wwn for each in layout.disks] == ["0x5"]
    assert "/dev/sdb cannot be opened: Input/output error" in remarks
    assert "/dev/sdc: removable" in remarks


def test_layouts_are_compared_by_places_and_not_by_ids() -> None:
    layout, _ = capture(MachineFacts(disks=(mbr(),)))
    renamed = parse_layout(format_layout(layout).replace("disk1-5", "paging").replace("disk1", "d"))
    assert layout_differences(layout, renamed) == ()
    larger = parse_layout(format_layout(layout).replace('"4GiB"', '"5GiB"'))
    assert layout_differences(layout, larger) == ('partition disk1-2 size: "4GiB" -> "5GiB"',)
    fewer = replace(layout, partitions=layout.partitions[:2])
    assert layout_differences(layout, fewer) == ("partition disk1-3: only in the first",)
