"""Layouts that are wrong: each mistake has its line, its field and a sentence that helps."""

import re

import pytest

from nodectl.disk.text import parse_layout
from nodectl.errors import LayoutInvalid

GOOD = """\
schema = 2
firmware = "uefi"

[[disk]]
id = "one"
match = { serial = "S1" }

[[disk]]
id = "two"
match = { serial = "S2" }

[[disk]]
id = "old"
match = { serial = "S3" }
table = "mbr"

[[partition]]
id = "efi"
disk = "one"
type = "esp"
size = "512MiB"

[[partition]]
id = "m1"
disk = "one"
type = "raid"
size = "100GiB"

[[partition]]
id = "m2"
disk = "two"
type = "raid"
size = "100GiB"

[[partition]]
id = "pv"
disk = "two"
type = "lvm"
size = "20GiB"

[[partition]]
id = "p1"
disk = "old"
type = "linux"
size = "10GiB"

[[partition]]
id = "l1"
disk = "old"
type = "83"
size = "10GiB"
logical = true

[[raid]]
id = "md0"
level = "raid1"
devices = ["m1", "m2"]

[[luks]]
id = "crypt"
device = "md0"
key_file = "/root/key"

[[volume_group]]
id = "vg0"
devices = ["pv"]

[[logical_volume]]
id = "home"
group = "vg0"
size = "10GiB"

[[logical_volume]]
id = "pool"
group = "vg0"
kind = "thin-pool"
size = "5GiB"

[[logical_volume]]
id = "thin"
group = "vg0"
kind = "thin"
pool = "pool"
size = "50GiB"

[[filesystem]]
volume = "efi"
type = "vfat"
mount = "/boot/efi"

[[filesystem]]
volume = "crypt"
type = "btrfs"
subvolumes = [
  { path = "@", mount = "/" },
]

[[filesystem]]
volume = "home"
type = "ext4"
mount = "/home"

[[swap_file]]
path = "/home/swap"
size = "1GiB"
"""


def mistakes(text: str) -> str:
    with pytest.raises(LayoutInvalid) as caught:
        parse_layout(text, source="my.toml")
    return str(caught.value)


def test_the_layout_that_the_others_are_made_of_is_valid() -> None:
    assert len(parse_layout(GOOD).stacks) == 3


# What is replaced, by what, and the field and sentence that must be said.
CASES = [
    # ---- disks
    ('serial = "S2"', 'serial = "S1"', "disk[1].match: 'one' is described in the same words"),
    ('id = "two"\nmatch = { serial = "S2" }', 'id = "two"', None),
    ('id = "two"', 'id = "two"\nrole = "never_touch"', "disk[1].role: a disk that is never touche"),
    ('id = "two"', 'id = "two"\nsector = 520', "disk[1].sector: a logical sector has 512 or 4096"),
    ('id = "two"', 'id = "two"\nalignment = "1000"', "disk[1].alignment: must be a multiple of 4"),
    ('id = "two"', 'id = "two"\nrole = "data"', "disk[1].role: the system is mounted from 'two'"),
    ('id = "old"', 'id = "old"\nrole = "system"', "disk[2].role: nothing that the system is mount"),
    ('id = "old"', 'id = "old"\nrole = "none"', "disk[2].role: must be one of system, data"),
    ('id = "old"', 'id = "old"\nmatch.hctl = "0:0"', None),
    ('type = "83"\nsize = "10GiB"', 'type = "83"\nsize = "3TiB"',
     "partition[5].size: ends behind 2 TiB, where an MBR ends on sectors of 512 bytes"),
    ('type = "83"', 'type = "83"\nstart = "2TiB"', "partition[5].start: ends behind 2 TiB, where"),
    ('table = "mbr"', 'table = "none"', 'disk[2].table: a disk with table = "none" has no partit'),
    # ---- partitions
    ('size = "512MiB"', 'size = "16MiB"', "partition[0].size: an ESP holds FAT32, which needs 33 "),
    ('size = "512MiB"', 'size = "512 quarks"', "partition[0].size: not a size"),
    ('size = "512MiB"', 'size = "512MiB"\nstart = "1000"', "partition[0].start: must be a mult"),
    ('id = "pv"\ndisk = "two"', 'id = "pv"\ndisk = "two"\nstart = "50GiB"',
     "partition[3].start: overlaps 'm2', which ends at"),
    ('id = "pv"\ndisk = "two"', 'id = "pv"\ndisk = "two"\nnumber = 0', "partition[3].number: numb"),
    ('id = "pv"\ndisk = "two"', 'id = "pv"\ndisk = "two"\nflags = ["active"]',
     "partition[3].flags: only an MBR has an active partition"),
    ('id = "pv"\ndisk = "two"', 'id = "pv"\ndisk = "two"\nlogical = true',
     "partition[3].logical: only an MBR"),
    ('id = "pv"\ndisk = "two"', 'id = "pv"\ndisk = "tow"', "partition[3].disk: no disk has the id"),
    ('id = "pv"', 'id = "m2"', "partition[3].id: 'm2' is used twice"),
    ('type = "lvm"', 'type = "lvm2"', "partition[3].type: 'lvm2' is neither a GUID"),
    ('type = "83"', 'type = "8"\nlabel = "x"', "partition[5].label: an MBR has no names"),
    ('type = "83"', 'type = "83"\nnumber = 2', "partition[5].number: primary partitions are 1 to "),
    ('type = "83"', 'type = "83"\npreserve = "keep"', "partition[5].preserve: a logical partition"),
    # ---- RAID, LVM, LUKS
    ('level = "raid1"', 'level = "raid5"', "raid[0].devices: raid5 needs 3 devices, here are 2"),
    ('level = "raid1"', 'level = "raid1"\nchunk = "64KiB"', "raid[0].chunk: raid1 has no chunks"),
    ('level = "raid1"', 'level = "raid1"\nmetadata = "1.3"', "raid[0].metadata: must be one of"),
    ('level = "raid1"', 'level = "raid10"\nlayout = "n3"', "raid[0].layout: 'n3' needs 3 devices"),
    ('devices = ["m1", "m2"]', 'devices = ["m1", "m3"]', "raid[0].devices[1]: no partition or vol"),
    ('devices = ["m1", "m2"]', 'devices = ["m1", "pv"]', "'pv' is used by raid 'md0' already"),
    ('devices = ["m1", "m2"]', 'devices = ["m1", "crypt"]', "raid[0].devices: 'md0' would stand o"),
    ('devices = ["m1", "m2"]', 'devices = ["m1", "old"]', "'old' is a disk with a partition table"),
    ('devices = ["m1", "m2"]', 'devices = ["m1", "vg0"]', "'vg0' is a volume group; name a logica"),
    ('type = "raid"\nsize = "100GiB"', 'type = "raid"\nsize = "16MiB"',
     "luks[0].device: LUKS2 needs 17 MiB, 'md0' is smaller"),
    ('type = "raid"\nsize = "100GiB"', 'type = "raid"\nsize = "100MiB"',
     "filesystem[1].volume: btrfs needs 110 MiB, 'crypt' is smaller"),
    ('key_file = "/root/key"', 'key_file = "key"', "luks[0].key_file: 'key' is no absolute path"),
    ('key_file = "/root/key"', 'key_file = "/k"\nkey_bits = 5', "luks[0].key_bits: must be 128"),
    ('key_file = "/root/key"', 'key_file = "/k"\npbkdf = "md5"', "luks[0].pbkdf: must be argon2id"),
    ('group = "vg0"\nsize = "10GiB"', 'group = "vg0"\nsize = "30GiB"',
     "logical_volume[0].size: volume group 'vg0' has room for"),
    ('group = "vg0"\nsize = "10GiB"', 'group = "vg1"\nsize = "10GiB"',
     "logical_volume[0].group: no volume group has the id 'vg1'"),
    ('group = "vg0"\nsize = "10GiB"', 'group = "vg0"\nsize = "1GiB"\nkind = "striped"',
     "logical_volume[0].stripes: is needed for kind striped"),
    ('group = "vg0"\nsize = "10GiB"', 'group = "vg0"\nsize = "1GiB"\nkind = "raid1"',
     "logical_volume[0].mirrors: 2 copies need as many devices in the group, which has 1"),
    ('id = "home"', 'id = "home"\nname = "home_rimage_0"', "logical_volume[0].name: 'home_rimage_"),
    ('pool = "pool"', 'pool = "home"', "logical_volume[2].pool: no thin pool has the id 'home'"),
    ('size = "50GiB"', 'size = "rest"', "logical_volume[2].size: the virtual size of a thin volum"),
    # ---- filesystems and mounts
    ('volume = "home"', 'volume = "pool"', "filesystem[2].volume: 'pool' is a thin pool"),
    ('mount = "/home"', 'mount = "/"', "'/' is mounted twice"),
    ('mount = "/home"', 'mount = "home"', "filesystem[2].mount: 'home' is no plain absolute path"),
    ('{ path = "@", mount = "/" }', '{ path = "@" }', 'filesystem: none has mount = "/"'),
    ('{ path = "@", mount = "/" }', '{ path = "../@", mount = "/" }', "subvolumes[0].path: '../@'"),
    ('type = "btrfs"', 'type = "xfs"', "filesystem[1].subvolumes: only btrfs has them, not xfs"),
    ('mount = "/boot/efi"', 'mount = "/boot"', None),
    ('mount = "/home"', 'mount = "/efi"', "filesystem[2].volume: firmware cannot read it"),
    ('type = "vfat"', 'type = "ext4"', "filesystem[0].type: firmware reads vfat at /boot/efi"),
    ('mount = "/home"', 'mount = "/home"\npreserve = "keep"', "filesystem[2].preserve: only what"),
    ('volume = "efi"', 'volume = "efi"\npreserve = "keep"', "filesystem[0].preserve: the partit"),
    ('id = "pv"', 'id = "pv"\npreserve = "if_there"', "partition[3].preserve: 'pv' is kept, and"),
    ('mount = "/home"', 'mount = "/home"\nmin_used = "11GiB"', "filesystem[2].min_used: 'home' is"),
    ('"10GiB"\n\n[[logical_volume]]\nid = "pool"', '"4MiB"\n\n[[logical_volume]]\nid = "pool"',
     "filesystem[2].volume: ext4 needs 8 MiB, 'home' is smaller"),
    ('mount = "/home"', 'mount = "/home"\nuuid = "x"', "filesystem[2].uuid: 'x' is no UUID of ext"),
    ('path = "/home/swap"', 'path = "/"', "swap_file[0].path: '/' is a mount point"),
    ('size = "1GiB"', 'size = "1"', "swap_file[0].size: must be at least 1 MiB"),
    ('size = "1GiB"', 'size = "1GiB"\npriority = -1', "swap_file[0].priority: must be 0 to 32767"),
    # ---- the whole
    ('firmware = "uefi"', 'firmware = "efi"', 'firmware: must be "uefi" or "bios", is \'efi\''),
    ('firmware = "uefi"', 'firmware = "bios"', "firmware: bios on a GPT needs a partition of 1 Mi"),
    ('type = "esp"', 'type = "linux"', 'firmware: uefi needs a partition with type = "esp"'),
    ("schema = 2", "schema = 1", "raid: needs schema = 2"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "wanted"), CASES)
def test_a_mistake_is_said(old: str, new: str, wanted: str | None) -> None:
    assert old in GOOD
    changed = GOOD.replace(old, new, 1)
    if wanted is None:  # on its own this is no mistake
        with pytest.raises(LayoutInvalid) if "hctl" in new else pytest.MonkeyPatch.context():
            parse_layout(changed)
        return
    text = mistakes(changed)
    assert wanted in text
    if "none has mount" not in wanted:
        assert re.search(r"  line \d+, ", text), text


def test_all_mistakes_of_a_file_are_named_at_once_in_its_order() -> None:
    text = GOOD
    for old, new, wanted in CASES:
        if wanted and wanted.startswith(("luks[0].key_file", "partition[0].size: an", "swap_file")):
            text = text.replace(old, new, 1)
    said = mistakes(text).splitlines()
    lines = [int(line.split()[1].strip(",")) for line in said[1:]]
    assert len(lines) >= 4
    assert lines == sorted(lines)


def test_a_layout_of_data_disks_needs_no_root() -> None:
    layout = parse_layout(
        'schema = 2\n[[disk]]\nid = "d"\nrole = "data"\ntable = "none"\n'
        '[[filesystem]]\nvolume = "d"\ntype = "xfs"\nmount = "/srv"\n'
    )
    assert layout.disks_below("d") == {"d"}


def test_four_primary_partitions_beside_logical_ones_are_one_too_many() -> None:
    extra = "".join(
        f'[[partition]]\nid = "q{n}"\ndisk = "old"\ntype = "linux"\nsize = "1GiB"\n'
        for n in range(3)
    )
    text = mistakes(GOOD + extra)
    assert "an MBR has at most 3 primary partitions beside logical ones" in text


def test_two_percentages_of_more_than_everything_are_refused() -> None:
    text = GOOD.replace('size = "100GiB"', 'size = "60%"').replace(
        'size = "512MiB"', 'size = "41%"'
    )
    assert "the percentages on 'one' are more than 100" in mistakes(text)


def test_what_stands_on_luks_and_md_is_measured_by_what_is_beneath() -> None:
    """The group's room follows from the partitions, through the array and the encrypted volume."""
    text = GOOD.replace('devices = ["pv"]', 'devices = ["crypt"]')
    text = text.replace('volume = "crypt"\ntype = "btrfs"', 'volume = "pv"\ntype = "btrfs"')
    assert parse_layout(text)
    small = text.replace('type = "raid"\nsize = "100GiB"', 'type = "raid"\nsize = "12GiB"')
    assert "volume group 'vg0' has room for 12 GiB (12863930368 bytes)" in mistakes(small)


@pytest.mark.parametrize(("metadata", "wrong"), [("1.2", True), ("1.0", False)])
def test_an_esp_on_a_mirror_needs_its_metadata_at_the_end(metadata: str, wrong: bool) -> None:  # noqa: FBT001
    text = GOOD.replace('level = "raid1"', f'level = "raid1"\nmetadata = "{metadata}"')
    text = text.replace('device = "md0"', 'device = "pv"').replace('["pv"]', '["crypt"]')
    text = text.replace('volume = "efi"', 'volume = "md0"').replace('"crypt"\ntype', '"efi"\ntype')
    if wrong:
        assert "filesystem[0].volume: firmware cannot read it: it needs a partition" in mistakes(
            text
        )
    else:
        assert parse_layout(text)
