"""A disk plan -> where its system boots from."""

from dataclasses import replace

import pytest
from disk_samples import MIB, SDA, layout_of, plan_of

from nodectl.boot.model import BootPlace
from nodectl.disk.kinds import FsType
from nodectl.disk.volumes import Filesystem, Subvolume
from nodectl.node.booting import boot_place


def place_of(**root: object) -> BootPlace:
    """Return the place of a layout with an ESP, and a btrfs that is told about by `root`."""
    plain = layout_of(
        ("esp", FsType.VFAT, 64 * MIB, "/boot/efi"), ("root", FsType.BTRFS, None, "/")
    )
    esp, system = plain.partitions
    layout = replace(
        plain,
        partitions=(replace(esp, type="esp"), system),
        filesystems=(
            plain.filesystems[0],
            Filesystem(volume="root", type=FsType.BTRFS, **root),  # type: ignore[arg-type]
        ),
    )
    place = boot_place(plan_of(SDA, layout))
    assert place is not None
    return place


def test_a_filesystem_that_is_the_root_as_a_whole() -> None:
    place = place_of(mount="/", subvolumes=(Subvolume(path="@home", mount="/home"),))
    assert place.root_subvolume == ""
    assert [(esp.disk, esp.number, esp.mount) for esp in place.esps] == [
        ("/dev/sda", 1, "/boot/efi")
    ]


@pytest.mark.parametrize("path", ["@", "system/root"])
def test_a_subvolume_that_is_the_root_is_found(path: str) -> None:
    home = Subvolume(path="@home", mount="/home")
    place = place_of(subvolumes=(home, Subvolume(path=path, mount="/")))
    assert place.root_subvolume == path
    assert place.boot_uuid == place.root_uuid
