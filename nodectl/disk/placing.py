"""Where each partition of a layout comes to stand on a disk: aligned, inside, disjoint. Pure.

Partitions follow each other in the order of the layout. One that is kept, or has a start, is an
anchor: those before it share the room up to it. Logical partitions of an MBR each have a gap in
front of them for their own record, and stand inside one extended partition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodectl.disk.facts import DiskFacts, PartitionFacts
from nodectl.disk.kinds import MBR_PRIMARIES, MBR_SECTORS, TableKind
from nodectl.disk.sizes import TooLittleRoom, round_up, share_out, size_words
from nodectl.disk.steps import Region
from nodectl.disk.volumes import DiskWish, Partition
from nodectl.errors import DiskTooSmall, LayoutUnfit
from nodectl.units import MIB

_GPT_ENTRIES_BYTES = 128 * 128  # UEFI specification 2.10 section 5.3.1: entries, each end


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A partition with its place; `partition` is None for the extended one of an MBR."""

    partition: Partition | None
    number: int
    start: int  # bytes
    size: int  # bytes
    kept: PartitionFacts | None = None

    @property
    def region(self) -> Region:
        """The bytes that it covers."""
        return Region(start=self.start, size=self.size)


def usable_region(disk: DiskFacts, wish: DiskWish) -> Region:
    """Return the aligned part of the disk that partitions may fill."""
    sector, alignment = disk.logical_sector, wish.alignment
    start = round_up(MIB, alignment)  # BIOS boot loaders live in the MiB before it
    if wish.table is TableKind.MBR:
        end = min(disk.size, MBR_SECTORS * sector)
    else:
        end = disk.size - round_up(_GPT_ENTRIES_BYTES, sector) - sector
    return Region(start=start, size=max(end // alignment * alignment - start, 0))


def place(
    disk: DiskFacts,
    wish: DiskWish,
    partitions: Sequence[Partition],
    kept: Mapping[str, PartitionFacts],
) -> tuple[Placed, ...]:
    """Give each partition its number, start and size, in the order of their starts.

    Raises:
        DiskTooSmall: they do not fit.
        LayoutUnfit: what is kept stands in another order than in the layout.
    """
    usable = usable_region(disk, wish)
    runs: list[tuple[int, list[Partition]]] = [(usable.start, [])]  # begin, partitions
    regions: list[Region] = []
    for part in partitions:
        old = kept.get(part.id)
        anchor = old.start if old else part.start
        if anchor is not None:
            begin = runs[-1][0]
            if anchor < begin and old:
                raise LayoutUnfit(
                    f"{old.path} is kept as {part.id!r}, but stands on {disk.path} before what the "
                    "layout has in front of it; nothing was written",
                    hint="write the partitions of the layout in the order of their starts",
                )
            regions.append(Region(start=begin, size=max(anchor - begin, 0)))
            runs.append((round_up(old.start + old.size, wish.alignment) if old else anchor, []))
        if old is None:
            runs[-1][1].append(part)
    regions.append(Region(start=runs[-1][0], size=max(usable.end - runs[-1][0], 0)))
    starts: dict[str, Region] = {
        name: Region(start=old.start, size=old.size) for name, old in kept.items()
    }
    for (_, run), region in zip(runs, regions, strict=True):
        starts |= _fill(disk, wish, run, region)
    return _numbered(partitions, starts, kept, wish)


def _fill(
    disk: DiskFacts, wish: DiskWish, run: Sequence[Partition], region: Region
) -> dict[str, Region]:
    """Lay partitions one behind the other into a region."""
    if not run:
        return {}
    gap = wish.alignment
    room = region.size // gap * gap - gap * sum(part.logical for part in run)
    try:
        sizes = share_out(room, [part.size for part in run], gap)
    except TooLittleRoom as exc:
        raise DiskTooSmall(
            f"{disk.path} has room for {size_words(max(room, 0))} of partitions, "
            f"the layout needs {size_words(exc.needed)}; nothing was written",
            hint="use a larger disk or smaller sizes in the layout",
        ) from exc
    found = {}
    at = region.start
    for part, size in zip(run, sizes, strict=True):
        at += gap if part.logical else 0
        found[part.id] = Region(start=at, size=size)
        at += size
    return found


def _numbered(
    partitions: Sequence[Partition],
    places: Mapping[str, Region],
    kept: Mapping[str, PartitionFacts],
    wish: DiskWish,
) -> tuple[Placed, ...]:
    taken = {old.number for old in kept.values()}
    taken |= {part.number for part in partitions if part.number is not None}
    placed: list[Placed] = []
    logical = [part for part in partitions if part.logical]
    for part in partitions:
        if logical and part is logical[0]:
            placed.append(_extended(logical, places, taken, wish))
        old = kept.get(part.id)
        number = old.number if old else part.number or _free(taken, logical=part.logical)
        taken.add(number)
        region = places[part.id]
        placed.append(
            Placed(partition=part, number=number, start=region.start, size=region.size, kept=old)
        )
    return tuple(placed)


def _free(taken: set[int], *, logical: bool) -> int:
    number = MBR_PRIMARIES + 1 if logical else 1
    while number in taken:
        number += 1
    return number


def _extended(
    logical: Sequence[Partition], places: Mapping[str, Region], taken: set[int], wish: DiskWish
) -> Placed:
    number = _free(taken, logical=False)
    taken.add(number)
    start = places[logical[0].id].start - wish.alignment
    end = places[logical[-1].id].end
    return Placed(partition=None, number=number, start=start, size=end - start)


def partition_path(disk: str, number: int) -> str:
    """Return the node of a partition: sda1, but nvme0n1p1, loop0p1, mmcblk0p1, mpatha-part1.

    Sources: Linux block/partitions/core.c, "p" stands between when the name ends with a digit;
    kpartx(8), called with `-p -part`.
    """
    if disk.startswith("/dev/mapper/"):
        return f"{disk}-part{number}"
    return f"{disk}p{number}" if disk[-1].isdigit() else f"{disk}{number}"


def kept_partitions(disk: DiskFacts, partitions: Sequence[Partition]) -> dict[str, PartitionFacts]:
    """Return the partitions on the disk that the layout keeps, by their ids in it.

    Raises:
        LayoutUnfit: one that must be there is not, or more than one is meant.
    """
    old = disk.contents.partitions if disk.contents else ()
    kept: dict[str, PartitionFacts] = {}
    for part in partitions:
        if part.preserve == "none":
            continue
        found = [each for each in old if _is_meant(part, each)]
        if len(found) > 1 or (not found and part.preserve == "keep"):
            how = "no partition" if not found else f"{len(found)} partitions"
            raise LayoutUnfit(
                f"{part.id!r} is to be kept, and {disk.path} has {how} with {_wanted(part)}; "
                "nothing was written",
                hint="correct number, uuid or label in the layout, or choose another disk",
            )
        if found:
            kept[part.id] = found[0]
    return kept


def _is_meant(part: Partition, old: PartitionFacts) -> bool:
    return (
        (not part.uuid or part.uuid.upper() == old.uuid.upper())
        and (part.number is None or part.number == old.number)
        and (part.start is None or part.start == old.start)
        and (_is_named(part) or (part.label or part.id) == old.label)
    )


def _is_named(part: Partition) -> bool:
    return bool(part.uuid) or part.number is not None or part.start is not None


def _wanted(part: Partition) -> str:
    words = [f"uuid {part.uuid}"] if part.uuid else []
    words += [f"number {part.number}"] if part.number is not None else []
    words += [f"start {part.start}"] if part.start is not None else []
    return ", ".join(words) or f"the label {part.label or part.id!r}"
