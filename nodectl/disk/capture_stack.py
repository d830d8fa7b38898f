"""Arrays, volume groups and encrypted volumes of a captured layout. Pure."""

from collections.abc import Mapping

from nodectl.disk.capture_names import usable_id
from nodectl.disk.facts import ArrayFacts, CryptFacts, GroupFacts, LvFacts, MachineFacts
from nodectl.disk.kinds import LvKind, RaidLevel
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.disk.volumes import LogicalVolume, Luks, Raid, VolumeGroup
from nodectl.units import KIB

Stack = tuple[list[Raid], list[VolumeGroup], list[LogicalVolume], list[Luks]]
_DEFAULT_CHUNK = 512 * KIB  # mdadm(8), --chunk
_STRIPE = 64 * KIB  # lvcreate(8), --stripesize


def capture_stack(machine: MachineFacts, ids: dict[str, str], remarks: list[str]) -> Stack:
    """Return everything that stands on the devices in `ids` (device -> id), which grows.

    Things that are built on others are met after those, whatever their kinds.
    """
    stack: Stack = ([], [], [], [])
    waiting: list[ArrayFacts | GroupFacts | CryptFacts] = [
        *machine.arrays,
        *machine.groups,
        *machine.crypts,
    ]
    while ready := [each for each in waiting if all(path in ids for path in _below(each))]:
        for each in ready:
            match each:
                case ArrayFacts():
                    _array(each, ids, stack[0], remarks)
                case GroupFacts():
                    _group(each, ids, stack, remarks)
                case CryptFacts():
                    _crypt(each, ids, stack[3], remarks)
        waiting = [each for each in waiting if each not in ready]
    for each in waiting:  # it may stand on captured disks in part
        if any(path in ids for path in _below(each)):
            others = ", ".join(path for path in _below(each) if path not in ids)
            name = each.name if isinstance(each, GroupFacts) else each.path
            remarks.append(f"{name} also stands on {others}")
    return stack


def _below(each: ArrayFacts | GroupFacts | CryptFacts) -> tuple[str, ...]:
    return (each.device,) if isinstance(each, CryptFacts) else each.devices


def _array(array: ArrayFacts, ids: dict[str, str], raids: list[Raid], remarks: list[str]) -> None:
    if array.level not in tuple(RaidLevel):
        remarks.append(f"{array.path} is an array of level {array.level}")
        return
    if array.missing:
        remarks.append(f"{array.path} is degraded: {array.missing} members are missing")
        return
    fallback = f"md{len(raids) + 1}"
    name = usable_id(array.name, fallback, set(ids.values()))
    level = RaidLevel(array.level)
    chunk = array.chunk if level is not RaidLevel.RAID1 else 0
    raids.append(
        Raid(
            id=name,
            level=level,
            devices=tuple(ids[each] for each in array.devices),
            spares=tuple(ids[each] for each in array.spares if each in ids),
            name="" if array.name in {"", name} else array.name,
            metadata=array.metadata,
            chunk=None if chunk in {0, _DEFAULT_CHUNK} else chunk,
            layout=array.layout,
            bitmap=True if array.bitmap else None,
        )
    )
    ids[array.path] = name


def _group(group: GroupFacts, ids: dict[str, str], stack: Stack, remarks: list[str]) -> None:
    name = usable_id(group.name, f"vg{len(stack[1]) + 1}", set(ids.values()))
    stack[1].append(
        VolumeGroup(
            id=name,
            devices=tuple(ids[each] for each in group.devices),
            name="" if group.name == name else group.name,
            extent=group.extent,
        )
    )
    ids[f"vg:{group.name}"] = name
    pools: dict[str, str] = {}
    growing = _growing(group)
    for lv in sorted(group.volumes, key=lambda each: each.kind == LvKind.THIN):
        if lv.kind not in tuple(LvKind):
            remarks.append(f"{group.name}/{lv.name} is a volume of kind {lv.kind}")
            continue
        volume = _volume(lv, name, ids, pools, grows=lv.name == growing)
        stack[2].append(volume)
        if volume.kind is LvKind.THIN_POOL:
            pools[lv.name] = volume.id
            ids[f"pool:{lv.path}"] = volume.id
        else:
            ids[lv.path] = volume.id


def _growing(group: GroupFacts) -> str:
    """Return the volume that grows on a larger disk: the largest, where nothing is free."""
    plain = [each for each in group.volumes if each.kind in {LvKind.LINEAR, LvKind.THIN_POOL}]
    if group.free or not plain:
        return ""
    return max(plain, key=lambda each: each.size).name


def _volume(
    lv: LvFacts, group: str, ids: Mapping[str, str], pools: Mapping[str, str], *, grows: bool
) -> LogicalVolume:
    name = usable_id(lv.name, f"{group}-{lv.name}"[:32], set(ids.values()))
    kind = LvKind(lv.kind)
    # lvs calls a linear volume's one device a stripe, and a mirror's copies are stripes, too.
    stripes = lv.stripes if kind is LvKind.STRIPED or lv.stripes > 1 else None
    mirrored = kind is LvKind.RAID1
    return LogicalVolume(
        id=name,
        group=group,
        size=REST_SIZE if grows else Size(exact=lv.size),
        kind=kind,
        name="" if lv.name == name else lv.name,
        pool=pools.get(lv.pool, ""),
        stripes=None if mirrored or kind is LvKind.THIN else stripes,
        stripe_size=lv.stripe_size
        if stripes and not mirrored and lv.stripe_size not in {0, _STRIPE}
        else None,
        mirrors=lv.stripes - 1 if mirrored and lv.stripes > 2 else None,  # noqa: PLR2004 - one mirror is the default
        pool_metadata=lv.metadata_size or None if kind is LvKind.THIN_POOL else None,
    )


def _crypt(crypt: CryptFacts, ids: dict[str, str], found: list[Luks], remarks: list[str]) -> None:
    if crypt.version != 2:  # noqa: PLR2004 - of LUKS
        remarks.append(f"{crypt.device} is LUKS{crypt.version}; a layout makes LUKS2")
        return
    name = usable_id(crypt.mapping, f"luks{len(found) + 1}", set(ids.values()))
    key = f"/etc/cryptsetup-keys.d/{crypt.mapping}.key"
    remarks.append(f"the key of {crypt.path}: the layout expects it in {key}")
    found.append(
        Luks(
            id=name,
            device=ids[crypt.device],
            key_file=key,
            name="" if crypt.mapping == name else crypt.mapping,
            cipher=crypt.cipher,
            key_bits=crypt.key_bits or None,
            pbkdf=crypt.pbkdf,
            sector=crypt.sector,
        )
    )
    ids[crypt.path] = name
