"""What holds disks goes innermost first, and what must not go stops everything."""

from dataclasses import replace

import pytest
from disk_machines import disk, held, holding, mirror_with_lvm, multipath, node, part

from nodectl.disk.facts import MachineFacts, MountEntry, Use, UseKind
from nodectl.disk.release import plan_release
from nodectl.errors import DiskBusy


def words(machine: MachineFacts, *, unmount: bool = False, only: int | None = None) -> list[str]:
    disks = machine.disks[:only] if only else machine.disks
    return [each.describe() for each in plan_release(machine, disks, unmount=unmount)]


def test_luks_on_lvm_on_md_goes_from_the_top() -> None:
    assert words(mirror_with_lvm()) == [
        "take down vg0-root (LVM)",
        "take down safe (CRYPT)",
        "take down vg0-luks (LVM)",
        "stop md127 (md raid1)",
        "drop the old partitions of /dev/sda from the kernel",
        "drop the old partitions of /dev/sdb from the kernel",
    ]


def test_an_array_with_a_member_on_another_disk_is_not_taken_apart() -> None:
    with pytest.raises(DiskBusy, match=r"also stands on /dev/sdb, which the layout does not name"):
        words(mirror_with_lvm(), only=1)


def test_a_group_that_is_spread_is_not_torn_even_if_no_volume_of_it_is() -> None:
    machine = mirror_with_lvm()
    group = replace(machine.groups[0], name="data", devices=("/dev/sda1", "/dev/sdz1"))
    more = (node("sdz", 99), node("sdz1", 98, "sdz"))
    alone = replace(
        machine,
        disks=machine.disks[:1],
        blocks=(node("sda", 0), node("sda1", 1, "sda", "dm-9"), *more,
                node("dm-9", 209, dm_name="data-a", dm_uuid="LVM-9", words="data-a (LVM)")),
        groups=(group,),
    )  # fmt: skip
    with pytest.raises(DiskBusy, match=r"volume group data also stands on /dev/sdz"):
        words(alone)


def in_use() -> MachineFacts:
    facts = holding(
        disk("/dev/sda"), part(1, "/dev/sda1", 1, 100, "ext4"), part(2, "/dev/sda2", 200, 9)
    )
    uses = (
        Use(kind=UseKind.MOUNT, device="/dev/sda1", detail="/data"),
        Use(kind=UseKind.SWAP, device="/dev/sda2", detail=""),
    )
    return MachineFacts(
        disks=(replace(facts, uses=uses),),
        blocks=(node("sda", 0), node("sda1", 1, "sda"), node("sda2", 2, "sda")),
        mounts=(
            MountEntry(device="8:1", target="/data", source="/dev/sda1"),
            MountEntry(device="8:1", target="/data/inner", source="/dev/sda1"),
        ),
        swaps=("/dev/sda2",),
    )


def test_mounts_and_swap_go_only_when_that_was_said() -> None:
    with pytest.raises(DiskBusy, match=r"/dev/sda1 is mounted at /data") as caught:
        words(in_use())
    assert "--unmount does it" in caught.value.hint
    assert words(in_use(), unmount=True) == [
        "unmount /dev/sda1 from /data/inner",
        "unmount /dev/sda1 from /data",
        "stop swapping to /dev/sda2",
        "drop the old partitions of /dev/sda from the kernel",
    ]


@pytest.mark.parametrize("kind", [UseKind.SYSTEM, UseKind.CLAIMED, UseKind.READ_ONLY])
def test_some_are_never_taken_down(kind: UseKind) -> None:
    machine = in_use()
    use = Use(kind=kind, device="/dev/sda1", detail="/")
    with pytest.raises(DiskBusy, match="nothing was written"):
        words(replace(machine, disks=(replace(machine.disks[0], uses=(use,)),)), unmount=True)


def test_a_multipath_device_is_a_disk_and_not_taken_down() -> None:
    machine = multipath()
    assert plan_release(machine, [machine.disks[2]], unmount=False) == ()


def test_bcache_and_loop_devices_go_too() -> None:
    machine = MachineFacts(
        disks=(held(holding(disk("/dev/sda"), part(1, "/dev/sda1", 1, 9)), "/dev/sda1"),),
        blocks=(
            node("sda", 0),
            node("sda1", 1, "sda", "bcache0"),
            node("bcache0", 60),
            node("loop4", 70, backing_file="/dev/bcache0"),
        ),
    )
    assert words(machine)[:2] == ["detach /dev/loop4", "stop bcache0"]
