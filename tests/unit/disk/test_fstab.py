"""fstab of a clone: the layout's entries are new, the image's others stay where they can."""

from nodectl.disk.fstab import merge_fstab
from nodectl.disk.kinds import FsType
from nodectl.disk.plan_content import PlannedFilesystem
from nodectl.disk.volumes import Filesystem, Subvolume, SwapFile


def planned(
    number: int, fs_type: FsType, mount: str = "", options: tuple[str, ...] = ()
) -> PlannedFilesystem:
    return PlannedFilesystem(
        filesystem=Filesystem(
            volume=f"p{number}", type=fs_type, mount=mount, mount_options=options
        ),
        device=f"/dev/x{number}",
        size=0,
        uuid=f"U{number}",
    )


PARTS = (
    planned(1, FsType.SWAP),
    planned(2, FsType.XFS, "/home", ("noatime", "nodev")),
    planned(3, FsType.EXT4, "/"),
)
NEW = [
    "UUID=U1 none swap sw 0 0",
    "UUID=U3 / ext4 defaults 0 1",
    "UUID=U2 /home xfs noatime,nodev 0 0",
]


def lines(old: str) -> list[str]:
    return [line for line in merge_fstab(old, PARTS).splitlines() if "nodectl from" not in line]


def test_no_fstab_gives_the_layouts_entries_parents_first() -> None:
    assert lines("") == NEW


def test_entries_of_the_layouts_mount_points_and_swap_devices_go() -> None:
    old = "UUID=old / ext4 defaults 0 1\nLABEL=h /home/ ext4 defaults 0 2\n/dev/sda3 none swap sw\n"
    assert lines(old) == NEW


def test_network_bind_tmpfs_comments_and_swap_files_stay() -> None:
    old = [
        "# the site's own",
        "filer:/home2 /home2 nfs4 rw 0 0",
        "tmpfs /tmp tmpfs size=1G 0 0",
        "/srv/a /srv/b none bind 0 0",
        "/swapfile none swap sw 0 0",
        "/dev/cdrom /media iso9660 noauto 0 0",
    ]
    assert lines("\n".join(old)) == [*old, *NEW]


def test_a_local_disk_outside_the_layout_becomes_a_comment() -> None:
    assert lines("UUID=9 /data xfs defaults 0 0")[0] == (
        "# nodectl: not part of the disk layout: UUID=9 /data xfs defaults 0 0"
    )


def test_merging_twice_changes_nothing() -> None:
    once = merge_fstab("tmpfs /tmp tmpfs size=1G 0 0\nUUID=9 /data xfs defaults 0 0\n", PARTS)
    assert merge_fstab(once, PARTS) == once


def test_subvolumes_are_mounted_each_with_its_options() -> None:
    fs = Filesystem(
        volume="p",
        type=FsType.BTRFS,
        subvolumes=(
            Subvolume(path="@home", mount="/home", mount_options=("noatime",)),
            Subvolume(path="@", mount="/"),
            Subvolume(path="@old"),
        ),
    )
    text = merge_fstab("", [PlannedFilesystem(filesystem=fs, device="/dev/x", size=0, uuid="U")])
    assert text.splitlines()[1:] == [
        "UUID=U / btrfs subvol=@ 0 0",
        "UUID=U /home btrfs noatime,subvol=@home 0 0",
    ]


def test_swap_files_of_the_layout_replace_the_images() -> None:
    files = (SwapFile(path="/swapfile", size=1 << 20, priority=5),)
    text = merge_fstab("/swapfile none swap sw 0 0\n/other none swap sw 0 0\n", (), files)
    assert text.splitlines() == [
        "/other none swap sw 0 0",
        "# Local filesystems below were written by nodectl from the disk layout.",
        "/swapfile none swap sw,pri=5 0 0",
    ]
