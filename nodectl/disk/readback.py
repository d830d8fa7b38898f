"""Reads back what a step of a plan wrote, and says what differs."""

import contextlib
import json
import os
import time
from pathlib import Path

from nodectl.disk.facts import Signature
from nodectl.disk.kinds import MBR_EXTENDED_TYPES, TableKind
from nodectl.disk.mounts import mounted_device, private_folder
from nodectl.disk.probe import parse_flags, read_signatures, read_table
from nodectl.disk.probe_stack import list_subvolumes, parse_array
from nodectl.disk.steps import (
    CreateArray,
    CreateGroup,
    CreatePhysicalVolume,
    CreateSubvolumes,
    CreateVolume,
    FormatFilesystem,
    FormatLuks,
    MakeSwap,
    OpenLuks,
    SealTable,
    Step,
    TableEntry,
    WipeSignatures,
    WriteTable,
)
from nodectl.errors import ReadBackFailed
from nodectl.run import run

_NODE_WAIT_S = 30.0
_NODE_POLL_S = 0.05
_LVM_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")


def check_step(each: Step) -> None:
    """Look at what a step was to do.

    Raises:
        ReadBackFailed: it is not so.
    """
    match each:
        case WipeSignatures() if each.erase:
            left = read_signatures(each.device)
            if left:
                names = ", ".join(one.type for one in left)
                raise ReadBackFailed(f"{each.device} still shows {names} after it was wiped")
        case WriteTable():
            _check_table(each)
        case SealTable():
            found = str(read_table(each.disk).get("id", ""))
            _compare(f"the id of the table of {each.disk}", found.upper(), each.uuid.upper())
        case FormatFilesystem():
            _check_signature(each.device, str(each.type), each.uuid, each.label)
        case MakeSwap():
            _check_signature(each.device, "swap", each.uuid, each.label)
        case FormatLuks():
            _check_signature(each.device, "crypto_LUKS", each.uuid, "")
        case _:
            _check_stack(each)


def _check_stack(each: Step) -> None:
    match each:
        case CreateArray():
            _check_array(each)
        case CreatePhysicalVolume():
            kinds = [one.type for one in read_signatures(each.device)]
            _compare(f"what {each.device} holds", kinds, ["LVM2_member"])
        case CreateGroup():
            rows = _report("pvs", "pv_name,vg_name", "pv")
            found = {os.path.realpath(row[0]) for row in rows if row[1] == each.name}
            wanted = {os.path.realpath(one) for one in each.devices}
            _compare(f"the devices of volume group {each.name}", found, wanted)
        case CreateVolume():
            _check_volume(each)
        case OpenLuks():
            if not Path(f"/dev/mapper/{each.name}").exists():
                raise ReadBackFailed(f"/dev/mapper/{each.name} is not there after it was opened")
        case CreateSubvolumes():
            with private_folder() as folder, mounted_device(each.device, folder):
                there = set(list_subvolumes(str(folder)))
            _compare(f"subvolumes on {each.device}", there & set(each.paths), set(each.paths))
        case _:
            pass


def _compare(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ReadBackFailed(f"{what} reads back as {found} and was written as {wanted}")


def _check_table(each: WriteTable) -> None:
    """Compare the table on the disk with the planned one, entry by entry."""
    table = read_table(each.disk)
    sector = int(table.get("sectorsize", each.sector))
    gpt = each.table is TableKind.GPT
    found = [
        TableEntry(
            number=wanted.number,
            path=str(entry["node"]),
            start=int(entry["start"]) * sector,
            size=int(entry["size"]) * sector,
            type=str(entry["type"]).upper() if gpt else str(entry["type"]),
            uuid=str(entry.get("uuid", "")).upper(),
            name=str(entry.get("name", "")),
            flags=parse_flags(entry),
            is_extended=not gpt and str(entry["type"]) in MBR_EXTENDED_TYPES,
        )
        for entry, wanted in zip(table.get("partitions", []), _sorted(each), strict=False)
    ]
    head = (table.get("label"), str(table.get("id", "")).upper())
    label = "gpt" if gpt else "dos"
    _compare(f"the head of the table of {each.disk}", head, (label, each.uuid.upper()))
    _compare(f"the partition table of {each.disk}", found, _sorted(each))


def _sorted(each: WriteTable) -> list[TableEntry]:
    return sorted(each.entries, key=lambda entry: entry.number)


def _check_signature(device: str, kind: str, uuid: str, label: str) -> None:
    found = read_signatures(device)
    wanted = Signature(type=kind, uuid=uuid.lower(), label=label)
    if wanted not in [Signature(type=o.type, uuid=o.uuid.lower(), label=o.label) for o in found]:
        raise ReadBackFailed(f"{device} reads back as {found}, was formatted as {wanted}")


def _check_array(each: CreateArray) -> None:
    """Read an array back by the name that udev gives it, for which mdadm does not wait long."""
    deadline = time.monotonic() + _NODE_WAIT_S
    while not Path(each.device).exists():
        if time.monotonic() > deadline:
            raise ReadBackFailed(f"{each.device} does not appear within {_NODE_WAIT_S:g} s")
        time.sleep(_NODE_POLL_S)
    array = parse_array(run(["mdadm", "--detail", "--export", each.device]).stdout, {})
    _compare(f"the level of {each.device}", array.level, str(each.level))
    found = {os.path.realpath(one) for one in (*array.devices, *array.spares)}
    wanted = {os.path.realpath(one) for one in (*each.devices, *each.spares)}
    _compare(f"the members of {each.device}", found, wanted)


def _check_volume(each: CreateVolume) -> None:
    rows = _report("lvs", "lv_name,vg_name,segtype,lv_size", "lv")
    found = [row[2] for row in rows if (row[0], row[1]) == (each.name, each.group)]
    _compare(f"the kind of {each.group}/{each.name}", set(found), {str(each.kind)})
    if each.virtual is not None:
        sizes = [int(row[3]) for row in rows if (row[0], row[1]) == (each.name, each.group)]
        if min(sizes) < each.virtual:
            _compare(f"the size of {each.group}/{each.name}", sizes, [each.virtual])


def _report(program: str, columns: str, name: str) -> list[tuple[str, ...]]:
    """Return the rows that an LVM program reports, with the columns in order."""
    output = run([program, *_LVM_REPORT, "--options", columns]).stdout
    rows = []
    with contextlib.suppress(KeyError):
        for report in json.loads(output)["report"]:
            rows += [tuple(row[key] for key in columns.split(",")) for row in report[name]]
    return rows
