"""Which disk is meant, and which may never be."""

from dataclasses import replace

import pytest
from disk_machines import GIB, disk, multipath
from disk_samples import counted_uuids

from nodectl.disk.choose import choose_disks, named_disks
from nodectl.disk.commands import step_commands
from nodectl.disk.facts import DiskFacts, MachineFacts, Use, UseKind, is_match
from nodectl.disk.kinds import Role
from nodectl.disk.model import Layout, default_layout
from nodectl.disk.plan import PlanWish, plan_layout
from nodectl.disk.sizes import REST_SIZE
from nodectl.disk.volumes import Compare, DiskMatch, DiskWish, Partition, SizeCondition
from nodectl.errors import DiskMissing, InvalidInput, LayoutUnfit

SSD = disk("/dev/sda", size=480 * GIB, rotational=False, model="SAMSUNG MZ7LH480")
HDD = disk("/dev/sdb", size=8000 * GIB, rotational=True, model="ST8000NM", hctl="6:0:1:0")
USB = disk("/dev/sdc", size=480 * GIB, transport="usb", removable=True, model="Stick")
ALL = (SSD, HDD, USB)


def two_disks(first: DiskMatch, second: DiskMatch) -> Layout:
    layout = default_layout()
    more = Partition(id="data", disk="data", type="linux", size=REST_SIZE)
    return replace(
        layout,
        disks=(DiskWish(id="system", match=first), DiskWish(id="data", match=second)),
        partitions=(*layout.partitions, more),
    )


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        (DiskMatch(model="SAMSUNG*"), (SSD,)),
        (DiskMatch(model="SAMSUNG MZ7LH48?"), (SSD,)),
        (DiskMatch(model="samsung*"), ()),
        (DiskMatch(serial="[S]DA"), ()),
        (DiskMatch(rotational=False, transport="sata"), (SSD,)),
        (DiskMatch(rotational=True), (HDD,)),
        (DiskMatch(removable=True), (USB,)),
        (DiskMatch(sector=4096), ()),
        (DiskMatch(hctl="*:0:1:0"), (HDD,)),
        (DiskMatch(size=(SizeCondition(compare=Compare.NOT, size=480 * GIB),)), (HDD,)),
        (DiskMatch(), ()),
    ],
)
def test_a_match_means_these(wish: DiskMatch, found: tuple[DiskFacts, ...]) -> None:
    assert tuple(each for each in ALL if is_match(each, wish)) == found


def test_each_disk_of_the_layout_gets_its_own() -> None:
    layout = two_disks(DiskMatch(model="SAMSUNG*"), DiskMatch(rotational=True))
    chosen = choose_disks(ALL, layout, {})
    assert {name: each.path for name, each in chosen.items()} == {
        "system": "/dev/sda",
        "data": "/dev/sdb",
    }


def test_names_and_places_that_change_at_a_boot_change_nothing() -> None:
    """The kernel's names swapped, another SCSI host's number, a stick that comes first."""
    layout = two_disks(DiskMatch(serial="SDA"), DiskMatch(hctl="*:0:1:0"))
    system = replace(SSD, path="/dev/sdc", name="sdc")
    data = replace(HDD, path="/dev/sda", name="sda", hctl="0:0:1:0")
    stick = replace(USB, path="/dev/sdb", name="sdb")
    chosen = choose_disks((stick, data, system), layout, {})
    assert {name: each.path for name, each in chosen.items()} == {
        "system": "/dev/sdc",
        "data": "/dev/sda",
    }


def test_two_disks_that_look_alike_are_no_choice() -> None:
    twin = replace(SSD, path="/dev/sdd", name="sdd", serial="SDD")
    layout = two_disks(DiskMatch(model="SAMSUNG*"), DiskMatch(serial="SDB"))
    with pytest.raises(DiskMissing, match=r"2 disks have model SAMSUNG.*: /dev/sda.*; /dev/sdd"):
        choose_disks((*ALL, twin), layout, {})


def test_what_nobody_named_is_no_obstacle_and_not_in_the_plan() -> None:
    """A read-only virtual medium, and a disk that is mounted, beside the one that is meant."""
    medium = replace(USB, uses=(Use(kind=UseKind.READ_ONLY, device="/dev/sdc", detail=""),))
    busy = replace(HDD, uses=(Use(kind=UseKind.MOUNT, device="/dev/sdb1", detail="/srv"),))
    machine = MachineFacts(disks=(medium, busy, SSD))
    chosen = choose_disks(machine.disks, default_layout(), {"system": DiskMatch(serial="SDA")})
    plan = plan_layout(machine, default_layout(), chosen, PlanWish(), counted_uuids())
    named = {word for step in plan.steps for argv in step_commands(step) for word in argv}
    assert {word for word in named if word.startswith("/dev/")} == {"/dev/sda", "/dev/sda1"}


def test_one_disk_cannot_be_two() -> None:
    layout = two_disks(DiskMatch(serial="SDA"), DiskMatch(model="SAMSUNG*"))
    with pytest.raises(DiskMissing, match="is meant as 'system' and as 'data'"):
        choose_disks(ALL, layout, {})


def never(match: DiskMatch) -> Layout:
    layout = default_layout()
    forbidden = DiskWish(id="keep", match=match, role=Role.NEVER_TOUCH)
    return replace(layout, disks=(*layout.disks, forbidden))


def test_never_touch_wins_over_a_name_on_the_command_line() -> None:
    with pytest.raises(DiskMissing, match="never to touch what has path /dev/sdb"):
        choose_disks(ALL, never(DiskMatch(rotational=True)), {"system": DiskMatch(path="/dev/sdb")})


def test_never_touch_leaves_the_other_of_two_that_match() -> None:
    layout = never(DiskMatch(transport="usb"))
    size = (SizeCondition(compare=Compare.EQUAL, size=480 * GIB),)
    assert choose_disks(ALL, layout, {"system": DiskMatch(size=size)})["system"] is SSD


def test_a_path_of_a_multipath_device_is_not_the_disk() -> None:
    disks = multipath().disks
    chosen = choose_disks(disks, default_layout(), {"system": DiskMatch(serial="LUN7")})
    assert chosen["system"].path == "/dev/mapper/mpatha"
    with pytest.raises(DiskMissing, match="/dev/sdc is one path to /dev/mapper/mpatha"):
        choose_disks(disks, default_layout(), {"system": DiskMatch(path="/dev/sdc")})


def test_another_sector_size_is_refused() -> None:
    layout = replace(default_layout(), disks=(DiskWish(id="system", sector=4096),))
    with pytest.raises(LayoutUnfit, match="has sectors of 512 bytes, the layout was made for 4096"):
        choose_disks(ALL, layout, {"system": DiskMatch(path="/dev/sda")})


def test_words_of_the_command_line_name_the_layouts_disks() -> None:
    layout = two_disks(DiskMatch(), DiskMatch(serial="SDB"))
    assert named_disks(layout, ["X1"]) == {"system": "X1"}
    assert named_disks(layout, ["data=Y", "X1"]) == {"data": "Y", "system": "X1"}
    both = two_disks(DiskMatch(serial="SDA"), DiskMatch(serial="SDB"))
    with pytest.raises(InvalidInput, match="has 2 disks: which one is X1"):
        named_disks(both, ["X1"])
    with pytest.raises(InvalidInput, match="named twice"):
        named_disks(layout, ["X1", "system=X2"])
