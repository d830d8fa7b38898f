"""Everything in which the parts of a layout are wrong or contradict each other. Pure.

What is built on partitions is in `disk/mistakes_stack.py`, filesystems and mounts in
`disk/mistakes_mounts.py`. Each mistake has the field that it is at; `disk/text.py` finds its line.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from nodectl.disk.kinds import (
    GPT_TYPES,
    MAX_GPT_LABEL,
    MAX_PARTITIONS,
    MBR_PRIMARIES,
    MBR_SECTORS,
    MBR_TYPES,
    MIN_ALIGNMENT,
    FsType,
    PartitionFlag,
    Preserve,
    Role,
    TableKind,
    is_guid,
    min_fs_bytes,
    type_code,
)
from nodectl.disk.mistakes_mounts import mount_mistakes
from nodectl.disk.mistakes_stack import stack_mistakes
from nodectl.disk.mistakes_words import LABEL, Mistake, bad_id, is_id, repeated, wrong_ones
from nodectl.disk.sizes import size_words
from nodectl.disk.volumes import DiskWish, Partition, Parts

FIRMWARES = ("", "uefi", "bios")
_SECTORS = (None, 512, 4096)
_HCTL = re.compile(r"(?:[0-9]+|\*):(?:[0-9]+|\*):(?:[0-9]+|\*):(?:[0-9]+|\*)")


def layout_mistakes(parts: Parts) -> tuple[Mistake, ...]:
    """Return everything that is wrong, in the order in which a layout is written."""
    return (
        *_head_mistakes(parts),
        *_disk_mistakes(parts),
        *_partition_mistakes(parts),
        *stack_mistakes(parts),
        *mount_mistakes(parts),
        *_boot_mistakes(parts),
    )


def _head_mistakes(parts: Parts) -> Iterator[Mistake]:
    if parts.firmware not in FIRMWARES:
        yield Mistake(field="firmware", text=f'must be "uefi" or "bios", is {parts.firmware!r}')


def _disk_mistakes(parts: Parts) -> Iterator[Mistake]:
    if not parts.used_disks:
        yield Mistake(field="disk", text="at least one disk that may be written is needed")
    for index, value in repeated([each.id for each in parts.disks]):
        yield Mistake(field=f"disk[{index}].id", text=f"{value!r} is used twice")
    unnamed = [disk.id for disk in parts.used_disks if disk.match.is_empty]
    for index, disk in enumerate(parts.disks):
        for name, text in _one_disk(parts, disk):
            yield Mistake(field=f"disk[{index}].{name}", text=text)
        if disk.match.is_empty and disk.id in unnamed[1:]:
            text = f"only one disk may be left to --disk, and {unnamed[0]!r} is it already"
            yield Mistake(field=f"disk[{index}].match", text=text)
        twin = next(
            (each for each in parts.disks[:index] if _same_disk(each, disk)),
            None,
        )
        if twin:
            text = f"{twin.id!r} is described in the same words: one disk cannot be both"
            yield Mistake(field=f"disk[{index}].match", text=text)
    yield from _role_mistakes(parts)


def _same_disk(first: DiskWish, second: DiskWish) -> bool:
    return first.match == second.match and not first.match.is_empty


def _one_disk(parts: Parts, disk: DiskWish) -> Iterator[tuple[str, str]]:
    untouched = disk.role is Role.NEVER_TOUCH
    whole = disk.table is TableKind.NONE
    partitions = bool(parts.partitions_of(disk.id))
    sector, matched, hctl = disk.sector, disk.match.sector, disk.match.hctl
    sectors = "a logical sector has 512 or 4096 bytes, not "
    return wrong_ones(
        (not is_id(disk.id), "id", bad_id(disk.id)),
        (
            disk.alignment <= 0 or disk.alignment % MIN_ALIGNMENT > 0,
            "alignment",
            "must be a multiple of 4 KiB",
        ),
        (sector not in _SECTORS, "sector", f"{sectors}{sector}"),
        (matched not in _SECTORS, "match.sector", f"{sectors}{matched}"),
        (
            bool(hctl) and not _HCTL.fullmatch(hctl),
            "match.hctl",
            f'must be such as "*:0:0:0", is {hctl!r}',
        ),
        (
            untouched and disk.match.is_empty,
            "match",
            "is needed: which disks are never to be touched?",
        ),
        (untouched and partitions, "role", "a disk that is never touched has no partitions"),
        (whole and partitions, "table", 'a disk with table = "none" has no partitions'),
        (
            not (untouched or whole or partitions),
            "id",
            f"no partition stands on {disk.id!r}; remove it, or give it one",
        ),
    )


def _role_mistakes(parts: Parts) -> Iterator[Mistake]:
    """A system disk carries what the system is mounted from or boots from; a data disk does not."""
    system: set[str] = set()
    for fs in parts.filesystems:
        mounts = {fs.mount, *(each.mount for each in fs.subvolumes)}
        if mounts & {"/", "/usr", "/boot", "/boot/efi", "/efi"}:
            system |= parts.disks_below(fs.volume)
    system |= {each.disk for each in parts.partitions if each.type in {"bios_grub", "prep"}}
    first = next((each.id for each in parts.disks if each.role is Role.SYSTEM), "")
    for index, disk in enumerate(parts.disks):
        if disk.role is Role.SYSTEM and disk.id not in system:
            more = "" if disk.id == first else f" ({first!r} is a system disk already)"
            text = f"nothing that the system is mounted from stands on {disk.id!r}{more}"
            yield Mistake(field=f"disk[{index}].role", text=text)
        if disk.role is Role.DATA and disk.id in system:
            text = f"the system is mounted from {disk.id!r}, so it is no data disk"
            yield Mistake(field=f"disk[{index}].role", text=text)


def _partition_mistakes(parts: Parts) -> Iterator[Mistake]:
    for index, each in repeated([part.uuid.lower() for part in parts.partitions]):
        yield Mistake(field=f"partition[{index}].uuid", text=f"{each!r} is used twice")
    disks = {disk.id: disk for disk in parts.disks}
    for index, part in enumerate(parts.partitions):
        disk = disks.get(part.disk)
        if disk is None:
            text = f"no disk has the id {part.disk!r}"
            yield Mistake(field=f"partition[{index}].disk", text=text)
            disk = DiskWish(id=part.disk)
        for name, text in (*_one_partition(part, disk), *_table_specific(part, disk)):
            yield Mistake(field=f"partition[{index}].{name}", text=text)
    for disk in parts.disks:
        yield from _on_one_disk(parts, disk)


def _one_partition(part: Partition, disk: DiskWish) -> Iterator[tuple[str, str]]:
    known = MBR_TYPES if disk.table is TableKind.MBR else GPT_TYPES
    if type_code(part.type, disk.table) is None:
        form = "two hexadecimal digits" if disk.table is TableKind.MBR else "a GUID"
        yield "type", f"{part.type!r} is neither {form} nor one of {', '.join(known)}"
    if part.uuid and not (is_guid(part.uuid) and disk.table is TableKind.GPT):
        yield "uuid", f"{part.uuid!r} is no UUID, or the table of {disk.id!r} is no GPT"
    if part.start is not None and (part.start < disk.alignment or part.start % disk.alignment):
        aligned = size_words(disk.alignment)
        yield "start", f"must be a multiple of the disk's alignment, {aligned}, and not 0"
    if part.preserve is Preserve.NONE and part.number is not None and part.number < 1:
        yield "number", "numbers begin at 1"
    most = part.size.largest
    if part.type == "esp" and most is not None:
        yield from _esp_mistakes(most, disk.sector or disk.match.sector or 512)


def _esp_mistakes(most: int, sector: int) -> Iterator[tuple[str, str]]:
    least = min_fs_bytes(FsType.VFAT, sector)
    if most < least:
        yield (
            "size",
            f"an ESP holds FAT32, which needs {least >> 20} MiB on sectors of {sector} bytes",
        )


def _table_specific(part: Partition, disk: DiskWish) -> Iterator[tuple[str, str]]:
    active, name = PartitionFlag.ACTIVE in part.flags, part.label
    if disk.table is not TableKind.MBR:
        return wrong_ones(
            (part.logical, "logical", "only an MBR has logical partitions"),
            (active, "flags", "only an MBR has an active partition (a GPT has legacy_boot)"),
            (
                bool(name) and not (LABEL.fullmatch(name) and len(name) <= MAX_GPT_LABEL),
                "label",
                f"{name!r} is no usable label of at most {MAX_GPT_LABEL} letters",
            ),
        )
    number = part.number
    other = sorted(part.flags - {PartitionFlag.ACTIVE})
    return wrong_ones(
        (bool(name), "label", "an MBR has no names for partitions"),
        (bool(other), "flags", f"an MBR has no flag {', '.join(other)} (only active)"),
        (part.logical and active, "flags", "a logical partition cannot be active"),
        (
            part.logical and part.preserve is not Preserve.NONE,
            "preserve",
            "a logical partition cannot be kept, since its extended one is made anew",
        ),
        (
            number is not None and part.logical != (number > MBR_PRIMARIES),
            "number",
            "primary partitions are 1 to 4, logical ones 5 and more",
        ),
    )


def _on_one_disk(parts: Parts, disk: DiskWish) -> Iterator[Mistake]:
    """What is wrong with the partitions of a disk together."""
    here = [(index, each) for index, each in enumerate(parts.partitions) if each.disk == disk.id]
    if len(here) > MAX_PARTITIONS:
        text = f"1 to {MAX_PARTITIONS} partitions are possible on a disk, here are {len(here)}"
        yield Mistake(field="partition", text=text)
    yield from _repeated_on_disk(here, disk)
    if disk.table is TableKind.MBR:
        yield from _mbr_mistakes(here)
        yield from _beyond_mbr(here, disk.sector or disk.match.sector or 512)
    yield from _overlaps(here)
    shares = [(index, each.size.share) for index, each in here if each.size.share is not None]
    if sum(share for _, share in shares) > 10_000:  # noqa: PLR2004 - hundredths of a percent
        text = f"the percentages on {disk.id!r} are more than 100"
        yield Mistake(field=f"partition[{shares[-1][0]}].size", text=text)
    if all(each.preserve is Preserve.NONE for _, each in here):
        yield from _two_rests(here)


def _two_rests(here: Sequence[tuple[int, Partition]]) -> Iterator[Mistake]:
    """Two plain "rest" are a slip; with min, max or weight sharing is meant."""
    rests = [(index, each) for index, each in here if each.size.is_whole_rest]
    plain = [(i, e) for i, e in rests if not e.size.least and e.size.weight == 1]
    for index, _ in plain[1:]:
        text = f'"rest" is already taken by {plain[0][1].id!r}'
        yield Mistake(field=f"partition[{index}].size", text=text)


def _repeated_on_disk(here: Sequence[tuple[int, Partition]], disk: DiskWish) -> Iterator[Mistake]:
    if disk.table is TableKind.GPT:
        for place, value in repeated([each.label or each.id for _, each in here]):
            text = f"{value!r} is used twice"
            yield Mistake(field=f"partition[{here[place][0]}].label", text=text)
    numbers = Counter(each.number for _, each in here if each.number is not None)
    for index, each in here:
        if each.number is not None and numbers[each.number] > 1:
            text = f"{each.number} is used twice on {disk.id!r}"
            yield Mistake(field=f"partition[{index}].number", text=text)


def _mbr_mistakes(here: Sequence[tuple[int, Partition]]) -> Iterator[Mistake]:
    primaries = [index for index, each in here if not each.logical]
    logical = [place for place, (_, each) in enumerate(here) if each.logical]
    room = MBR_PRIMARIES - (1 if logical else 0)
    for index in primaries[room:]:
        beside = " beside logical ones" if logical else ""
        text = f"an MBR has at most {room} primary partitions{beside}; make it logical"
        yield Mistake(field=f"partition[{index}].logical", text=text)
    for before, after in pairwise(logical):
        if after != before + 1:
            text = "logical partitions stand together, without a primary one between them"
            yield Mistake(field=f"partition[{here[after][0]}].logical", text=text)
    active = [index for index, each in here if PartitionFlag.ACTIVE in each.flags]
    for index in active[1:]:
        text = "another partition of the disk is active already"
        yield Mistake(field=f"partition[{index}].flags", text=text)


def _beyond_mbr(here: Sequence[tuple[int, Partition]], sector: int) -> Iterator[Mistake]:
    """Yield the partitions that end behind the last sector that an MBR can name."""
    end = 0
    for index, each in here:
        end = max(end, each.start or 0) + each.size.smallest
        if end > MBR_SECTORS * sector:
            text = (
                f"ends behind {MBR_SECTORS * sector >> 40} TiB, where an MBR ends on sectors of "
                f'{sector} bytes; use table = "gpt"'
            )
            field = "start" if (each.start or 0) >= MBR_SECTORS * sector else "size"
            yield Mistake(field=f"partition[{index}].{field}", text=text)


def _overlaps(here: Sequence[tuple[int, Partition]]) -> Iterator[Mistake]:
    """Partitions with a start that begin before the one in front of them can have ended."""
    end, name = 0, ""
    for index, each in here:
        if each.start is not None:
            if each.start < end:
                text = f"overlaps {name!r}, which ends at {size_words(end)}"
                yield Mistake(field=f"partition[{index}].start", text=text)
            end = max(end, each.start)
        end, name = end + each.size.smallest, each.id


def _boot_mistakes(parts: Parts) -> Iterator[Mistake]:
    """A layout that claims a firmware has what that firmware boots from."""
    types = {part.type for part in parts.partitions}
    if parts.firmware == "uefi" and not types & {"esp", GPT_TYPES["esp"], "ef"}:
        yield Mistake(field="firmware", text='uefi needs a partition with type = "esp"')
    gpts = [disk.id for disk in parts.used_disks if disk.table is TableKind.GPT]
    roots = {
        disk
        for fs in parts.filesystems
        if "/" in {fs.mount, *(each.mount for each in fs.subvolumes)}
        for disk in parts.disks_below(fs.volume)
    }
    loaders = {part.disk for part in parts.partitions if part.type == "bios_grub"}
    if parts.firmware == "bios" and roots & set(gpts) and not loaders & set(gpts):
        text = 'bios on a GPT needs a partition of 1 MiB with type = "bios_grub" for GRUB'
        yield Mistake(field="firmware", text=text)
