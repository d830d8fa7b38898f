"""What is built on disks: arrays, volume groups, encrypted volumes, and what they hold.

Writes nothing. Sources: `mdadm --detail --export` (KEY=value, it has no JSON), lvs, vgs and pvs
with `--reportformat json`, `cryptsetup luksDump --dump-json-metadata`, blkid in its `export` form,
and `btrfs subvolume list`, the only text for people that is read here, since older btrfs-progs have
no other. A program is run only where sysfs or a signature shows that there is something for it.
"""

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodectl.disk.facts import (
    ArrayFacts,
    BlockNode,
    CryptFacts,
    DiskFacts,
    GroupFacts,
    LvFacts,
    MachineFacts,
    Signature,
    VolumeFacts,
)
from nodectl.disk.mounts import private_folder
from nodectl.disk.probe import parse_blkid
from nodectl.disk.sysfs import INACTIVE, SYS, sys_line
from nodectl.errors import CommandFailed
from nodectl.run import run

_SECTOR = 512  # sysfs counts in these always
_BLKID_OK = (0, 2, 8)  # blkid(8): found, nothing, several
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_LV_COLUMNS = (
    "lv_name,vg_name,lv_path,lv_size,segtype,lv_uuid,pool_lv,stripes,stripe_size,"
    "lv_metadata_size,lv_active"
)


def probe_stack(machine: MachineFacts, disks: Sequence[DiskFacts]) -> MachineFacts:
    """Return the facts with everything that is built on disks; `disks` were looked into.

    Raises:
        ToolMissing: something is there, and the program that could tell about it is not.
    """
    arrays = tuple(_array(block, machine) for block in machine.blocks if _runs(block))
    has_lvm = any(block.dm_uuid.startswith("LVM-") for block in machine.blocks)
    return replace(
        machine,
        disks=tuple(
            next((d for d in disks if d.path == each.path), each) for each in machine.disks
        ),
        arrays=arrays,
        groups=_groups(machine) if has_lvm or _holds(disks, "LVM2_member") else (),
        crypts=tuple(
            _crypt(block, machine)
            for block in machine.blocks
            if block.dm_uuid.startswith("CRYPT-LUKS")
        ),
        volumes=tuple(_volumes(machine, disks)),
    )


def _runs(array: BlockNode) -> bool:
    return array.md_level not in {"", INACTIVE}


def _holds(disks: Sequence[DiskFacts], kind: str) -> bool:
    contents = [disk.contents for disk in disks if disk.contents]
    found = [each.signatures for each in contents]
    found += [part.signatures for each in contents for part in each.partitions]
    return any(each.type == kind for signatures in found for each in signatures)


def canonical(path: str, blocks: Sequence[BlockNode]) -> str:
    """Return the one name of a device here: /dev/sda1, /dev/md127, /dev/mapper/vg0-root."""
    name = os.path.realpath(path).removeprefix("/dev/").replace("/", "!")
    return next((block.path for block in blocks if block.name == name), path)


def _array(block: BlockNode, machine: MachineFacts) -> ArrayFacts:
    output = run(["mdadm", "--detail", "--export", block.path]).stdout
    folder = SYS / block.name / "md"
    devices = {each: canonical(each, machine.blocks) for each in _array_devices(output)}
    array = parse_array(output, devices)
    location = sys_line(folder / "bitmap" / "location")
    return replace(
        array,
        path=block.path,
        chunk=int(sys_line(folder / "chunk_size") or 0),
        layout=layout_words(array.level, sys_line(folder / "layout")),
        bitmap=None if not location else location != "none",
    )


def _array_devices(output: bytes) -> list[str]:
    pairs = _pairs(output)
    return [value for key, value in pairs.items() if re.fullmatch(r"MD_DEVICE_.*_DEV", key)]


def _pairs(output: bytes) -> dict[str, str]:
    lines = output.decode("utf-8", "replace").splitlines()
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def parse_array(output: bytes, devices: Mapping[str, str]) -> ArrayFacts:
    """Return what `mdadm --detail --export` says; `devices` has the canonical names."""
    pairs = _pairs(output)
    roles: list[tuple[int, str]] = []
    spares: list[str] = []
    for key, value in pairs.items():
        found = re.fullmatch(r"MD_DEVICE_(.*)_DEV", key)
        if found:
            role = pairs.get(f"MD_DEVICE_{found[1]}_ROLE", "spare")
            path = devices.get(value, value)
            if role.isdigit():
                roles.append((int(role), path))
            else:
                spares.append(path)
    return ArrayFacts(
        path="",
        name=pairs.get("MD_NAME", "").rpartition(":")[2] or pairs.get("MD_DEVNAME", ""),
        level=pairs.get("MD_LEVEL", ""),
        metadata=pairs.get("MD_METADATA", ""),
        uuid=pairs.get("MD_UUID", ""),
        devices=tuple(path for _, path in sorted(roles)),
        spares=tuple(sorted(spares)),
        missing=max(int(pairs.get("MD_DEVICES", "0")) - len(roles), 0),
    )


def layout_words(level: str, number: str) -> str:
    """Return md's layout number as mdadm(8) writes it, where it is not the default.

    Source: Linux drivers/md/raid10.c (near and far copies in the low bytes), raid5.h.
    """
    value = int(number) if number.isdigit() else 0
    if level == "raid10" and value:
        near, far, offset = value & 0xFF, value >> 8 & 0xFF, value >> 16 & 1
        if far > 1:
            return f"{'o' if offset else 'f'}{far}"
        return "" if near == 2 else f"n{near}"  # noqa: PLR2004 - the default
    names = ("left-asymmetric", "right-asymmetric", "", "right-symmetric")
    in_range = level in {"raid5", "raid6"} and value < len(names)
    return names[value] if in_range else ""


def _groups(machine: MachineFacts) -> tuple[GroupFacts, ...]:
    volumes = run(["lvs", *_REPORT, "--options", _LV_COLUMNS]).stdout
    groups = run(["vgs", *_REPORT, "--options", "vg_name,vg_uuid,vg_extent_size,vg_free"]).stdout
    devices = run(["pvs", *_REPORT, "--options", "pv_name,vg_name"]).stdout
    found = parse_groups(volumes, groups, devices)
    return tuple(
        replace(
            group,
            devices=tuple(canonical(each, machine.blocks) for each in group.devices),
            volumes=tuple(
                replace(each, path=canonical(each.path, machine.blocks)) for each in group.volumes
            ),
        )
        for group in found
    )


def _rows(output: bytes, name: str) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = []
    for report in json.loads(output or b"{}").get("report", []):
        rows += report.get(name, [])
    return rows


def parse_groups(volumes: bytes, groups: bytes, devices: bytes) -> tuple[GroupFacts, ...]:
    """Return what lvs, vgs and pvs printed as JSON, with sizes in bytes."""
    found = []
    for group in _rows(groups, "vg"):
        name = group["vg_name"]
        lvs: dict[str, LvFacts] = {}
        for row in _rows(volumes, "lv"):
            if row["vg_name"] == name:  # a volume of several segments has several rows
                lvs.setdefault(row["lv_name"], _lv(row))
        members = [row["pv_name"] for row in _rows(devices, "pv") if row["vg_name"] == name]
        found.append(
            GroupFacts(
                name=name,
                uuid=group["vg_uuid"],
                extent=int(group["vg_extent_size"]),
                devices=tuple(members),
                free=int(group.get("vg_free") or 0),
                volumes=tuple(lvs.values()),
            )
        )
    return tuple(found)


def _lv(row: Mapping[str, str]) -> LvFacts:
    return LvFacts(
        name=row["lv_name"],
        path=row["lv_path"] or f"/dev/{row['vg_name']}/{row['lv_name']}",
        size=int(row["lv_size"]),
        kind=row["segtype"],
        uuid=row["lv_uuid"],
        pool=row.get("pool_lv", ""),
        stripes=int(row.get("stripes") or 1),
        stripe_size=int(row.get("stripe_size") or 0),
        metadata_size=int(row.get("lv_metadata_size") or 0),
        active=row.get("lv_active", "active") == "active",
    )


def _crypt(block: BlockNode, machine: MachineFacts) -> CryptFacts:
    lower = next((each.path for each in machine.blocks if block.name in each.holders), "")
    facts = CryptFacts(
        mapping=block.dm_name,
        path=block.path,
        device=lower,
        uuid=dm_luks_uuid(block.dm_uuid),
        version=2 if block.dm_uuid.startswith("CRYPT-LUKS2") else 1,
    )
    if facts.version == 1 or not lower:
        return facts
    dump = run(["cryptsetup", "luksDump", "--dump-json-metadata", lower]).stdout
    return parse_luks(dump, facts)


def dm_luks_uuid(dm_uuid: str) -> str:
    """Return the UUID in "CRYPT-LUKS2-00112233445566778899aabbccddeeff-name", with its dashes."""
    digits = dm_uuid.split("-")[2] if dm_uuid.count("-") > 1 else ""
    places = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    return "-".join(digits[begin:end] for begin, end in places)


def parse_luks(dump: bytes, facts: CryptFacts) -> CryptFacts:
    """Return `facts` with what the JSON metadata of LUKS2 says of cipher and keys."""
    document: Mapping[str, Any] = json.loads(dump)
    segment: Mapping[str, Any] = next(iter(document.get("segments", {}).values()), {})
    slot: Mapping[str, Any] = next(iter(document.get("keyslots", {}).values()), {})
    return replace(
        facts,
        cipher=str(segment.get("encryption", "")),
        sector=int(segment.get("sector_size", 512)),
        key_bits=int(slot.get("key_size", 0)) * 8,
        pbkdf=str(slot.get("kdf", {}).get("type", "")),
    )


def _volumes(machine: MachineFacts, disks: Sequence[DiskFacts]) -> list[VolumeFacts]:
    """Return what stands on everything that is neither a disk nor a partition, and on btrfs."""
    found = [
        VolumeFacts(path=block.path, size=_size(block), signatures=read_volume(block.path))
        for block in machine.blocks
        if _runs(block) or block.dm_uuid.startswith(("LVM-", "CRYPT-"))
    ]
    for disk in disks:
        contents = disk.contents
        if contents is None:
            continue
        found += [
            VolumeFacts(path=part.path, size=part.size, signatures=part.signatures)
            for part in contents.partitions
        ]
        if not contents.table:
            found.append(
                VolumeFacts(path=disk.path, size=disk.size, signatures=contents.signatures)
            )
    return [_with_subvolumes(_with_use(each, machine), machine) for each in found]


def read_volume(path: str) -> tuple[Signature, ...]:
    """Return what blkid finds on a device."""
    found = run(["blkid", "--probe", "--output", "export", path], ok=_BLKID_OK)
    if found.status == _BLKID_OK[2]:
        return (Signature(type="several"),)
    return parse_blkid(found.stdout)


def _with_use(volume: VolumeFacts, machine: MachineFacts) -> VolumeFacts:
    """Return a volume with the bytes that its filesystem uses, where it is mounted."""
    last = {each.target: each for each in machine.mounts}  # what is mounted over it hides it
    device = next((each.device for each in machine.blocks if each.path == volume.path), "")
    for mount in last.values():
        if mount.source == volume.path or mount.device == device:
            with contextlib.suppress(OSError):  # unmounted meanwhile
                seen = os.statvfs(mount.target)
                return replace(volume, used=(seen.f_blocks - seen.f_bfree) * seen.f_frsize)
    return volume


def _with_subvolumes(volume: VolumeFacts, machine: MachineFacts) -> VolumeFacts:
    if not any(each.type == "btrfs" for each in volume.signatures):
        return volume
    mounts = [each for each in machine.mounts if each.source == volume.path]
    if mounts:
        return replace(volume, subvolumes=list_subvolumes(mounts[0].target))
    if not Path(volume.path).exists():  # a partition that the kernel does not show
        return volume
    # Read-only and without the log's replay, which would write.
    with private_folder() as folder, contextlib.suppress(CommandFailed):
        options = ("--read-only", "--options", "rescue=nologreplay")
        run(["mount", "--types", "btrfs", *options, volume.path, folder])
        try:
            return replace(volume, subvolumes=list_subvolumes(str(folder)))
        finally:
            run(["umount", folder])
    return volume


def list_subvolumes(mount: str) -> tuple[str, ...]:
    """Return the subvolumes of a mounted btrfs, each by its path from the top."""
    return parse_subvolumes(run(["btrfs", "subvolume", "list", mount]).stdout)


def parse_subvolumes(output: bytes) -> tuple[str, ...]:
    """Return the paths that `btrfs subvolume list` printed."""
    found = re.findall(r"^ID \d+ .*? path (.*)$", output.decode("utf-8", "replace"), re.MULTILINE)
    return tuple(path.removeprefix("<FS_TREE>/") for path in found)


def _size(block: BlockNode) -> int:
    return int(sys_line(SYS / block.name / "size") or 0) * _SECTOR
