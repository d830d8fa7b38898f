"""Names, matches and options of a captured layout. Pure."""

import re

from nodectl.disk.facts import DiskFacts
from nodectl.disk.mistakes_words import is_id
from nodectl.disk.volumes import Compare, DiskMatch, SizeCondition

# Options that somebody asked for; the others are the kernel's defaults.
_NOTABLE = re.compile(
    r"noatime|nodiratime|lazytime|strictatime|nodev|nosuid|noexec|sync|dirsync|discard(?:=async)?"
    r"|usrquota|grpquota|prjquota|commit=[0-9]+|compress(?:-force)?=[a-z0-9:]+|autodefrag|nodatacow"
    r"|umask=[0-7]+|fmask=[0-7]+|dmask=[0-7]+"
)
_FAT_DEFAULTS = {"fmask=0022", "dmask=0022"}


def notable_options(options: tuple[str, ...]) -> tuple[str, ...]:
    """Return those options of a mount that a layout should name."""
    return tuple(each for each in options if _NOTABLE.fullmatch(each) and each not in _FAT_DEFAULTS)


def usable_id(wanted: str, otherwise: str, taken: set[str]) -> str:
    """Return an id for a layout: the wanted word, if it can be one and is not taken."""
    return wanted if is_id(wanted) and wanted not in taken else otherwise


def disk_match(disk: DiskFacts) -> DiskMatch:
    """Return what tells a disk from all others, best first: serial, WWN, place, size."""
    if disk.serial and "*" not in disk.serial:
        return DiskMatch(serial=disk.serial)
    if disk.wwn:
        return DiskMatch(wwn=disk.wwn)
    place = next((link for link in disk.links if "/by-path/" in link), "")
    if place:
        return DiskMatch(path=place)
    if disk.model:
        size = SizeCondition(compare=Compare.EQUAL, size=disk.size)
        return DiskMatch(model=disk.model, size=(size,))
    return DiskMatch(path=disk.path)
