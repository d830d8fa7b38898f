"""What the kernel shows of block devices: /sys/class/block, and udev's links under /dev/disk.

Reads only. What a device holds is read by `disk/probe.py` and `disk/probe_stack.py`.
"""

import os
from pathlib import Path

from nodectl.disk.facts import BlockNode

SYS = Path("/sys/class/block")
INACTIVE = "inactive"  # in place of a level: an array that has members and does not run


def read_links() -> dict[str, list[str]]:
    """Return the links under /dev/disk by the device that they lead to."""
    links: dict[str, list[str]] = {}
    for link in Path("/dev/disk").glob("by-*/*"):
        links.setdefault(os.path.realpath(link), []).append(str(link))
    return links


def read_blocks() -> tuple[BlockNode, ...]:
    """Return every block device."""
    return tuple(_read_block(folder) for folder in sorted(SYS.iterdir()))


def _read_block(folder: Path) -> BlockNode:
    is_partition = (folder / "partition").exists()
    holders = folder / "holders"
    return BlockNode(
        name=folder.name,
        device=sys_line(folder / "dev"),
        parent=folder.resolve().parent.name if is_partition else "",
        holders=tuple(sorted(each.name for each in holders.iterdir())) if holders.is_dir() else (),
        words=_holder_words(folder),
        sequence=int(sys_line(folder / "diskseq") or 0),
        backing_file=sys_line(folder / "loop" / "backing_file"),
        serial=_serial(folder),
        dm_name=sys_line(folder / "dm" / "name"),
        dm_uuid=sys_line(folder / "dm" / "uuid"),
        md_level=_md_level(folder / "md"),
    )


def _md_level(folder: Path) -> str:
    """Return the level of an array, `INACTIVE` for one that was begun and not started.

    Such a one holds its members too: the half of an old mirror that udev found. The kernel knows no
    level before it runs, or has it from another one: Documentation/admin-guide/md.rst.
    """
    level = sys_line(folder / "level")
    return INACTIVE if sys_line(folder / "array_state") == INACTIVE else level


def _serial(folder: Path) -> str:
    """Return the serial that the kernel knows; lsblk has it from udev, which may not run."""
    plain = sys_line(folder / "serial") or sys_line(folder / "device" / "serial")
    if plain:
        return plain
    try:
        page = (folder / "device" / "vpd_pg80").read_bytes()
    except OSError:
        return ""
    # SPC-4 section 7.8.18: a header of 4 bytes, then the serial in ASCII.
    return page[4:].decode("ascii", "replace").strip("\0 ")


def _holder_words(folder: Path) -> str:
    """Return the name of a device-mapper or md device as people know it."""
    name = sys_line(folder / "dm" / "name")
    if name:
        return f"{name} ({sys_line(folder / 'dm' / 'uuid').split('-')[0] or 'device-mapper'})"
    level = _md_level(folder / "md")
    return f"{folder.name} (md {level})" if level else folder.name


def sys_line(path: Path) -> str:
    """Return a line of sysfs; empty where it is not there, or its device has just gone."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
