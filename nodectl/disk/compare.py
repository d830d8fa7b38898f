"""Whether disks already look as a layout says, and with which devices and UUIDs. Pure.

Everything is compared that the layout states: table, place, type, name and flags of partitions,
level and members of arrays, volumes of groups, types and labels of filesystems, subvolumes. Names
of devices and UUIDs that the layout leaves open may be any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodectl.disk.facts import ArrayFacts, DiskFacts, GroupFacts, LvFacts, MachineFacts, Signature
from nodectl.disk.kinds import (
    GPT_ATTRIBUTES,
    MBR_EXTENDED_TYPES,
    FsType,
    LvKind,
    PartitionFlag,
    TableKind,
    type_code,
)
from nodectl.disk.model import Layout
from nodectl.disk.placing import Placed
from nodectl.disk.sizes import round_up
from nodectl.disk.volumes import Filesystem, LogicalVolume, Partition, Raid

# A table with such an id belongs to disks that were not finished: "nodectl!" in ASCII.
UNFINISHED_GPT = "6E6F6465-6374-6C21"
UNFINISHED_MBR = "0x6e6f6465"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What stands where the layout wants it: by id, the device and the UUID."""

    devices: dict[str, str]
    uuids: dict[str, str]


class _Missing(Exception):
    """Something is not as the layout says."""


def table_flags(part: Partition) -> tuple[str, ...]:
    """Return the flags of a partition as sfdisk names them, sorted."""
    names = {**GPT_ATTRIBUTES, PartitionFlag.ACTIVE: "bootable"}
    return tuple(sorted(names[flag] for flag in part.flags))


def find_existing(
    layout: Layout,
    machine: MachineFacts,
    chosen: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
) -> Found | None:
    """Return what is there if the disks `chosen` look as the layout says, else None.

    Only what stands on these disks is looked at: the layout may have more.
    """
    found = Found(devices={}, uuids={})
    try:
        _find(layout, machine, chosen, placed, found)
    except _Missing:
        return None
    return found


def _find(
    layout: Layout,
    machine: MachineFacts,
    chosen: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    found: Found,
) -> None:
    ids = set(chosen)
    for name, disk in chosen.items():
        _disk(layout, name, disk, placed[name], found)
    waiting = [each.id for each in layout.stacks if layout.disks_below(each.id) <= ids]
    while waiting:  # each round settles at least one
        ready = [each for each in waiting if set(layout.below(each)) <= set(found.devices)]
        _need(holds=bool(ready))
        for each in ready:
            _settle(layout, each, machine, found)
        waiting = [each for each in waiting if each not in ready]
    for fs in layout.filesystems:
        if layout.disks_below(fs.volume) <= ids:
            _filesystem(fs, machine, chosen, found)


def _need(*, holds: bool) -> None:
    if not holds:
        raise _Missing


def _disk(
    layout: Layout, name: str, disk: DiskFacts, placed: Sequence[Placed], found: Found
) -> None:
    wish = next(each for each in layout.disks if each.id == name)
    contents = disk.contents
    if contents is None:
        raise _Missing
    if wish.table is TableKind.NONE:
        _need(holds=not contents.table)
        found.devices[name] = disk.path
        return
    _need(holds=contents.table == ("dos" if wish.table is TableKind.MBR else "gpt"))
    _need(holds=not contents.table_uuid.upper().startswith(UNFINISHED_GPT))
    _need(holds=contents.table_uuid != UNFINISHED_MBR)
    _need(holds=len(contents.partitions) == len(placed))
    there = {each.number: each for each in contents.partitions}
    for each in placed:
        old = there.get(each.number)
        part = each.partition
        if old is None:
            raise _Missing
        if part is None:  # an extended one has no size in a layout: it may be larger than need be
            inside = old.start <= each.start and each.region.end <= old.start + old.size
            _need(holds=inside and old.type.lower() in MBR_EXTENDED_TYPES)
            continue
        _need(holds=(old.start, old.size) == (each.start, each.size))
        code = type_code(part.type, wish.table) or ""
        _need(holds=old.type.lower() == code.lower())
        _need(holds=not part.uuid or part.uuid.upper() == old.uuid.upper())
        if each.kept is None:
            _need(holds=old.flags == table_flags(part))
            label = part.label or part.id
            _need(holds=wish.table is TableKind.MBR or old.label == label)
        found.devices[part.id] = old.path
        found.uuids[part.id] = old.uuid


def _settle(layout: Layout, volume: str, machine: MachineFacts, found: Found) -> None:
    for raid in layout.raids:
        if raid.id == volume:
            array = _array(raid, machine, found)
            found.devices[volume], found.uuids[volume] = array.path, array.uuid
    for group in layout.groups:
        if group.id == volume:
            devices = {found.devices[each] for each in group.devices}
            there = next((g for g in machine.groups if g.name == group.group_name), None)
            if there is None or set(there.devices) != devices or there.extent != group.extent:
                raise _Missing
            found.devices[volume] = there.name
            _volumes(layout, volume, there, found)
    for luks in layout.luks:
        if luks.id == volume:
            opened = [each for each in machine.crypts if each.mapping == luks.mapping]
            _need(holds=[each.device for each in opened] == [found.devices[luks.device]])
            found.devices[volume], found.uuids[volume] = opened[0].path, opened[0].uuid


def _array(raid: Raid, machine: MachineFacts, found: Found) -> ArrayFacts:
    members = [found.devices[each] for each in raid.devices]
    spares = {found.devices[each] for each in raid.spares}
    for array in machine.arrays:
        if set(array.devices) == set(members):
            _need(holds=array.level == raid.level and array.metadata == raid.metadata)
            _need(holds=array.name == raid.array_name or raid.metadata == "0.90")
            _need(holds=set(array.spares) == spares and not array.missing)
            _need(holds=raid.chunk is None or raid.chunk == array.chunk)
            _need(holds=not raid.layout or raid.layout == array.layout)
            _need(holds=raid.bitmap is None or raid.bitmap == array.bitmap)
            return array
    raise _Missing


def _volumes(layout: Layout, group_id: str, group: GroupFacts, found: Found) -> None:
    wanted = [lv for lv in layout.logical_volumes if lv.group == group_id]
    there = {lv.name: lv for lv in group.volumes}
    _need(holds={lv.volume_name for lv in wanted} == set(there))
    names = {lv.id: lv.volume_name for lv in wanted}
    for lv in wanted:
        old = there[lv.volume_name]
        _need(holds=_is_so(lv, old, group.extent, names))
        found.devices[lv.id], found.uuids[lv.id] = old.path, old.uuid


def _is_so(lv: LogicalVolume, old: LvFacts, extent: int, names: Mapping[str, str]) -> bool:
    grain = extent * (lv.stripes or 1)
    size = lv.size.exact
    kind = LvKind.STRIPED if lv.kind is LvKind.LINEAR and old.stripes > 1 else lv.kind
    return (
        old.active
        and old.kind == kind
        and (size is None or round_up(size, grain) == old.size)
        and (not lv.pool or names.get(lv.pool) == old.pool)
        and (lv.stripes is None or lv.kind is LvKind.THIN_POOL or lv.stripes == old.stripes)
    )


def _filesystem(
    fs: Filesystem, machine: MachineFacts, chosen: Mapping[str, DiskFacts], found: Found
) -> None:
    device = found.devices.get(fs.volume)
    if device is None:
        raise _Missing
    found_there = signatures_at(device, machine, chosen)
    label = fs.label.upper() if fs.type is FsType.VFAT else fs.label
    fitting = [
        each
        for each in found_there
        if each.type == fs.type
        and (not label or each.label == label)
        and (not fs.uuid or each.uuid.lower() == fs.uuid.lower())
    ]
    _need(holds=bool(fitting))
    volume = machine.volume_at(device)
    if fs.subvolumes:
        there = set((volume.subvolumes if volume else None) or ())
        _need(holds={each.path for each in fs.subvolumes} <= there)
    found.uuids[f"fs:{fs.volume}"] = fitting[0].uuid


def signatures_at(
    device: str, machine: MachineFacts, chosen: Mapping[str, DiskFacts]
) -> tuple[Signature, ...]:
    """Return the signatures on a device, wherever the facts have them."""
    volume = machine.volume_at(device)
    if volume:
        return volume.signatures
    contents = [(disk.path, disk.contents) for disk in chosen.values() if disk.contents]
    known = {path: each.signatures for path, each in contents}
    known |= {part.path: part.signatures for _, each in contents for part in each.partitions}
    return known.get(device, ())
