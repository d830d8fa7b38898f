"""Partition tables of a plan: the entries, and the steps that wipe, write, show and seal. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from nodectl.disk.compare import UNFINISHED_GPT, UNFINISHED_MBR, Found, table_flags
from nodectl.disk.facts import DiskFacts
from nodectl.disk.kinds import MBR_EXTENDED, TableKind, type_code
from nodectl.disk.model import Layout
from nodectl.disk.placing import Placed, partition_path
from nodectl.disk.steps import (
    DiscardBlocks,
    Region,
    SealTable,
    ShowPartitions,
    Step,
    TableEntry,
    WipeSignatures,
    WriteTable,
)
from nodectl.disk.volumes import DiskWish, Filesystem, Partition
from nodectl.units import MIB

# LUKS2 keeps copies of its header up to 4 MiB, btrfs at 64 MiB (which only a superblock finds), md,
# ZFS and GPT at the end. ReaR wipes as much (doc, README.wipe_disks).
WIPED_ENDS = 16 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPartition:
    """A partition as it will be."""

    partition: Partition
    disk: str  # path
    number: int
    path: str  # /dev/sda1, /dev/nvme0n1p1, /dev/loop0p1
    start: int  # bytes
    size: int  # bytes
    uuid: str  # as udev names it: capitals for a GPT, "1a2b3c4d-01" for an MBR
    filesystem: Filesystem | None
    is_kept: bool = False


def plan_partitions(
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    found: Found,
    new_uuid: Callable[[], UUID],
) -> tuple[PlannedPartition, ...]:
    """Return all partitions of the layout, in its order."""
    planned = {}
    for name, places in placed.items():
        for each in places:
            if each.partition is None:
                continue
            old = found.uuids.get(each.partition.id) or (each.kept.uuid if each.kept else "")
            uuid = old or each.partition.uuid.upper() or str(new_uuid()).upper()
            path = chosen[name].path
            planned[each.partition.id] = PlannedPartition(
                partition=each.partition,
                disk=path,
                number=each.number,
                path=each.kept.path if each.kept else partition_path(path, each.number),
                start=each.start,
                size=each.size,
                uuid=uuid,
                filesystem=layout.filesystem_on(each.partition.id),
                is_kept=each.kept is not None or each.partition.id in found.devices,
            )
    return tuple(planned[part.id] for part in layout.partitions)


def table_steps(
    layout: Layout,
    written: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    partitions: Sequence[PlannedPartition],
    uuids: Mapping[str, str],
) -> tuple[Step, ...]:
    """Return the steps up to partitions that are there and empty, for all disks at once."""
    wishes = [disk for disk in layout.used_disks if disk.id in written]
    discards: list[Step] = []
    wipes: list[Step] = []
    tables: list[Step] = []
    shows: list[Step] = []
    for wish in wishes:
        disk, places = written[wish.id], placed[wish.id]
        if wish.discard and not any(each.kept for each in places):
            discards.append(DiscardBlocks(device=disk.path))
        wipes.append(_wipe(disk, places))
        if wish.table is TableKind.NONE:
            continue
        entries = _entries(wish, disk, places, partitions)
        tables.append(
            WriteTable(
                disk=disk.path,
                table=wish.table,
                uuid=_unfinished(wish, uuids[wish.id]),
                sector=disk.logical_sector,
                entries=entries,
            )
        )
        shows.append(ShowPartitions(disk=disk.path, entries=entries, is_map=disk.type == "mpath"))
    fresh = [
        WipeSignatures(device=each.path)
        for each in partitions
        if not each.is_kept and any(each.disk == disk.path for disk in written.values())
    ]
    return (*discards, *wipes, *tables, *shows, *fresh)


def _unfinished(wish: DiskWish, uuid: str) -> str:
    return UNFINISHED_MBR if wish.table is TableKind.MBR else UNFINISHED_GPT + uuid[18:]


def seal_steps(
    layout: Layout, written: Mapping[str, DiskFacts], uuids: Mapping[str, str]
) -> tuple[SealTable, ...]:
    """Return the steps that mark the disks as complete."""
    return tuple(
        SealTable(disk=written[wish.id].path, table=wish.table, uuid=uuids[wish.id])
        for wish in layout.used_disks
        if wish.id in written and wish.table is not TableKind.NONE
    )


def _wipe(disk: DiskFacts, places: Sequence[Placed]) -> WipeSignatures:
    """Return what is zeroed: both ends of the disk, of old partitions, and of new ones."""
    kept = [each.region for each in places if each.kept]
    old = disk.contents.partitions if disk.contents else ()
    spans = [Region(start=each.start, size=each.size) for each in old]
    spans += [each.region for each in places]
    spans += [Region(start=0, size=disk.size)] if not kept else []
    zeros: list[Region] = []
    for span in spans:
        end = min(span.end, disk.size)
        for begin, stop in (
            (span.start, min(span.start + WIPED_ENDS, end)),
            (max(end - WIPED_ENDS, span.start), end),
        ):
            if 0 <= begin < stop:
                zeros.append(Region(start=begin, size=stop - begin))
    return WipeSignatures(device=disk.path, zeros=without(merged(zeros), kept), erase=not kept)


def merged(regions: Sequence[Region]) -> list[Region]:
    """Return the same bytes as few regions, in order."""
    found: list[Region] = []
    for each in sorted(regions, key=lambda region: region.start):
        if found and each.start <= found[-1].end:
            last = found.pop()
            end = max(last.end, each.end)
            found.append(Region(start=last.start, size=end - last.start))
        else:
            found.append(each)
    return found


def without(regions: Sequence[Region], kept: Sequence[Region]) -> tuple[Region, ...]:
    """Return the bytes of `regions` that are in none of `kept`."""
    left = list(regions)
    for keep in kept:
        cut: list[Region] = []
        for each in left:
            head = min(each.end, keep.start) - each.start
            tail_start = max(each.start, keep.end)
            if head > 0:
                cut.append(Region(start=each.start, size=head))
            if each.end > tail_start:
                cut.append(Region(start=tail_start, size=each.end - tail_start))
        left = cut
    return tuple(left)


def _entries(
    wish: DiskWish,
    disk: DiskFacts,
    places: Sequence[Placed],
    partitions: Sequence[PlannedPartition],
) -> tuple[TableEntry, ...]:
    uuids = {each.partition.id: each.uuid for each in partitions}
    gpt = wish.table is TableKind.GPT
    entries = []
    for each in places:
        part, old = each.partition, each.kept
        path = old.path if old else partition_path(disk.path, each.number)
        if part is None:
            entries.append(
                TableEntry(
                    number=each.number,
                    path=path,
                    start=each.start,
                    size=each.size,
                    type=MBR_EXTENDED,
                    is_extended=True,
                )
            )
            continue
        entries.append(
            TableEntry(
                number=each.number,
                path=path,
                start=each.start,
                size=each.size,
                type=old.type if old else type_code(part.type, wish.table) or "",
                uuid=uuids[part.id] if gpt else "",
                name=(old.label if old else part.label or part.id) if gpt else "",
                flags=old.flags if old else table_flags(part),
            )
        )
    return tuple(entries)
