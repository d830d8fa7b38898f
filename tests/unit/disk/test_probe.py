"""What the tools and the kernel's tables say becomes facts; the machine itself is not looked at."""

import json
from pathlib import Path
from typing import Any

import pytest

from nodectl.disk import sysfs
from nodectl.disk.facts import BlockNode, Signature, UseKind
from nodectl.disk.probe import (
    disk_named,
    parse_blkid,
    parse_disks,
    parse_mounts,
    parse_signatures,
    parse_swaps,
    uses_of,
)
from nodectl.errors import DiskMissing

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 253:1 / / rw,relatime shared:1 - ext4 /dev/mapper/vg0-root rw
28 27 8:1 / /boot rw - ext4 /dev/sda1 rw
29 27 8:17 / /srv/two\\040words rw - xfs /dev/sdb1 rw
30 27 0:44 /@ /data rw - btrfs /dev/sdc rw,space_cache=v2
"""

SWAPS = """\
Filename				Type		Size		Used		Priority
/dev/sdb2                               partition	102396		0		-2
/swap\\040file                          file		102396		0		-3
"""

BLOCKS = (
    BlockNode(name="sda", device="8:0"),
    BlockNode(name="sda1", device="8:1", parent="sda"),
    BlockNode(name="sda2", device="8:2", parent="sda", holders=("dm-1",)),
    BlockNode(name="dm-1", device="253:1", words="vg0-root (LVM)"),
    BlockNode(name="sdb", device="8:16"),
    BlockNode(name="sdb1", device="8:17", parent="sdb"),
    BlockNode(name="sdb2", device="8:18", parent="sdb"),
    BlockNode(name="sdc", device="8:32"),
    BlockNode(name="sdd", device="8:48", holders=("md0",)),
    BlockNode(name="md0", device="9:0", words="md0 (md raid1)"),
)


def entry(name: str, **more: object) -> dict[str, Any]:
    return {
        "kname": name,
        "maj:min": "8:0",
        "type": "disk",
        "size": 8 << 30,
        "ro": False,
        "rm": False,
        "serial": None,
        "wwn": None,
        "model": "SSD 870  ",
        "vendor": None,
        "tran": "sata",
        "log-sec": 512,
        "phy-sec": 4096,
        **more,
    }


def uses(disk: str) -> list[str]:
    found = uses_of(disk, BLOCKS, parse_mounts(MOUNTINFO), parse_swaps(SWAPS))
    return [use.words() for use in found]


def test_the_systems_disk_is_found_through_lvm() -> None:
    assert uses("sda") == [
        "/dev/sda1 carries /boot of the running system",
        "/dev/dm-1 carries / of the running system",
        "/dev/sda2 is part of vg0-root (LVM)",
    ]


def test_mounts_and_swap_of_partitions_are_found_and_escapes_undone() -> None:
    assert uses("sdb") == [
        "/dev/sdb1 is mounted at /srv/two words",
        "/dev/sdb2 is in use as swap",
    ]


def test_btrfs_is_found_by_its_source_since_its_device_number_is_its_own() -> None:
    assert uses("sdc") == ["/dev/sdc is mounted at /data"]


def test_a_member_of_an_array_is_held() -> None:
    assert uses("sdd") == ["/dev/sdd is part of md0 (md raid1)"]


def test_a_loop_device_over_a_partition_holds_its_disk() -> None:
    blocks = (
        *BLOCKS,
        BlockNode(name="sde", device="8:64"),
        BlockNode(name="sde1", device="8:65", parent="sde"),
        BlockNode(name="loop3", device="7:3", backing_file="/dev/sde1", words="loop3"),
    )
    mount = "40 27 7:3 / /img rw - ext4 /dev/loop3 rw"
    found = uses_of("sde", blocks, parse_mounts(mount), ())
    assert [use.words() for use in found] == [
        "/dev/loop3 is mounted at /img",
        "/dev/sde1 is part of loop3",
    ]


def test_disks_are_read_from_lsblk_of_today_and_of_old() -> None:
    today = entry("sdx", serial="S1", ro=False)
    old = entry("sdx", serial="S1", ro="0", rm="0", size=str(8 << 30), **{"log-sec": "512"})
    assert parse_disks({"blockdevices": [today]}, (), (), (), {}) == parse_disks(
        {"blockdevices": [old]}, (), (), (), {}
    )


def test_what_is_no_disk_is_left_out() -> None:
    listed = [entry("zram0"), entry("sr0", type="rom"), entry("dm-0", type="lvm"), entry("sdx")]
    disks = parse_disks({"blockdevices": listed}, (), (), (), {})
    assert [disk.path for disk in disks] == ["/dev/sdx"]


def test_names_links_partitions_and_a_serial_without_udev_are_joined() -> None:
    blocks = (
        BlockNode(name="cciss!c0d0", device="104:0", serial="FROM-SYSFS", sequence=9),
        BlockNode(name="cciss!c0d0p1", device="104:1", parent="cciss!c0d0"),
    )
    links = {"/dev/cciss/c0d0": ["/dev/disk/by-path/b", "/dev/disk/by-path/a"]}
    disk = parse_disks({"blockdevices": [entry("cciss/c0d0")]}, blocks, (), (), links)[0]
    assert (disk.path, disk.name, disk.serial) == ("/dev/cciss/c0d0", "cciss!c0d0", "FROM-SYSFS")
    assert disk.nodes == ("cciss!c0d0p1",)
    assert disk.links == ("/dev/disk/by-path/a", "/dev/disk/by-path/b")
    assert (disk.sequence, disk.model) == (9, "SSD 870")


def test_a_read_only_disk_is_in_use_for_our_purpose() -> None:
    disk = parse_disks({"blockdevices": [entry("sdx", ro=True)]}, (), (), (), {})[0]
    assert [use.kind for use in disk.uses] == [UseKind.READ_ONLY]


def test_signatures_are_each_named_once() -> None:
    gpt = {"device": "x", "offset": "0x200", "type": "gpt", "uuid": None, "label": None}
    found = parse_signatures(json.dumps({"signatures": [gpt, {**gpt, "offset": "0x9"}]}).encode())
    assert found == (Signature(type="gpt"),)
    assert parse_signatures(b"") == ()


def test_blkid_export_is_read() -> None:
    output = b"DEVNAME=/dev/x\nLABEL=a=b\nUUID=U\nTYPE=ext4\nUSAGE=filesystem\n"
    assert parse_blkid(output) == (Signature(type="ext4", uuid="U", label="a=b"),)
    assert parse_blkid(b"DEVNAME=/dev/x\nPTTYPE=dos\n") == (Signature(type="dos"),)
    assert parse_blkid(b"") == ()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("/dev/there-is-none", "there is no disk at"),
        ("/dev/null", "is not a block device"),
        (__file__, "is a file, not a disk"),
    ],
)
def test_a_path_that_is_no_disk_is_refused(name: str, wanted: str) -> None:
    with pytest.raises(DiskMissing, match=wanted):
        disk_named(name)


def test_a_word_without_slash_is_a_serial() -> None:
    assert disk_named("S4XYNE0M").serial == "S4XYNE0M"


def test_an_array_that_was_begun_and_not_started_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The half of an old mirror: the kernel knows no level, and the member is held all the same."""
    for name, level, state in (("md0", "raid1", "clean"), ("md1", "", "inactive"),
                               ("md2", "raid1", "inactive"), ("md3", "", "clear")):  # fmt: skip
        folder = tmp_path / name / "md"
        folder.mkdir(parents=True)
        (folder / "level").write_text(f"{level}\n")
        (folder / "array_state").write_text(f"{state}\n")
    monkeypatch.setattr(sysfs, "SYS", tmp_path)
    assert {each.name: each.md_level for each in sysfs.read_blocks()} == {
        "md0": "raid1",
        "md1": "inactive",
        "md2": "inactive",
        "md3": "",
    }
