"""What a disk layout is: a graph of named volumes that does not contradict itself. Pure.

A partition stands on a disk; RAID, LVM and LUKS stand on partitions, disks or each other; a
filesystem stands on any volume. The parts are `disk/volumes.py`, the written form (TOML) is
`disk/text.py`, what is wrong with a layout says `disk/mistakes.py`, what a real disk looks like is
`disk/facts.py`.
"""

from dataclasses import dataclass

from nodectl.disk.kinds import FsType
from nodectl.disk.mistakes import layout_mistakes
from nodectl.disk.volumes import DiskWish, Filesystem, Partition, Parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout(Parts):
    """How disks are partitioned, combined and formatted."""

    def __post_init__(self) -> None:
        """Refuse a layout that contradicts itself."""
        mistakes = layout_mistakes(self)
        if mistakes:
            raise ValueError("; ".join(f"{each.field}: {each.text}" for each in mistakes))


def default_layout() -> Layout:
    """Return the layout that is used when none is given: one ext4 root on the whole disk.

    It has no room for a boot loader (no ESP, no BIOS boot partition): the data is complete and
    mountable; a machine boots it by netboot or after a layout with those partitions was used.
    """
    return Layout(
        name="default",
        disks=(DiskWish(id="system"),),
        partitions=(Partition(id="root", disk="system", type="linux"),),
        filesystems=(Filesystem(volume="root", type=FsType.EXT4, label="root", mount="/"),),
    )
