"""From facts to a layout: what a machine's disks look like, and what a layout cannot say. Pure.

Sizes are exact, but what reaches the end of its disk or takes the last of its volume group gets
"rest", so that it grows on a larger disk. UUIDs are not captured: a clone has its own. What a
mounted filesystem uses is captured as its `min_used`, so that a disk too small for it is refused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodectl.disk.capture_names import disk_match, notable_options, usable_id
from nodectl.disk.capture_stack import capture_stack
from nodectl.disk.compare import signatures_at
from nodectl.disk.facts import DiskFacts, MachineFacts, PartitionFacts, Signature, VolumeFacts
from nodectl.disk.kinds import (
    GPT_ATTRIBUTES,
    MBR_EXTENDED_TYPES,
    MBR_PRIMARIES,
    MIN_ALIGNMENT,
    FsType,
    PartitionFlag,
    Role,
    TableKind,
    type_name,
)
from nodectl.disk.mistakes import layout_mistakes
from nodectl.disk.model import Layout
from nodectl.disk.placing import usable_region
from nodectl.disk.sizes import REST_SIZE, Size, round_up
from nodectl.disk.volumes import DiskWish, Filesystem, Partition, Parts, Subvolume
from nodectl.errors import InvalidInput
from nodectl.units import MIB

_MOST_SUBVOLUMES = 64
_MEMBERS = ("LVM2_member", "linux_raid_member", "crypto_LUKS", "mpath_member", "bcache")


@dataclass(slots=True)
class Captured:
    """What was captured so far."""

    ids: dict[str, str] = field(default_factory=dict)  # device -> id
    disks: list[DiskWish] = field(default_factory=list)
    partitions: list[Partition] = field(default_factory=list)
    filesystems: list[Filesystem] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def captured_layout(
    machine: MachineFacts, disks: Sequence[DiskFacts], *, named: bool
) -> tuple[Layout, tuple[str, ...]]:
    """Return the layout of `disks`, whose contents were looked at, and remarks.

    Unless they were named, loop devices, removable and empty disks are left out.

    Raises:
        InvalidInput: nothing is there to capture, or it is nothing that a layout can say.
    """
    captured = Captured()
    for disk in sorted(disks, key=lambda each: each.path):
        if not named and (reason := _left_out(disk)):
            captured.remarks += [f"{disk.path}: {reason}"] if disk.type != "loop" else []
            continue
        _disk(disk, captured)
    raids, groups, volumes, luks = capture_stack(machine, captured.ids, captured.remarks)
    parts = Parts(
        disks=tuple(captured.disks),
        partitions=tuple(captured.partitions),
        raids=tuple(raids),
        groups=tuple(groups),
        logical_volumes=tuple(volumes),
        luks=tuple(luks),
    )
    used = {each for one in parts.stacks for each in parts.below(one.id)}
    for device, name in captured.ids.items():
        if name not in used:
            _filesystem(device, name, machine, disks, captured)
    parts = replace(parts, filesystems=tuple(captured.filesystems))
    parts = _with_roles(_with_firmware(machine, parts))
    mistakes = layout_mistakes(parts)
    if mistakes:
        text = "; ".join(f"{each.field}: {each.text}" for each in mistakes)
        raise InvalidInput(
            f"these disks cannot be written as a layout: {text}",
            hint="name the disks to capture with --disk",
        )
    layout = Layout(**{name: getattr(parts, name) for name in Parts.__dataclass_fields__})
    return layout, tuple(captured.remarks)


def _left_out(disk: DiskFacts) -> str:
    """Return why a disk that nobody named is not captured; empty: it is."""
    if disk.type == "loop" or disk.removable:
        return "removable"
    if disk.map:
        return f"a path to {disk.map}"
    contents = disk.contents
    if contents is None or not (contents.table or contents.signatures):
        return "empty"
    return ""


def _disk(disk: DiskFacts, captured: Captured) -> None:
    name = f"disk{len(captured.disks) + 1}"
    contents = disk.contents
    if contents is None or not contents.table:
        captured.ids[disk.path] = name
        captured.disks.append(DiskWish(id=name, match=disk_match(disk), table=TableKind.NONE))
        return
    if contents.table not in {"gpt", "dos"}:
        captured.remarks.append(f"{disk.path} has a partition table of kind {contents.table}")
        return
    table = TableKind.MBR if contents.table == "dos" else TableKind.GPT
    wish = DiskWish(
        id=name, match=disk_match(disk), table=table, alignment=_alignment(disk, captured)
    )
    captured.disks.append(wish)
    _partitions(disk, wish, contents.partitions, captured)


def _alignment(disk: DiskFacts, captured: Captured) -> int:
    partitions = disk.contents.partitions if disk.contents else ()
    extended = [each for each in partitions if each.type.lower() in MBR_EXTENDED_TYPES]
    numbers = [
        value for each in partitions if each not in extended for value in (each.start, each.size)
    ]
    for alignment in (MIB, 64 << 10, MIN_ALIGNMENT):
        if all(value % alignment == 0 for value in numbers):
            return alignment
    captured.remarks.append(
        f"{disk.path} has partitions that are not aligned to 4 KiB; in the layout they are"
    )
    return MIN_ALIGNMENT


def _partitions(
    disk: DiskFacts, wish: DiskWish, partitions: Sequence[PartitionFacts], captured: Captured
) -> None:
    usable = usable_region(disk, wish)
    plain = [
        each
        for each in partitions
        if wish.table is TableKind.GPT or each.type.lower() not in MBR_EXTENDED_TYPES
    ]
    if len(plain) < len(partitions) and not any(e.number > MBR_PRIMARIES for e in plain):
        captured.remarks.append(f"{disk.path} has an extended partition with nothing in it")
    at = usable.start
    expected = 1
    for each in sorted(plain, key=lambda part: part.start):
        logical = wish.table is TableKind.MBR and each.number > MBR_PRIMARIES
        follows = at + (wish.alignment if logical else 0)
        start = each.start // wish.alignment * wish.alignment
        is_last = each.start + each.size >= usable.end
        size = -(-each.size // wish.alignment) * wish.alignment
        name = usable_id(each.label, f"{wish.id}-{each.number}", set(captured.ids.values()))
        captured.ids[each.path] = name
        number = each.number
        captured.partitions.append(
            Partition(
                id=name,
                disk=wish.id,
                type=type_name(each.type, wish.table),
                size=REST_SIZE if is_last else Size(exact=size),
                label="" if each.label in {"", name} else each.label,
                number=None if number == expected or logical else number,
                start=None if start == follows else max(start, wish.alignment),
                logical=logical,
                flags=_flags(each, captured),
            )
        )
        at = start + size
        expected = max(expected, number) + 1


def _flags(part: PartitionFacts, captured: Captured) -> frozenset[PartitionFlag]:
    names = {value: flag for flag, value in GPT_ATTRIBUTES.items()}
    names["bootable"] = PartitionFlag.ACTIVE
    unknown = [word for word in part.flags if word not in names]
    if unknown:
        captured.remarks.append(f"{part.path} has the flags {', '.join(unknown)}")
    return frozenset(names[word] for word in part.flags if word in names)


def _filesystem(
    device: str,
    name: str,
    machine: MachineFacts,
    disks: Sequence[DiskFacts],
    captured: Captured,
) -> None:
    volume = machine.volume_at(device)
    found = signatures_at(device, machine, {disk.path: disk for disk in disks})
    kinds = [each for each in found if each.type in tuple(FsType)]
    other = [each.type for each in found if each.type not in tuple(FsType)]
    if other and not kinds:
        what = "not opened or assembled" if other[0] in _MEMBERS else "no content that is known"
        captured.remarks.append(f"{device} holds {other[0]}: {what}")
    if kinds:
        volume = volume or VolumeFacts(path=device, size=0)
        captured.filesystems.append(
            _one_filesystem(volume, name, kinds[0], machine, captured.remarks)
        )


def _one_filesystem(
    volume: VolumeFacts,
    name: str,
    found: Signature,
    machine: MachineFacts,
    remarks: list[str],
) -> Filesystem:
    device, kind = volume.path, FsType(found.type)
    node = next((each.device for each in machine.blocks if each.path == device), "")
    mounts = [each for each in machine.mounts if each.source == device or each.device == node]
    mounts = [each for each in mounts if not each.target.startswith(("/run/", "/media/", "/proc/"))]
    whole = next((each for each in mounts if each.root == "/"), None)
    label = found.label if re.fullmatch(r"[A-Za-z0-9@][A-Za-z0-9 @._:+-]*", found.label) else ""
    if found.label and not label:
        remarks.append(f"{device} has the label {found.label!r}")
    inner: list[Subvolume] = []
    if kind is FsType.BTRFS:
        paths = [each.root.lstrip("/") for each in mounts if each.root != "/"]
        there = list(dict.fromkeys([*(volume.subvolumes or ()), *paths]))
        if len(there) > _MOST_SUBVOLUMES:
            remarks.append(f"{device} has {len(there)} subvolumes; those mounted are captured")
            there = paths
        for path in sorted(there):
            mount = next((each for each in mounts if each.root == f"/{path}"), None)
            inner.append(
                Subvolume(
                    path=path,
                    mount=mount.target if mount else "",
                    mount_options=notable_options(mount.options) if mount else (),
                )
            )
    return Filesystem(
        volume=name,
        type=kind,
        label=label,
        mount=whole.target if whole else "",
        mount_options=notable_options(whole.options) if whole else (),
        subvolumes=tuple(inner),
        min_used=round_up(volume.used or 0, MIB),
    )


def _with_firmware(machine: MachineFacts, parts: Parts) -> Parts:
    """Claim the firmware where the disks have what it boots from."""
    types = {part.type for part in parts.partitions}
    mbr = any(disk.table is TableKind.MBR for disk in parts.disks)
    bios = machine.firmware == "bios" and ("bios_grub" in types or mbr)
    uefi = machine.firmware == "uefi" and "esp" in types
    return replace(parts, firmware=machine.firmware if bios or uefi else "")


def _with_roles(parts: Parts) -> Parts:
    """Without a root on them, these are data disks."""
    points: Mapping[str, str] = {fs.mount: fs.volume for fs in parts.filesystems}
    inner = {each.mount for fs in parts.filesystems for each in fs.subvolumes}
    if "/" in points or "/" in inner:
        return parts
    system = {part.disk for part in parts.partitions if part.type in {"bios_grub", "prep"}}
    for fs in parts.filesystems:
        if {fs.mount, *(each.mount for each in fs.subvolumes)} & {
            "/usr",
            "/boot",
            "/boot/efi",
            "/efi",
        }:
            system |= parts.disks_below(fs.volume)
    return replace(
        parts,
        disks=tuple(
            disk if disk.id in system else replace(disk, role=Role.DATA) for disk in parts.disks
        ),
    )
