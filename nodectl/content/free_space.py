"""What file systems call free: ranges of an image that need not be read. Read-only.

A range counts as free only when a tool of that file system says so and the file system is clean
and alone in its place; whatever cannot be known is read.

* ext2, ext3, ext4, also inside partitions: the groups' free blocks, from dumpe2fs (e2fsprogs). It
  must be clean, its journal empty, and the free blocks as many as the superblock counts. What an
  empty journal holds behind its own superblock is of no use to anybody, and other after each use:
  it counts as free where the journal is mapped by extents (debugfs tells where it is).
* XFS and btrfs that begin with the image: the domain log of partclone (partclone.xfs and
  partclone.btrfs, which writes a mapfile as ddrescue has it). XFS must have a clean log, btrfs no
  log tree, and one device.

That nothing else claims the same place is asked of blkid: a disk may carry the superblock of a
file system that stood there before it was partitioned or became a part of something else.
"""

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from nodectl.content.manifest import Extent
from nodectl.errors import CommandFailed, ToolMissing
from nodectl.run import run

log = logging.getLogger(__name__)

_TIMEOUT_S = 3600.0  # terabytes have many bitmaps
_NOTHING_FOUND, _AMBIVALENT = 2, 8  # statuses of blkid --probe
_EXT = frozenset({"ext2", "ext3", "ext4"})
_BTRFS_SUPER = 0x10000
_BTRFS_LOG_ROOT, _BTRFS_DEVICES = 0x60, 0x88  # u64 little-endian, in the superblock
_FREE_GROUP = re.compile(rb"^  Free blocks: (.*)$", re.MULTILINE)
_JOURNAL_INODE = 8
# Of a leaf: level, depth, "n/ of", logical from - to, physical from - to, blocks.
_EXTENT = re.compile(
    rb"^ *(\d+)/ *(\d+) +\d+/ *\d+ +(\d+) - +(\d+) +(\d+) - +(\d+) +(\d+)", re.MULTILINE
)
_RANGE = re.compile(rb"0x([0-9a-f]+)(?:-0x([0-9a-f]+))?")


class _Place(NamedTuple):
    """A part of the image that may hold a file system."""

    offset: int  # bytes
    size: int


def free_ranges(path: Path, size: int) -> tuple[Extent, ...]:
    """Return offset and length of what is free in an image that nobody writes to, in order.

    Args:
        path: a raw file or a block device.
        size: its bytes.
    """
    try:
        found = list(_free(path.absolute(), size))
    except (CommandFailed, ToolMissing, OSError, ValueError, KeyError) as exc:
        log.info("what is free in %s is not known, so all of it is read: %s", path, exc)
        return ()
    return tuple(sorted(found))


def _free(path: Path, size: int) -> Iterator[Extent]:
    facts = _signatures(path, _Place(0, size))
    match facts.get("TYPE"), facts.get("PTTYPE"):
        case (("ext2" | "ext3" | "ext4"), None):
            yield from _free_of_ext(path, _Place(0, size))
        case "xfs", None if _xfs_is_clean(path):
            yield from _free_by_partclone(path, "partclone.xfs", size)
        case "btrfs", None if _btrfs_is_clean(path):
            yield from _free_by_partclone(path, "partclone.btrfs", size)
        case None, "gpt" | "dos":
            for place in _partitions(path, size):
                if _signatures(path, place).get("TYPE") in _EXT:
                    yield from _free_of_ext(path, place)
        case _:
            return


def _signatures(path: Path, place: _Place) -> dict[str, str]:
    """Return what blkid finds in a place; nothing where there is more than one file system."""
    where = ("--offset", str(place.offset), "--size", str(place.size))
    done = run(
        ["blkid", "--probe", "--output", "export", *where, path],
        ok=(0, _NOTHING_FOUND, _AMBIVALENT),
    )
    if done.status:
        return {}
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _partitions(path: Path, size: int) -> Iterator[_Place]:
    table = json.loads(run(["sfdisk", "--json", path]).stdout)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    for one in table.get("partitions", ()):
        place = _Place(one["start"] * sector, one["size"] * sector)
        if place.offset + place.size <= size:
            yield place


# ---------------------------------------------------------------- ext2, ext3, ext4


def _free_of_ext(path: Path, place: _Place) -> Iterator[Extent]:
    if "?" in str(path):  # what follows it would be taken for options
        return
    # The offset within a file is an option of libext2fs's unix_io manager.
    said = run(["dumpe2fs", "-x", f"{path}?offset={place.offset}"], timeout=_TIMEOUT_S).stdout
    header, _, groups = said.partition(b"\n\n\n")
    facts = dict(line.split(b":", 1) for line in header.splitlines() if b":" in line)
    if facts[b"Filesystem state"].strip() != b"clean":
        return
    if b"needs_recovery" in facts[b"Filesystem features"].split():
        return
    block, blocks = int(facts[b"Block size"]), int(facts[b"Block count"])
    free = [
        (int(first, 16), int(last or first, 16) + 1)
        for line in _FREE_GROUP.findall(groups)
        for first, last in _RANGE.findall(line)
    ]
    counted = sum(end - begin for begin, end in free)
    fits = blocks * block <= place.size and all(end <= blocks for _, end in free)
    if not fits or counted != int(facts[b"Free blocks"]):
        raise ValueError(f"{counted} free blocks found, not {int(facts[b'Free blocks'])}")
    for begin, end in sorted([*free, *_empty_journal(path, place, facts)]):
        yield place.offset + begin * block, (end - begin) * block


def _empty_journal(
    path: Path, place: _Place, facts: Mapping[bytes, bytes]
) -> Iterator[tuple[int, int]]:
    """Yield first block and block behind of what an empty journal holds after its superblock."""
    own = facts.get(b"Journal inode", b"").strip() == str(_JOURNAL_INODE).encode()
    if not own or facts.get(b"Journal start", b"").strip() != b"0":
        return
    said = run(["debugfs", "-R", f"ex <{_JOURNAL_INODE}>", f"{path}?offset={place.offset}"]).stdout
    leaves = [tuple(map(int, found[2:])) for found in _EXTENT.findall(said) if found[0] == found[1]]
    total = sum(blocks for *_, blocks in leaves)
    if not leaves or total != int(facts.get(b"Total journal blocks", b"0")):
        return
    for logical, _, first, last, blocks in leaves:
        if last - first + 1 != blocks:
            return
        begin = first + 1 if logical == 0 else first
        if begin <= last:
            yield begin, last + 1


# ---------------------------------------------------------------- XFS, btrfs


def _xfs_is_clean(path: Path) -> bool:
    said = run(["xfs_logprint", "-t", path], timeout=_TIMEOUT_S).stdout
    return b"state: <CLEAN>" in said


def _btrfs_is_clean(path: Path) -> bool:
    """Say whether the bitmaps tell all: files synced since the last commit are in a log tree."""
    with path.open("rb") as file:
        file.seek(_BTRFS_SUPER)
        block = file.read(4096)

    def number(offset: int) -> int:
        return int.from_bytes(block[offset : offset + 8], "little")

    return number(_BTRFS_LOG_ROOT) == 0 and number(_BTRFS_DEVICES) == 1


def _free_by_partclone(path: Path, tool: str, size: int) -> Iterator[Extent]:
    with tempfile.TemporaryDirectory(prefix="nodectl-") as folder:
        domain, story = Path(folder) / "domain", Path(folder) / "log"
        words = ("--domain", "--offset_domain=0", "--logfile", story, "--source", path)
        run([tool, *words, "--output", domain], timeout=_TIMEOUT_S)
        yield from free_of_domain(domain.read_text(), size)


def free_of_domain(text: str, size: int) -> Iterator[Extent]:
    """Yield what a domain log of partclone calls free ("?"), of an image of `size` bytes.

    Its lines are position, length and status; the first of them is where ddrescue would begin.

    Raises:
        ValueError: the lines do not follow each other from 0 on, or lead beyond the image.
    """
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    at = 0
    for words in lines[1:]:
        begin, length, status = int(words[0], 16), int(words[1], 16), words[2]
        if begin != at or begin + length > size:
            raise ValueError(f"a domain log with a range from {begin} behind one to {at}")
        at = begin + length
        if status == "?":
            yield begin, length
