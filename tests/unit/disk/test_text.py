"""The written form of layouts: what is read, what is refused, and where the mistake stands."""

from pathlib import Path

import pytest

from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout, default_layout
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.disk.text import format_layout, parse_layout
from nodectl.disk.volumes import Compare, SizeCondition
from nodectl.errors import LayoutInvalid

GOOD = """\
schema = 1
name = "two"

[[disk]]
id = "system"
match = { serial = "S1", size = [">= 100GiB", "<2TiB"] }
table = "gpt"

[[partition]]
id = "swap"
disk = "system"
type = "swap"
size = "2GiB"

[[partition]]
id = "root"
disk = "system"
type = "linux"
size = "rest"

[[filesystem]]
volume = "swap"
type = "swap"

[[filesystem]]
volume = "root"
type = "xfs"
label = "root"
mkfs_options = ["-i", "size=1024"]
mount = "/"
mount_options = ["noatime"]
"""


def mistakes(text: str) -> str:
    with pytest.raises(LayoutInvalid) as caught:
        parse_layout(text, source="my.toml")
    return str(caught.value)


def test_a_good_layout_is_read() -> None:
    layout = parse_layout(GOOD)
    assert layout.name == "two"
    assert layout.disks[0].match.serial == "S1"
    assert layout.disks[0].match.size == (
        SizeCondition(compare=Compare.AT_LEAST, size=100 << 30),
        SizeCondition(compare=Compare.LESS, size=2 << 40),
    )
    assert [each.size for each in layout.partitions] == [Size(exact=2 << 30), REST_SIZE]
    assert layout.filesystems[1].type is FsType.XFS
    assert layout.filesystems[1].mkfs_options == ("-i", "size=1024")


@pytest.mark.parametrize("layout", [default_layout(), parse_layout(GOOD)], ids=["default", "two"])
def test_what_is_written_is_read_again(layout: Layout) -> None:
    assert parse_layout(format_layout(layout)) == layout


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("schema = 1", "schema = 3", "line 1, schema: must be 1 or 2, is 3"),
        ('table = "gpt"', 'table = "msdos"', "line 7, disk[0].table: must be one of gpt, mbr"),
        ('size = "2GiB"', 'size = "rest"', 'partition[1].size: "rest" is already taken by'),
        ('size = "2GiB"', 'size = "2 parsecs"', "line 13, partition[0].size: not a size"),
        ('size = "2GiB"', "size = 2048", "line 13, partition[0].size: must be a text"),
        ('size = "2GiB"', "", "line 9, partition[0].size: is needed"),
        ('size = "2GiB"', 'size = "2GiB"\ncolour = 1', "line 14, partition[0].colour: unknown key"),
        ('id = "root"', 'id = "swap"', "line 16, partition[1].id: 'swap' is used twice"),
        (
            'volume = "swap"',
            'volume = "swop"',
            "filesystem[0].volume: no partition or volume has the id",
        ),
        (
            'volume = "swap"',
            'volume = "root"',
            "filesystem[1].volume: 'root' is used by a filesystem",
        ),
        ('mount = "/"', "", 'none has mount = "/"'),
        ('mount = "/"', 'mount = "/../etc"', "filesystem[1].mount: '/../etc' is no plain"),
        (
            'type = "xfs"',
            'type = "zfs"',
            "filesystem[1].type: must be one of ext2, ext3, ext4, xfs",
        ),
        ('label = "root"', 'label = "thirteen-chars"', "label: 'thirteen-chars' is no usable xfs"),
        ('type = "linux"', 'type = "lunix"', "partition[1].type: 'lunix' is neither a GUID"),
        ('disk = "system"', 'disk = "data"', "partition[0].disk: no disk has the id 'data'"),
        ('">= 100GiB"', '"~ 100GiB"', "line 6, disk[0].match.size"),
        ('serial = "S1"', "serail = 'S1'", "line 6, disk[0].match.serail: unknown key"),
        ('volume = "swap"', 'volume = "swap"\nmount = "/s"', "swap has no mount point"),
    ],
)
def test_a_mistake_is_named_with_its_field(old: str, new: str, wanted: str) -> None:
    assert old in GOOD
    assert wanted in mistakes(GOOD.replace(old, new, 1))


def test_all_mistakes_are_named_at_once() -> None:
    text = mistakes(GOOD.replace('table = "gpt"', 'table = "x"').replace('"2GiB"', '"y"'))
    assert "my.toml has 2 mistakes" in text


@pytest.mark.parametrize(
    "option", ["/dev/sdb", "device=/dev/sdb", "logdev=sdb", "-d name=/x", "LABEL=data", ""]
)
def test_an_mkfs_option_may_not_name_a_device(option: str) -> None:
    assert "is refused" in mistakes(GOOD.replace('"size=1024"', f'"{option}"'))


def test_no_toml_is_said_with_its_line() -> None:
    assert "at line 2" in mistakes("schema = 1\n[[disk]\n")


def test_a_disk_that_nothing_stands_on_is_refused() -> None:
    twice = GOOD + '\n[[disk]]\nid = "data"\n'
    assert "line 34, disk[1].id: no partition stands on 'data'" in mistakes(twice)


def test_a_filesystem_larger_than_its_partition_is_refused() -> None:
    text = GOOD.replace('type = "swap"\n\n[[filesystem]]', 'type = "xfs"\n\n[[filesystem]]')
    assert "xfs needs 300 MiB" in mistakes(text.replace('"2GiB"', '"200MiB"'))


def test_the_example_in_the_module_is_valid() -> None:
    text = Path(parse_layout.__code__.co_filename).read_text()
    example = (
        text.split('"""')[1]
        .split("schema = 2` (files of schema 1 are read as they are).", 1)[1]
        .split("All fields")[0]
    )
    assert parse_layout(example).disks[0].match.serial == "S4XYNE0M"
