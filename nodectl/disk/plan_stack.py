"""Arrays, volume groups, logical and encrypted volumes: their sizes, and the steps that make them.

Pure. Volumes are made as soon as everything that they stand on is there. Sizes above an array or a
thin pool are about right and never too large: md keeps room for itself that only it knows exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from nodectl.disk.kinds import LUKS_HEADER, LvKind
from nodectl.disk.model import Layout
from nodectl.disk.sizes import TooLittleRoom, round_up, share_out, size_words
from nodectl.disk.steps import (
    CreateArray,
    CreateGroup,
    CreatePhysicalVolume,
    CreateVolume,
    FormatLuks,
    OpenLuks,
    Step,
    WipeSignatures,
)
from nodectl.disk.volumes import LogicalVolume, Luks, Raid, VolumeGroup, array_bytes
from nodectl.errors import DiskTooSmall
from nodectl.units import GIB, MIB

_PV_HEADER = MIB  # lvm.conf(5), default_data_alignment
_MD_HEADROOM = 128 * MIB  # mdadm's super1.c: at most, less on small devices
_MIN_POOL_METADATA = 4 * MIB
_MAX_POOL_METADATA = 15 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVolume:
    """An array, logical or encrypted volume, or a whole disk, as it will be."""

    id: str
    kind: str  # raid1, linear, luks, disk, ...
    device: str
    size: int  # bytes, about
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalVolume:
    """A physical volume of LVM, as it will be."""

    device: str
    uuid: str


@dataclass(slots=True)
class StackPlan:
    """What was planned so far; devices are by id."""

    devices: dict[str, str]
    sizes: dict[str, int]
    volumes: list[PlannedVolume] = field(default_factory=list)
    physical: list[PhysicalVolume] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def add(self, volume: PlannedVolume) -> None:
        """Note a volume, which others may stand on now; what may be left there is wiped."""
        self.devices[volume.id] = volume.device
        self.sizes[volume.id] = volume.size
        self.volumes.append(volume)
        self.steps.append(WipeSignatures(device=volume.device))


def plan_stack(
    layout: Layout, made: set[str], stack: StackPlan, new_uuid: Callable[[], UUID]
) -> None:
    """Plan everything of the layout that stands on the devices in `stack`.

    `made` are the ids of the volumes that are wanted; the others are there already.

    Raises:
        DiskTooSmall: logical volumes do not fit their group.
    """
    waiting = [each for each in layout.stacks if each.id in made]
    while waiting:
        ready = [each for each in waiting if set(layout.below(each.id)) <= set(stack.devices)]
        if not ready:
            raise ValueError("a layout without circles always has a volume that can be made")
        for each in ready:
            match each:
                case Raid():
                    _raid(each, stack, new_uuid)
                case VolumeGroup():
                    _group(each, layout, stack, new_uuid)
                case Luks():
                    _luks(each, stack, new_uuid)
        waiting = [each for each in waiting if each not in ready]


def _raid(raid: Raid, stack: StackPlan, new_uuid: Callable[[], UUID]) -> None:
    uuid = str(new_uuid())
    device = f"/dev/md/{raid.array_name}"
    devices = tuple(stack.devices[each] for each in raid.devices)
    stack.steps.append(
        CreateArray(
            device=device,
            name=raid.array_name,
            uuid=uuid,
            level=raid.level,
            devices=devices,
            spares=tuple(stack.devices[each] for each in raid.spares),
            metadata=raid.metadata,
            chunk=raid.chunk,
            layout=raid.layout,
            bitmap=raid.bitmap,
        )
    )
    size = raid_size(raid, [stack.sizes[each] for each in raid.devices])
    stack.add(PlannedVolume(id=raid.id, kind=raid.level, device=device, size=size, uuid=uuid))


def raid_size(raid: Raid, members: list[int]) -> int:
    """Return about how many bytes an array has, never more than it will have."""
    least = min(members)
    headroom = _MD_HEADROOM
    while headroom << 10 > least and headroom > MIB:  # as super1.c does
        headroom >>= 1
    each = max((least - headroom - 2 * MIB) // MIB * MIB, 0)
    return array_bytes(raid, [each] * len(members)) // MIB * MIB


def _luks(luks: Luks, stack: StackPlan, new_uuid: Callable[[], UUID]) -> None:
    uuid = str(new_uuid())
    below = stack.devices[luks.device]
    stack.steps += [
        FormatLuks(
            device=below,
            uuid=uuid,
            key_file=luks.key_file,
            cipher=luks.cipher,
            key_bits=luks.key_bits,
            pbkdf=luks.pbkdf,
            sector=luks.sector,
        ),
        OpenLuks(device=below, name=luks.mapping, key_file=luks.key_file),
    ]
    size = max(stack.sizes[luks.device] - LUKS_HEADER, 0)
    if size < MIB:
        raise DiskTooSmall(
            f"{below} has {size_words(stack.sizes[luks.device])}, and the header of LUKS2 alone "
            f"takes {LUKS_HEADER >> 20} MiB; nothing was written",
            hint="give the encrypted volume more room",
        )
    device = f"/dev/mapper/{luks.mapping}"
    stack.add(PlannedVolume(id=luks.id, kind="luks", device=device, size=size, uuid=uuid))


def _group(
    group: VolumeGroup, layout: Layout, stack: StackPlan, new_uuid: Callable[[], UUID]
) -> None:
    devices = tuple(stack.devices[each] for each in group.devices)
    for each in devices:
        uuid = str(new_uuid())
        stack.physical.append(PhysicalVolume(device=each, uuid=uuid))
        stack.steps.append(CreatePhysicalVolume(device=each, uuid=uuid))
    stack.steps.append(CreateGroup(name=group.group_name, devices=devices, extent=group.extent))
    stack.devices[group.id] = group.group_name
    extents = sum(max(stack.sizes[each] - _PV_HEADER, 0) // group.extent for each in group.devices)
    volumes = [lv for lv in layout.logical_volumes if lv.group == group.id]
    plain = [lv for lv in volumes if lv.kind is not LvKind.THIN]
    sizes = _shared(group, plain, extents * group.extent)
    # All that are free can only be taken once everything else has its part.
    plain.sort(key=lambda lv: _takes_all(lv, plain))
    for lv in plain:
        taken = None if _takes_all(lv, plain) else sizes[lv.id] // group.extent
        _volume(lv, group, stack, size=sizes[lv.id], extents=taken)
    for lv in volumes:
        if lv.kind is LvKind.THIN:
            _volume(lv, group, stack, size=lv.size.exact or 0, extents=None)


def _takes_all(lv: LogicalVolume, volumes: list[LogicalVolume]) -> bool:
    flexible = [each for each in volumes if each.size.is_flexible]
    return flexible == [lv] and lv.size.is_whole_rest


def _shared(group: VolumeGroup, volumes: list[LogicalVolume], room: int) -> dict[str, int]:
    """Return the bytes of each volume; copies and metadata are taken off the room first."""
    overhead = sum(_overhead(lv, group.extent, room) for lv in volumes)
    try:
        sizes = share_out(room - overhead, [lv.size for lv in volumes], group.extent)
    except TooLittleRoom as exc:
        raise DiskTooSmall(
            f"volume group {group.group_name} will have {size_words(room)}, its volumes need "
            f"{size_words(exc.needed + overhead)}; nothing was written",
            hint="use larger disks or smaller volumes in the layout",
        ) from exc
    return {
        lv.id: _for_copies(lv, size, group.extent) for lv, size in zip(volumes, sizes, strict=True)
    }


def _for_copies(lv: LogicalVolume, size: int, extent: int) -> int:
    """A flexible mirror got the room of all its copies; a striped volume has whole stripes."""
    if lv.kind is LvKind.RAID1 and lv.size.is_flexible:
        return max(size // (1 + (lv.mirrors or 1)) // extent - 1, 1) * extent
    if lv.stripes:
        unit = extent * lv.stripes
        return round_up(size, unit) if lv.size.exact is not None else max(size // unit, 1) * unit
    return size


def _overhead(lv: LogicalVolume, extent: int, room: int) -> int:
    """Return the bytes of the group that a volume takes beside its own size."""
    if lv.kind is LvKind.RAID1:
        mirrors = lv.mirrors or 1
        return (lv.size.exact or 0) * mirrors + (mirrors + 1) * extent
    if lv.kind is LvKind.THIN_POOL:  # its metadata, and the spare for their repair
        return 2 * round_up(pool_metadata(lv, lv.size.exact or room), extent)
    if lv.stripes and lv.size.exact:
        return round_up(lv.size.exact, extent * lv.stripes) - round_up(lv.size.exact, extent)
    return 0


def pool_metadata(lv: LogicalVolume, size: int) -> int:
    """Return the bytes for a thin pool's metadata: a thousandth, as lvmthin(7) estimates."""
    if lv.pool_metadata is not None:
        return lv.pool_metadata
    wanted = round_up(size // 1000, MIB)
    return min(max(wanted, _MIN_POOL_METADATA), _MAX_POOL_METADATA)


def _volume(
    lv: LogicalVolume, group: VolumeGroup, stack: StackPlan, *, size: int, extents: int | None
) -> None:
    device = f"/dev/{group.group_name}/{lv.volume_name}"
    thin = lv.kind is LvKind.THIN
    is_pool = lv.kind is LvKind.THIN_POOL
    # Where it gets all that is free, LVM divides that between data and metadata itself.
    metadata = pool_metadata(lv, size) if extents is not None else lv.pool_metadata
    stack.steps.append(
        CreateVolume(
            device=device,
            group=group.group_name,
            name=lv.volume_name,
            kind=lv.kind,
            extents=extents,
            virtual=size if thin else None,
            pool=stack.devices[lv.pool].rpartition("/")[2] if thin else "",
            stripes=lv.stripes,
            stripe_size=lv.stripe_size,
            mirrors=(lv.mirrors or 1) if lv.kind is LvKind.RAID1 else None,
            metadata=metadata if is_pool else None,
        )
    )
    planned = PlannedVolume(id=lv.id, kind=lv.kind, device=device, size=size)
    if is_pool:  # nobody reads or writes a pool itself
        stack.devices[lv.id] = device
        stack.volumes.append(planned)
    else:
        stack.add(planned)
