"""Which disk is meant, what fits, and what is refused before any write."""

from dataclasses import replace

import pytest
from disk_samples import MIB, NVME_4K, SDA, USED_SDA, layout_of, plan_of

from nodectl.disk.choose import choose_disks
from nodectl.disk.facts import DiskFacts, Use, UseKind
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout, default_layout
from nodectl.disk.placing import partition_path
from nodectl.disk.plan import DiskPlan
from nodectl.disk.steps import WipeSignatures
from nodectl.disk.volumes import Compare, DiskMatch, DiskWish, SizeCondition
from nodectl.errors import DiskBusy, DiskMissing, DiskTooSmall

TWIN = replace(SDA, path="/dev/sdb", name="sdb", device="8:16", wwn="0x2", links=())


def plan(disk: DiskFacts = SDA, layout: Layout | None = None, image_bytes: int = 0) -> DiskPlan:
    return plan_of(disk, layout or default_layout(), image_bytes=image_bytes)


def choose(disks: list[DiskFacts], named: DiskMatch, wish: DiskMatch | None = None) -> DiskFacts:
    layout = replace(default_layout(), disks=(DiskWish(id="system", match=wish or DiskMatch()),))
    return choose_disks(disks, layout, {"system": named})["system"]


@pytest.mark.parametrize(
    "wish",
    [
        DiskMatch(path="/dev/sda"),
        DiskMatch(path="/dev/disk/by-id/wwn-0x5002538e40b1c2d3"),
        DiskMatch(serial="S4XYNE0M"),
        DiskMatch(transport="sata", size=(SizeCondition(compare=Compare.AT_LEAST, size=8 << 30),)),
    ],
)
def test_one_match_is_taken(wish: DiskMatch) -> None:
    assert choose([NVME_4K, SDA], wish) is SDA


def test_two_disks_with_one_serial_are_refused_and_both_are_named() -> None:
    with pytest.raises(DiskMissing, match=r"2 disks have serial S4XYNE0M: /dev/sda.*; /dev/sdb"):
        choose([SDA, TWIN], DiskMatch(serial="S4XYNE0M"))


def test_the_command_line_and_the_layout_must_both_hold() -> None:
    with pytest.raises(DiskMissing, match="no disk has path /dev/sda and serial NV1"):
        choose([SDA, NVME_4K], DiskMatch(path="/dev/sda"), DiskMatch(serial="NV1"))


def test_no_name_at_all_means_no_disk_even_if_there_is_only_one() -> None:
    with pytest.raises(DiskMissing, match="no disk is named"):
        choose([SDA], DiskMatch())


@pytest.mark.parametrize("kind", list(UseKind))
def test_a_disk_in_use_is_refused_and_the_user_is_named(kind: UseKind) -> None:
    use = Use(kind=kind, device="/dev/sda2", detail="/home")
    busy = replace(SDA, uses=(use,))
    with pytest.raises(DiskBusy, match=r"/dev/sda2.*nothing was written"):
        plan(busy)


def test_rest_fills_what_the_others_leave() -> None:
    parts = plan(
        layout=layout_of(("root", FsType.EXT4, None, "/"), ("swap", FsType.SWAP, 512 * MIB, ""))
    ).partitions
    assert parts[0].start == MIB
    assert parts[1].start == parts[0].start + parts[0].size
    assert parts[1].size == 512 * MIB
    # 33 sectors of backup GPT leave the last MiB unused
    assert parts[1].start + parts[1].size == SDA.size - MIB


def test_an_exact_size_is_rounded_up_to_whole_mib() -> None:
    parts = plan(layout=layout_of(("root", FsType.EXT4, 9 * MIB + 1, "/"))).partitions
    assert parts[0].size == 10 * MIB


def test_a_layout_larger_than_the_disk_is_refused_with_both_sizes() -> None:
    with pytest.raises(DiskTooSmall, match=r"room for 8 GiB .* the layout needs 9 GiB"):
        plan(layout=layout_of(("root", FsType.EXT4, 9 << 30, "/")))


def test_an_image_larger_than_the_filesystems_is_refused_with_both_sizes() -> None:
    layout = layout_of(("root", FsType.EXT4, 1 << 30, "/"), ("swap", FsType.SWAP, 6 << 30, ""))
    with pytest.raises(DiskTooSmall, match=r"the image holds 2 GiB .* room for about 0.98 GiB"):
        plan(layout=layout, image_bytes=2 << 30)


def test_a_rest_too_small_for_its_filesystem_is_refused() -> None:
    layout = layout_of(("swap", FsType.SWAP, 8000 * MIB, ""), ("root", FsType.XFS, None, "/"))
    with pytest.raises(DiskTooSmall, match=r"left for root .*, xfs needs 300 MiB"):
        plan(layout=layout)


def test_old_and_new_partitions_are_wiped_before_the_table_is_written() -> None:
    steps = plan(USED_SDA).steps
    assert [type(step).__name__ for step in steps] == [
        "ForgetPartitions",
        "WipeSignatures",
        "WriteTable",
        "ShowPartitions",
        "WipeSignatures",
        "FormatFilesystem",
        "SealTable",
        "MountFilesystem",
    ]
    wipe = steps[1]
    assert isinstance(wipe, WipeSignatures)
    # both ends of the disk, of the old partition (1 to 101 MiB) and of the new one
    assert [(each.start, each.end) for each in wipe.zeros] == [
        (0, 17 * MIB),
        (85 * MIB, 101 * MIB),
        (SDA.size - 17 * MIB, SDA.size),
    ]


def test_mounts_come_parents_first() -> None:
    layout = layout_of(
        ("lib", FsType.EXT4, 64 * MIB, "/var/lib"),
        ("var", FsType.EXT4, 64 * MIB, "/var"),
        ("root", FsType.EXT4, None, "/"),
    )
    assert [step.path for step in plan(layout=layout).mounts] == ["/", "/var", "/var/lib"]


def test_the_fingerprint_follows_disk_and_layout_and_not_the_uuids() -> None:
    first = plan().fingerprint
    again = plan_of(SDA, default_layout(), seed=8)
    assert again.fingerprint == first
    assert again.disks[0].uuid != plan().disks[0].uuid
    assert plan(USED_SDA).fingerprint != first
    assert plan(layout=layout_of(("r", FsType.XFS, None, "/"))).fingerprint != first


@pytest.mark.parametrize(
    ("disk", "wanted"),
    [
        ("/dev/sda", "/dev/sda1"),
        ("/dev/nvme0n1", "/dev/nvme0n1p1"),
        ("/dev/mmcblk0", "/dev/mmcblk0p1"),
        ("/dev/md126", "/dev/md126p1"),
        ("/dev/loop0", "/dev/loop0p1"),
        ("/dev/cciss/c0d0", "/dev/cciss/c0d0p1"),
    ],
)
def test_partitions_are_named_as_the_kernel_names_them(disk: str, wanted: str) -> None:
    assert partition_path(disk, 1) == wanted


def test_a_disk_that_was_not_looked_into_is_not_planned() -> None:
    with pytest.raises(ValueError, match="not looked at"):
        plan(replace(SDA, contents=None))
