"""What is wrong with RAID, LVM and LUKS, and with how volumes stand on each other. Pure.

LVM's rules for names: lvm(8), "VALID NAMES". Sizes can be judged here only as far as the layout
states them; what a real disk gives is judged by the plan.
"""

import re
from collections import Counter
from collections.abc import Iterator

from nodectl.disk.kinds import (
    LUKS_HEADER,
    MIN_MEMBERS,
    RAID_LAYOUT,
    RAID_METADATA,
    LvKind,
    Preserve,
    RaidLevel,
    TableKind,
)
from nodectl.disk.mistakes_words import Mistake, bad_id, is_id, repeated, wrong_ones
from nodectl.disk.sizes import size_words
from nodectl.disk.volumes import LogicalVolume, Luks, Parts, Raid, VolumeGroup
from nodectl.units import KIB, MIB

_NAME = re.compile(r"(?!-)[A-Za-z0-9+_.-]{1,64}")
_LV_FORBIDDEN = re.compile(
    r"^(?:snapshot|pvmove)|_(?:c[dm]ata|corig|iorig|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vorigin|vdata)"
)
_OPTION = re.compile(r"[A-Za-z0-9_.:=/+@%-]+")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9:.+-]*")
_ENCRYPTION_SECTORS = (512, 1024, 2048, 4096)
_MAX_ARRAY_NAME = 32  # bytes, mdadm(8), --name
_MIN_LUKS_BYTES = LUKS_HEADER + MIB


def stack_mistakes(parts: Parts) -> Iterator[Mistake]:
    """Yield what is wrong with arrays, groups, logical volumes and encrypted volumes."""
    yield from _ids(parts)
    yield from _uses(parts)
    found = (
        *(("raid", index, _raid(each)) for index, each in enumerate(parts.raids)),
        *(("volume_group", index, _group(each)) for index, each in enumerate(parts.groups)),
        *(
            ("logical_volume", index, _logical_volume(parts, each))
            for index, each in enumerate(parts.logical_volumes)
        ),
        *(("luks", index, _luks(parts, each)) for index, each in enumerate(parts.luks)),
    )
    for table, index, mistakes in found:
        for name, text in mistakes:
            yield Mistake(field=f"{table}[{index}].{name}", text=text)
    yield from _names(parts)
    yield from _group_rooms(parts)


def _tables(parts: Parts) -> list[tuple[str, str]]:
    """Return (field of the id, id) of everything that has one."""
    named = {
        "partition": [each.id for each in parts.partitions],
        "raid": [each.id for each in parts.raids],
        "volume_group": [each.id for each in parts.groups],
        "logical_volume": [each.id for each in parts.logical_volumes],
        "luks": [each.id for each in parts.luks],
    }
    return [
        (f"{table}[{index}].id", value)
        for table, ids in named.items()
        for index, value in enumerate(ids)
    ]


def _ids(parts: Parts) -> Iterator[Mistake]:
    # A disk with a table is no volume, so a partition may have its name.
    seen = {disk.id for disk in parts.disks if disk.table is TableKind.NONE}
    for field, value in _tables(parts):
        if not is_id(value):
            yield Mistake(field=field, text=bad_id(value))
        elif value in seen:
            yield Mistake(field=field, text=f"{value!r} is used twice")
        seen.add(value)


def _references(parts: Parts) -> Iterator[tuple[str, str, str]]:
    """Yield (field, id that it names, who uses it) for everything that stands on a volume."""
    for index, raid in enumerate(parts.raids):
        for name in ("devices", "spares"):
            for place, each in enumerate(getattr(raid, name)):
                yield f"raid[{index}].{name}[{place}]", each, f"raid {raid.id!r}"
    for index, group in enumerate(parts.groups):
        for place, each in enumerate(group.devices):
            field = f"volume_group[{index}].devices[{place}]"
            yield field, each, f"volume group {group.id!r}"
    for index, luks in enumerate(parts.luks):
        yield f"luks[{index}].device", luks.device, f"luks {luks.id!r}"
    for index, fs in enumerate(parts.filesystems):
        yield f"filesystem[{index}].volume", fs.volume, f"a filesystem ({fs.type})"


def _uses(parts: Parts) -> Iterator[Mistake]:
    """Each volume is there, is used once, and does not stand on itself."""
    known = _usable(parts)
    users: dict[str, str] = {}
    for field, wanted, user in _references(parts):
        if wanted not in known:
            yield Mistake(field=field, text=_unknown(parts, wanted))
        elif wanted in users:
            text = f"{wanted!r} is used by {users[wanted]} already"
            yield Mistake(field=field, text=text)
        else:
            users[wanted] = user
    for index, raid in enumerate(parts.raids):
        yield from _circle(parts, raid.id, f"raid[{index}].devices")
    for index, group in enumerate(parts.groups):
        yield from _circle(parts, group.id, f"volume_group[{index}].devices")
    for index, luks in enumerate(parts.luks):
        yield from _circle(parts, luks.id, f"luks[{index}].device")
    yield from _preserved_below(parts, users)


def _usable(parts: Parts) -> set[str]:
    plain = [lv.id for lv in parts.logical_volumes if lv.kind is not LvKind.THIN_POOL]
    whole = [disk.id for disk in parts.used_disks if disk.table is TableKind.NONE]
    return {
        *(each.id for each in parts.partitions),
        *(each.id for each in parts.raids),
        *(each.id for each in parts.luks),
        *plain,
        *whole,
    }


def _unknown(parts: Parts, wanted: str) -> str:
    if any(disk.id == wanted for disk in parts.disks):
        return f'{wanted!r} is a disk with a partition table (table = "none" makes it a volume)'
    if any(group.id == wanted for group in parts.groups):
        return f"{wanted!r} is a volume group; name a logical volume of it"
    if any(lv.id == wanted for lv in parts.logical_volumes):
        return f"{wanted!r} is a thin pool; name a thin volume of it"
    return f"no partition or volume has the id {wanted!r}"


def _circle(parts: Parts, volume: str, field: str) -> Iterator[Mistake]:
    seen: set[str] = set()
    waiting = list(parts.below(volume))
    while waiting:
        each = waiting.pop()
        if each == volume:
            yield Mistake(field=field, text=f"{volume!r} would stand on itself")
            return
        if each not in seen:
            seen.add(each)
            waiting += parts.below(each)


def _preserved_below(parts: Parts, users: dict[str, str]) -> Iterator[Mistake]:
    """What may be kept may carry a filesystem; to build on it would destroy what is kept."""
    for index, part in enumerate(parts.partitions):
        user = users.get(part.id, "")
        if part.preserve is not Preserve.NONE and user and not user.startswith("a filesystem"):
            text = f"{part.id!r} is kept, and {user} would be made on it"
            yield Mistake(field=f"partition[{index}].preserve", text=text)


def _raid(raid: Raid) -> Iterator[tuple[str, str]]:
    name, least, chunk = raid.array_name, MIN_MEMBERS[raid.level], raid.chunk
    stripe = raid.level is RaidLevel.RAID0
    yield from wrong_ones(
        (
            not _NAME.fullmatch(name) or len(name) > _MAX_ARRAY_NAME,
            "name",
            f"{name!r} is no usable name of an array (at most {_MAX_ARRAY_NAME} letters)",
        ),
        (
            len(raid.devices) < least,
            "devices",
            f"{raid.level} needs {least} devices, here are {len(raid.devices)}",
        ),
        (
            raid.metadata not in RAID_METADATA,
            "metadata",
            f"must be one of {', '.join(RAID_METADATA)}, is {raid.metadata!r}",
        ),
        (stripe and bool(raid.spares), "spares", "raid0 cannot use a spare"),
        (stripe and bool(raid.bitmap), "bitmap", "raid0 has no write-intent bitmap"),
        (chunk is not None and raid.level is RaidLevel.RAID1, "chunk", "raid1 has no chunks"),
        (not is_power(chunk, 4 * KIB), "chunk", "must be a power of two of at least 4 KiB"),
    )
    if raid.layout:
        near = raid.layout[0] in "nof" and raid.layout[1:].isdigit()
        fits = near if raid.level is RaidLevel.RAID10 else not near
        levels = (RaidLevel.RAID5, RaidLevel.RAID6, RaidLevel.RAID10)
        if raid.level not in levels or not RAID_LAYOUT.fullmatch(raid.layout) or not fits:
            yield "layout", f"{raid.layout!r} is no layout of {raid.level}"
        elif near and int(raid.layout[1:]) > len(raid.devices):
            yield "layout", f"{raid.layout!r} needs {raid.layout[1:]} devices"


def is_power(size: int | None, least: int) -> bool:
    """Say whether a size is a power of two of at least `least`, or is not set."""
    return size is None or (size >= least and not size & (size - 1))


def _group(group: VolumeGroup) -> Iterator[tuple[str, str]]:
    name = group.group_name
    return wrong_ones(
        (
            not _NAME.fullmatch(name) or name in {".", ".."},
            "name",
            f"{name!r} is no usable name of a volume group",
        ),
        (not group.devices, "devices", "at least one is needed"),
        (not is_power(group.extent, MIB), "extent", "must be a power of two of at least 1 MiB"),
    )


def _logical_volume(parts: Parts, lv: LogicalVolume) -> Iterator[tuple[str, str]]:
    name = lv.volume_name
    group = next((each for each in parts.groups if each.id == lv.group), None)
    members = len(group.devices) if group else MIN_MEMBERS[RaidLevel.RAID1]
    may_stripe = lv.kind in {LvKind.STRIPED, LvKind.THIN_POOL}
    copies = 1 + (lv.mirrors or 1)
    yield from wrong_ones(
        (
            not _NAME.fullmatch(name) or name in {".", ".."} or bool(_LV_FORBIDDEN.search(name)),
            "name",
            f"{name!r} is no usable name of a logical volume",
        ),
        (group is None, "group", f"no volume group has the id {lv.group!r}"),
        (
            lv.kind is LvKind.STRIPED and lv.stripes is None,
            "stripes",
            "is needed for kind striped",
        ),
        (
            lv.stripes is not None and not (may_stripe and 1 < lv.stripes <= members),
            "stripes",
            f"2 to {members} (the devices of the group), of kind striped or thin-pool",
        ),
        (lv.stripe_size is not None and lv.stripes is None, "stripe_size", "needs stripes"),
        (
            not is_power(lv.stripe_size, 4 * KIB),
            "stripe_size",
            "must be a power of two of at least 4 KiB",
        ),
        (
            lv.mirrors is not None and (lv.kind is not LvKind.RAID1 or lv.mirrors < 1),
            "mirrors",
            "only kind raid1 has them, at least 1",
        ),
        (
            lv.kind is LvKind.RAID1 and copies > members,
            "mirrors",
            f"{copies} copies need as many devices in the group, which has {members}",
        ),
    )
    yield from _thin(parts, lv)


def _thin(parts: Parts, lv: LogicalVolume) -> Iterator[tuple[str, str]]:
    thin, metadata = lv.kind is LvKind.THIN, lv.pool_metadata
    pools = {each.id: each for each in parts.logical_volumes if each.kind is LvKind.THIN_POOL}
    pool = pools.get(lv.pool)
    other = pool is not None and pool.group != lv.group
    return wrong_ones(
        (thin and pool is None, "pool", f"no thin pool has the id {lv.pool!r}"),
        (thin and other, "pool", f"{lv.pool!r} is a pool of another group"),
        (
            thin and lv.size.exact is None,
            "size",
            "the virtual size of a thin volume is exact",
        ),
        (not thin and bool(lv.pool), "pool", "only kind thin stands in a pool"),
        (
            metadata is not None and lv.kind is not LvKind.THIN_POOL,
            "pool_metadata",
            "only kind thin-pool has it",
        ),
        (
            metadata is not None and not 2 * MIB <= metadata <= 16 << 30,
            "pool_metadata",
            "2 MiB to 16 GiB (lvmthin(7))",
        ),
    )


def _luks(parts: Parts, luks: Luks) -> Iterator[tuple[str, str]]:
    sectors = ", ".join(map(str, _ENCRYPTION_SECTORS))
    most = parts.most_bytes(luks.device)
    yield from wrong_ones(
        (
            most is not None and most < _MIN_LUKS_BYTES,
            "device",
            f"LUKS2 needs {_MIN_LUKS_BYTES >> 20} MiB, {luks.device!r} is smaller",
        ),
        (
            not _NAME.fullmatch(luks.mapping),
            "name",
            f"{luks.mapping!r} is no usable name under /dev/mapper",
        ),
        (
            not _is_path(luks.key_file),
            "key_file",
            f"{luks.key_file!r} is no absolute path without spaces",
        ),
        (
            luks.crypttab_key not in {"none", "-"} and not _is_path(luks.crypttab_key),
            "crypttab_key",
            f"{luks.crypttab_key!r} is neither none nor an absolute path without spaces",
        ),
        (
            bool(luks.cipher) and not _WORD.fullmatch(luks.cipher),
            "cipher",
            f"{luks.cipher!r} is no name of a cipher",
        ),
        (
            luks.pbkdf not in {"", "argon2id", "argon2i", "pbkdf2"},
            "pbkdf",
            f"must be argon2id, argon2i or pbkdf2, is {luks.pbkdf!r}",
        ),
        (
            luks.key_bits not in {None, 128, 192, 256, 384, 512},
            "key_bits",
            "must be 128, 192, 256, 384 or 512",
        ),
        (
            luks.sector is not None and luks.sector not in _ENCRYPTION_SECTORS,
            "sector",
            f"must be one of {sectors} bytes",
        ),
    )
    for option in luks.options:
        if not _OPTION.fullmatch(option):
            yield "options", f"{option!r} is no option of crypttab (one for each list entry)"


def _is_path(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and " " not in path


def _names(parts: Parts) -> Iterator[Mistake]:
    named = {
        "raid": [each.array_name for each in parts.raids],
        "volume_group": [each.group_name for each in parts.groups],
        "luks": [each.mapping for each in parts.luks],
        "logical_volume": [f"{each.group}/{each.volume_name}" for each in parts.logical_volumes],
    }
    for table, names in named.items():
        for index, value in repeated(names):
            text = f"{value.rpartition('/')[2]!r} is used twice"
            yield Mistake(field=f"{table}[{index}].name", text=text)


def _group_rooms(parts: Parts) -> Iterator[Mistake]:
    """A group whose size the layout states has room for the volumes of stated size."""
    for group in parts.groups:
        sizes = [parts.most_bytes(each) for each in group.devices]
        if any(size is None for size in sizes):
            continue
        room = sum(max((size or 0) - MIB, 0) // group.extent * group.extent for size in sizes)
        needed: Counter[str] = Counter()
        for index, lv in enumerate(parts.logical_volumes):
            if lv.group != group.id or lv.kind is LvKind.THIN:
                continue
            copies = 1 + (lv.mirrors or 1) if lv.kind is LvKind.RAID1 else 1
            needed[group.id] += lv.size.smallest * copies
            if needed[group.id] > room:
                text = (
                    f"volume group {group.id!r} has room for {size_words(room)}, its volumes up "
                    f"to {lv.id!r} need {size_words(needed[group.id])}"
                )
                yield Mistake(field=f"logical_volume[{index}].size", text=text)
                break
