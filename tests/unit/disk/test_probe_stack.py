"""What mdadm, LVM and cryptsetup printed for real devices becomes facts.

tests/recorded/ is what they printed in the guest of tests/guest/test_disk_stack.py (Debian 12) for
the layout that stands there: LUKS on a mirror, two volume groups, a thin pool.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from nodectl.disk.facts import BlockNode, CryptFacts
from nodectl.disk.kinds import LvKind
from nodectl.disk.probe_stack import (
    canonical,
    dm_luks_uuid,
    layout_words,
    parse_array,
    parse_groups,
    parse_luks,
    parse_subvolumes,
)
from nodectl.units import MIB

RECORDED = Path(__file__).parents[2] / "recorded"
CRYPT = CryptFacts(
    mapping="secret", path="/dev/mapper/secret", device="/dev/md127", uuid="u", version=2
)


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def test_a_mirror() -> None:
    array = parse_array(recorded("mdadm-export.txt"), {})
    assert (array.name, array.level, array.metadata) == ("mirror", "raid1", "1.2")
    assert array.devices == ("/dev/vda2", "/dev/vdb1")
    assert (array.spares, array.missing) == ((), 0)
    assert array.uuid.count(":") == 3


def test_members_go_by_the_names_that_are_known_and_the_lost_and_spare_are_told() -> None:
    text = recorded("mdadm-export.txt")
    named = parse_array(text, {"/dev/vdb1": "/dev/mapper/mpatha-part1"})
    assert named.devices == ("/dev/vda2", "/dev/mapper/mpatha-part1")
    array = parse_array(text.replace(b"vdb1_ROLE=1", b"vdb1_ROLE=spare"), {})
    assert (array.devices, array.spares, array.missing) == (("/dev/vda2",), ("/dev/vdb1",), 1)


def test_groups_with_their_volumes() -> None:
    first, second = parse_groups(*(recorded(f"{name}.json") for name in ("lvs", "vgs", "pvs")))
    assert (first.name, first.devices, first.extent, first.free) == (
        "vg0", ("/dev/mapper/secret",), 4 * MIB, 0
    )  # fmt: skip
    assert [(each.name, each.kind, each.size // MIB, each.path) for each in first.volumes] == [
        ("root", LvKind.LINEAR, 124, "/dev/vg0/root"),
        ("var", LvKind.LINEAR, 192, "/dev/vg0/var"),
    ]
    assert (second.name, second.devices, second.free) == ("vg1", ("/dev/sda5",), 48 * MIB)
    pool, thin = second.volumes
    assert (pool.kind, pool.size, pool.metadata_size) == (LvKind.THIN_POOL, 100 * MIB, 4 * MIB)
    assert (thin.kind, thin.size, thin.pool) == (LvKind.THIN, 400 * MIB, "pool")
    assert all(each.active for each in (*first.volumes, pool, thin))


def test_a_volume_of_several_segments_is_one_volume() -> None:
    rows = b'{"report": [{"lv": [%b, %b]}]}'
    row = (b'{"lv_name": "a", "vg_name": "vg0", "lv_path": "", "lv_size": "8", "segtype": "linear",'
           b' "lv_uuid": "u", "lv_active": ""}')  # fmt: skip
    (group, _) = parse_groups(rows % (row, row), recorded("vgs.json"), recorded("pvs.json"))
    (volume,) = group.volumes
    assert (volume.path, volume.active, volume.stripes) == ("/dev/vg0/a", False, 1)


def test_luks() -> None:
    facts = parse_luks(recorded("luks.json"), CRYPT)
    assert facts == replace(
        CRYPT, cipher="aes-xts-plain64", sector=512, key_bits=512, pbkdf="pbkdf2"
    )


def test_the_uuid_in_what_device_mapper_calls_a_volume() -> None:
    lines = recorded("dmsetup.txt").decode().splitlines()
    uuids = dict(line.split(",") for line in lines)
    assert uuids["secret"].startswith("CRYPT-LUKS2-")
    assert dm_luks_uuid(uuids["secret"]) == "b2b06d8c-b6d0-4f3d-b7c3-645a0e62072d"


def test_subvolumes_by_their_paths_from_the_top() -> None:
    output = b"ID 256 gen 7 top level 5 path @\nID 257 gen 9 top level 256 path @/srv two\n"
    assert parse_subvolumes(output) == ("@", "@/srv two")
    assert parse_subvolumes(b"") == ()


@pytest.mark.parametrize(
    ("level", "number", "words"),
    [
        ("raid10", "258", ""),  # near 2, the default
        ("raid10", "259", "n3"),
        ("raid10", "513", "f2"),
        ("raid10", "66049", "o2"),
        ("raid5", "2", ""),
        ("raid6", "0", "left-asymmetric"),
        ("raid1", "0", ""),
        ("raid1", "", ""),
    ],
)
def test_layouts_of_arrays(level: str, number: str, words: str) -> None:
    assert layout_words(level, number) == words


def test_a_device_that_is_not_known_keeps_its_name(tmp_path: Path) -> None:
    blocks = [BlockNode(name="dm-0", device="252:0", dm_name="vg0-root")]
    assert canonical("/dev/dm-0", blocks) == "/dev/mapper/vg0-root"
    assert canonical(f"{tmp_path}/gone", blocks) == f"{tmp_path}/gone"
