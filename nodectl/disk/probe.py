"""What is there: reads disks, what holds them and what stands on them. Writes nothing.

Sources: lsblk, sfdisk and wipefs in their JSON forms, blkid in its `export` form (it has no JSON),
sysfs, /proc/self/mountinfo and /proc/swaps (proc(5)). The parsing is pure and takes what was read,
so that it can be tried on disks that this machine does not have.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nodectl.disk.facts import (
    BlockNode,
    DiskContents,
    DiskFacts,
    MachineFacts,
    MountEntry,
    PartitionFacts,
    Signature,
    Use,
    UseKind,
)
from nodectl.disk.sysfs import read_blocks, read_links
from nodectl.disk.volumes import DiskMatch
from nodectl.errors import DiskMissing, PathUnreadable
from nodectl.run import run

_EFI = Path("/sys/firmware/efi")
_COLUMNS = (
    "NAME,KNAME,MAJ:MIN,TYPE,SIZE,RO,RM,SERIAL,WWN,MODEL,VENDOR,TRAN,LOG-SEC,PHY-SEC,ROTA,HCTL"
)
_DISK_TYPES = ("disk", "loop", "mpath")
_NO_DISKS = ("zram", "ram", "fd", "sr")  # kernel names that are never a target
_SYSTEM_MOUNTS = ("/", "/usr", "/boot", "/boot/efi", "/efi")
_TABLES = ("gpt", "dos", "PMBR", "sgi", "sun", "mac", "bsd")
_BLKID_NOTHING, _BLKID_AMBIVALENT = 2, 8  # blkid(8), "Exit status"
_BLKFLSBUF = 0x1261  # Linux include/uapi/linux/fs.h


def probe_machine() -> MachineFacts:
    """Return every whole disk and attached loop device, who holds them, and the firmware.

    What stands on them is not looked at.
    """
    lsblk = run(["lsblk", "--json", "--bytes", "--output", _COLUMNS])
    blocks = read_blocks()
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape"))
    swaps = parse_swaps(Path("/proc/swaps").read_text("utf-8", "surrogateescape"))
    return MachineFacts(
        disks=parse_disks(json.loads(lsblk.stdout or b"{}"), blocks, mounts, swaps, read_links()),
        blocks=blocks,
        mounts=mounts,
        swaps=swaps,
        firmware="uefi" if _EFI.is_dir() else "bios",
    )


def probe_disks() -> tuple[DiskFacts, ...]:
    """Return every whole disk and attached loop device; what stands on them is not looked at."""
    return probe_machine().disks


def probe_contents(disk: DiskFacts) -> DiskFacts:
    """Return `disk` with what stands on it, and with a use if somebody holds it exclusively.

    Raises:
        PathUnreadable: it cannot be opened.
    """
    if not disk.uses and _is_claimed(disk.path):
        use = Use(kind=UseKind.CLAIMED, device=disk.path, detail="")
        return replace(disk, uses=(*disk.uses, use))
    _forget_cached(disk.path)
    signatures = read_signatures(disk.path)
    table: Mapping[str, Any] = {}
    if any(each.type in _TABLES for each in signatures):
        # Status 1: no table that sfdisk understands, which is what will be shown.
        table = parse_table(run(["sfdisk", "--json", disk.path], ok=(0, 1)).stdout)
    sector = int(table.get("sectorsize", disk.logical_sector))
    contents = DiskContents(
        signatures=signatures,
        table=str(table.get("label", "")),
        table_uuid=str(table.get("id", "")),
        partitions=tuple(
            _partition(disk.path, entry, sector) for entry in table.get("partitions", [])
        ),
    )
    return replace(disk, contents=contents)


def _forget_cached(disk: str) -> None:
    """Let the kernel read the disk anew.

    A disk and each of its partitions are cached apart. While a partition is held (LVM, md), the
    disk's cache stays, and what was written through partitions since then is not seen in it.
    """
    with contextlib.suppress(OSError):  # a device that knows no such thing
        fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _BLKFLSBUF)
        finally:
            os.close(fd)


def disk_named(text: str) -> DiskMatch:
    """Return what a user's word for a disk means: a path (with a "/"), else a serial.

    Raises:
        DiskMissing: the path is not there, no block device, or a partition.
    """
    if "/" not in text:
        return DiskMatch(serial=text)
    real = os.path.realpath(text)
    try:
        found = os.stat(real)  # noqa: PTH116 - the device number is wanted
    except OSError as exc:
        raise DiskMissing(
            f"there is no disk at {text}: {exc.strerror}", hint="lsblk lists the disks"
        ) from exc
    if stat.S_ISREG(found.st_mode):
        raise DiskMissing(
            f"{text} is a file, not a disk", hint=f"attach it: losetup --find --show {text}"
        )
    if not stat.S_ISBLK(found.st_mode):
        raise DiskMissing(f"{text} is not a block device", hint="lsblk lists the disks")
    folder = Path(f"/sys/dev/block/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")
    if (folder / "partition").exists():
        whole = folder.resolve().parent.name
        raise DiskMissing(f"{text} is a partition", hint=f"name the whole disk: /dev/{whole}")
    return DiskMatch(path=real)


def read_signatures(device: str) -> tuple[Signature, ...]:
    """Return the magic numbers that wipefs finds on a device."""
    return parse_signatures(run(["wipefs", "--json", device]).stdout)


def read_table(disk: str) -> Mapping[str, Any]:
    """Return the partition table as sfdisk sees it; empty where there is none."""
    return parse_table(run(["sfdisk", "--json", disk], ok=(0, 1)).stdout)


def _is_claimed(path: str) -> bool:
    """Say whether an exclusive open is refused: a mount, holder or program that we cannot see."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            return True
        raise PathUnreadable(f"{path} cannot be opened: {exc.strerror}") from exc
    return False


def _partition(disk: str, entry: Mapping[str, Any], sector: int) -> PartitionFacts:
    start, size = int(entry["start"]) * sector, int(entry["size"]) * sector
    found = run(
        [
            "blkid",
            "--probe",
            "--output",
            "export",
            "--offset",
            str(start),
            "--size",
            str(size),
            disk,
        ],
        ok=(0, _BLKID_NOTHING, _BLKID_AMBIVALENT),
    )
    unclear = found.status == _BLKID_AMBIVALENT
    node = str(entry["node"])
    return PartitionFacts(
        number=int(re.sub(r".*?([0-9]*)$", r"\1", node) or 0),
        path=node,
        start=start,
        size=size,
        type=str(entry.get("type", "")).upper(),
        uuid=str(entry.get("uuid", "")),
        label=str(entry.get("name", "")),
        signatures=(Signature(type="several"),) if unclear else parse_blkid(found.stdout),
        flags=parse_flags(entry),
    )


def parse_flags(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the flags of an entry of `sfdisk --json`, one by one: "GUID:59,63" are two."""
    words: list[str] = []
    for word in str(entry.get("attrs", "")).split():
        name, colon, numbers = word.partition(":")
        words += [f"{name}:{number}" for number in numbers.split(",")] if colon else [name]
    return tuple(sorted([*words, *(["bootable"] if entry.get("bootable") else [])]))


def parse_blkid(output: bytes) -> tuple[Signature, ...]:
    """Return the signature that `blkid --output export` printed: lines of KEY=value."""
    lines = output.decode("utf-8", "replace").splitlines()
    pairs = {key: value for key, _, value in (line.partition("=") for line in lines)}
    kind = pairs.get("TYPE") or pairs.get("PTTYPE")
    if not kind:
        return ()
    return (Signature(type=kind, uuid=pairs.get("UUID", ""), label=pairs.get("LABEL", "")),)


def parse_signatures(output: bytes) -> tuple[Signature, ...]:
    """Return what `wipefs --json` printed; it prints nothing where it finds nothing."""
    document = json.loads(output.strip() or b"{}")
    found = (
        Signature(type=each["type"], uuid=each.get("uuid") or "", label=each.get("label") or "")
        for each in document.get("signatures", [])
    )
    return tuple(dict.fromkeys(found))  # a GPT has two copies


def parse_table(output: bytes) -> Mapping[str, Any]:
    """Return the object that `sfdisk --json` printed; empty where it printed none."""
    document = json.loads(output.strip() or b"{}")
    table: Mapping[str, Any] = document.get("partitiontable", {})
    return table


def parse_mounts(text: str) -> tuple[MountEntry, ...]:
    """Return what /proc/self/mountinfo says (proc(5), section 3.5 of the kernel's proc.rst)."""
    entries = []
    for line in text.splitlines():
        fields = line.split(" ")
        dash = fields.index("-")
        entries.append(
            MountEntry(
                device=fields[2],
                target=_plain(fields[4]),
                source=_plain(fields[dash + 2]),
                type=fields[dash + 1],
                root=_plain(fields[3]),
                options=tuple(dict.fromkeys((*fields[5].split(","), *fields[dash + 3].split(",")))),
            )
        )
    return tuple(entries)


def parse_swaps(text: str) -> tuple[str, ...]:
    """Return the devices and files that /proc/swaps lists."""
    return tuple(_plain(line.split()[0]) for line in text.splitlines()[1:] if line.strip())


def _plain(text: str) -> str:
    """Return text without the octal escapes of the kernel's tables."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def parse_disks(
    lsblk: Mapping[str, Any],
    blocks: Sequence[BlockNode],
    mounts: Sequence[MountEntry],
    swaps: Sequence[str],
    links: Mapping[str, Sequence[str]],
) -> tuple[DiskFacts, ...]:
    """Return the disks of `lsblk --json --bytes --nodeps` with everything that holds them.

    `links` maps a path under /dev to the links under /dev/disk that lead to it. Old versions of
    lsblk print numbers and booleans as texts; both are taken.
    """
    by_name = {block.name: block for block in blocks}
    found: dict[str, DiskFacts] = {}
    for entry, parent in _entries(lsblk.get("blockdevices", [])):
        name = str(entry["kname"]).replace("/", "!")
        if entry["type"] not in _DISK_TYPES or name.startswith(_NO_DISKS) or name in found:
            continue
        block = by_name.get(name, BlockNode(name=name, device=entry["maj:min"]))
        uses = uses_of(name, blocks, mounts, swaps)
        disk = _disk(entry, block, uses)
        # A multipath device has no serial of its own: its paths lead to one disk, and have it.
        first = found.get(str(parent.get("kname", ""))) if entry["type"] == "mpath" else None
        if first:
            disk = replace(
                disk,
                serial=disk.serial or first.serial,
                wwn=disk.wwn or first.wwn,
                model=disk.model or first.model,
                vendor=disk.vendor or first.vendor,
                transport=disk.transport or first.transport,
            )
        maps = [by_name[each] for each in block.holders if each in by_name]
        paths = [each.path for each in maps if each.dm_uuid.startswith("mpath-")]
        nodes = tuple(sorted(each.name for each in blocks if each.parent == name))
        found[name] = replace(
            disk,
            links=tuple(sorted(links.get(disk.path, ()))),
            nodes=nodes,
            map=paths[0] if paths else "",
        )
    return tuple(found.values())


def _entries(
    listed: Sequence[Mapping[str, Any]], parent: Mapping[str, Any] | None = None
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the devices of lsblk's tree, each with the one that it stands on."""
    for entry in listed:
        yield entry, parent or {}
        yield from _entries(entry.get("children", []), entry)


def _disk(entry: Mapping[str, Any], block: BlockNode, uses: tuple[Use, ...]) -> DiskFacts:
    read_only = Use(kind=UseKind.READ_ONLY, device=block.path, detail="")
    rotational = entry.get("rota")
    return DiskFacts(
        path=block.path,
        name=block.name,
        device=entry["maj:min"],
        sequence=block.sequence,
        type=entry["type"],
        size=int(entry["size"]),
        logical_sector=int(entry["log-sec"]),
        physical_sector=int(entry["phy-sec"]),
        serial=_word(entry, "serial") or block.serial,
        wwn=_word(entry, "wwn"),
        model=_word(entry, "model"),
        vendor=_word(entry, "vendor"),
        transport=_word(entry, "tran"),
        removable=_is_set(entry["rm"]),
        rotational=None if rotational is None else _is_set(rotational),
        hctl=_word(entry, "hctl"),
        backing_file=block.backing_file,
        uses=(*uses, *([read_only] if _is_set(entry["ro"]) else [])),
    )


def _word(entry: Mapping[str, Any], key: str) -> str:
    return str(entry.get(key) or "").strip()


def _is_set(value: object) -> bool:
    return value in (True, 1, "1")


def uses_of(
    disk: str,
    blocks: Sequence[BlockNode],
    mounts: Sequence[MountEntry],
    swaps: Sequence[str],
) -> tuple[Use, ...]:
    """Return everything that holds the disk, its partitions, or what is built on them."""
    uses = []
    for block in _family(disk, blocks):
        path = _node(block)
        for mount in mounts:
            if mount.device == block.device or mount.source in {path, block.path}:
                kind = UseKind.SYSTEM if mount.target in _SYSTEM_MOUNTS else UseKind.MOUNT
                uses.append(Use(kind=kind, device=path, detail=mount.target))
        if {path, block.path} & set(swaps):
            uses.append(Use(kind=UseKind.SWAP, device=path, detail=""))
        known = {each.name: each.words for each in blocks}
        uses += [
            Use(kind=UseKind.HOLDER, device=path, detail=known.get(name) or name)
            for name in _holders(block, blocks)
        ]
    order = list(UseKind)
    return tuple(sorted(dict.fromkeys(uses), key=lambda use: order.index(use.kind)))


def _node(block: BlockNode) -> str:
    # The kernel writes "!" where the node's name has "/": cciss!c0d0.
    return "/dev/" + block.name.replace("!", "/")


def _holders(block: BlockNode, blocks: Sequence[BlockNode]) -> list[str]:
    """Return what is built on a device; a loop device over it is not among its holders in sysfs."""
    path = _node(block)
    return [*block.holders, *(each.name for each in blocks if each.backing_file == path)]


def _family(disk: str, blocks: Sequence[BlockNode]) -> list[BlockNode]:
    """Return the disk, its partitions, and all that is built on them, each once."""
    by_name = {block.name: block for block in blocks}
    names, waiting = [], [disk]
    while waiting:
        name = waiting.pop(0)
        if name in names or name not in by_name:
            continue
        names.append(name)
        waiting += [block.name for block in blocks if block.parent == name]
        waiting += _holders(by_name[name], blocks)
    return [by_name[name] for name in names]
