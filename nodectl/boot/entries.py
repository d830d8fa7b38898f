"""The boot entries in the firmware's memory: their bytes, and what should become of them. Pure.

Format: UEFI specification 2.10, section 3.1.3 (EFI_LOAD_OPTION: u32 attributes, u16 length of the
device path, description in UTF-16 with a final NUL, device path, optional data; little-endian) and
section 10.3 (a device path is a row of nodes: type, subtype, u16 length with these four bytes).

What is written is only what differs: firmware was seen to break after many writes, and memory for
variables is small. An entry of others is never removed.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from nodectl.boot.model import BootOrder

_ACTIVE = 0x1
_HARD_DRIVE = (0x04, 0x01)
_FILE = (0x04, 0x04)
_MESSAGING = 0x03
# MAC address, IPv4, IPv6, VLAN, DNS, URI: what only a path to the network has.
_NETWORK_SUBTYPES = frozenset({0x0B, 0x0C, 0x0D, 0x14, 0x18, 0x1F})
_END = 0x7F
_SIGNATURE_GUID = 0x02
_HEAD = 6  # bytes before the description


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """One entry as it stands in the firmware."""

    number: int  # the 0004 of Boot0004
    label: str
    active: bool
    partuuid: str = ""  # lower case; empty: it leads to no GPT partition
    file: str = ""  # with backslashes, as written
    is_network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareFacts:
    """What the firmware remembers."""

    entries: tuple[BootEntry, ...]
    order: tuple[int, ...]
    current: int | None  # what this system was started by


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedEntry:
    """An entry that should be there."""

    label: str
    disk: str
    number: int  # of the partition
    partuuid: str
    file: str  # with backslashes


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveEntry:
    """Remove an entry."""

    entry: BootEntry
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEntry:
    """Make an entry, without a place in the order yet."""

    wanted: WantedEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOrder:
    """Write the order anew."""

    order: tuple[int, ...]


EntryStep = RemoveEntry | CreateEntry


def parse_load_option(number: int, data: bytes) -> BootEntry:
    """Return the entry that the bytes of a Boot#### variable mean.

    Raises:
        ValueError: they are cut off.
    """
    attributes = int.from_bytes(data[:4], "little")
    path_length = int.from_bytes(data[4:_HEAD], "little")
    end = _HEAD
    while data[end : end + 2] != b"\0\0":
        if end >= len(data):
            raise ValueError(f"Boot{number:04X} has no end of its label")
        end += 2
    label = data[_HEAD:end].decode("utf-16-le", "replace")
    path = data[end + 2 : end + 2 + path_length]
    if len(path) != path_length:
        raise ValueError(f"Boot{number:04X} is cut off")
    nodes = _nodes(path)
    return BootEntry(
        number=number,
        label=label,
        active=bool(attributes & _ACTIVE),
        partuuid=next((_partuuid(body) for kind, body in nodes if kind == _HARD_DRIVE), ""),
        file="".join(
            body.decode("utf-16-le", "replace").rstrip("\0")
            for kind, body in nodes
            if kind == _FILE
        ),
        is_network=any(kind[0] == _MESSAGING and kind[1] in _NETWORK_SUBTYPES for kind, _ in nodes),
    )


def _nodes(path: bytes) -> list[tuple[tuple[int, int], bytes]]:
    """Return type and body of each node up to the end node."""
    nodes = []
    at = 0
    while at + 4 <= len(path) and path[at] != _END:
        length = int.from_bytes(path[at + 2 : at + 4], "little")
        if length < 4 or at + length > len(path):  # noqa: PLR2004 - a node's own head
            break  # firmware writes odd paths; what was understood so far counts
        nodes.append(((path[at], path[at + 1]), path[at + 4 : at + length]))
        at += length
    return nodes


def _partuuid(body: bytes) -> str:
    """Return the GUID of a hard-drive node: u32 number, u64 start, u64 size, GUID, two kinds."""
    signature, kind = body[20:36], body[37:38]
    if len(signature) != 16 or kind != bytes([_SIGNATURE_GUID]):  # noqa: PLR2004 - a GUID
        return ""
    return str(uuid.UUID(bytes_le=signature))


def plan_entries(
    facts: FirmwareFacts, wanted: Sequence[WantedEntry], present: frozenset[str]
) -> tuple[EntryStep, ...]:
    """Return which entries go and which come; none where all is as it should be.

    An entry goes when it carries one of our labels and leads to a partition that is nowhere
    (`present`: GPT partition UUIDs of all disks), or when it is one of ours a second time. It also
    goes where it leads to one of our partitions by one of our labels but to another file.

    Args:
        facts: what is there.
        wanted: what should be there.
        present: lower case.
    """
    steps: list[EntryStep] = []
    labels = {each.label for each in wanted}
    ours = {each.partuuid for each in wanted}
    kept: set[tuple[str, str]] = set()
    for entry in facts.entries:
        is_wanted = any(_is(entry, each) for each in wanted)
        place = (entry.partuuid, entry.file.lower())
        if is_wanted and place not in kept:
            kept.add(place)
        elif is_wanted:
            steps.append(RemoveEntry(entry=entry, why="it is there twice"))
        elif entry.label in labels and entry.partuuid and entry.partuuid not in present:
            steps.append(RemoveEntry(entry=entry, why="its partition is on no disk"))
        elif entry.label in labels and entry.partuuid in ours:
            steps.append(RemoveEntry(entry=entry, why="it leads to another file"))
    missing = [each for each in wanted if (each.partuuid, each.file.lower()) not in kept]
    return (*steps, *(CreateEntry(wanted=each) for each in missing))


def _is(entry: BootEntry, wanted: WantedEntry) -> bool:
    return (
        entry.active
        and entry.label == wanted.label
        and entry.partuuid == wanted.partuuid
        and entry.file.lower() == wanted.file.lower()  # vfat knows no case
    )


def plan_order(
    facts: FirmwareFacts, wanted: Sequence[WantedEntry], order: BootOrder
) -> SetOrder | None:
    """Return the order to write, or None where it is right already; after `plan_entries` was done.

    With `leave` all others stay in their order; ours stay where they are, and new ones come before
    the first that is no network entry, so that the disk that was just written is the one that
    boots, and a network entry that was first stays first.
    """
    known = {entry.number: entry for entry in facts.entries}
    present = [number for number in dict.fromkeys(facts.order) if number in known]
    ours = [entry.number for each in wanted for entry in facts.entries if _is(entry, each)]
    network = [number for number in present if known[number].is_network]
    others = [number for number in present if number not in {*ours, *network}]
    match order:
        case BootOrder.PXE_FIRST:
            made = [*network, *ours, *others]
        case BootOrder.DISK_FIRST:
            made = [*ours, *[number for number in present if number not in ours]]
        case BootOrder.LEAVE:
            if all(number in present for number in ours):
                return None
            made = _left(present, ours, network)
        case _:
            assert_never(order)
    return None if tuple(made) == facts.order else SetOrder(order=tuple(made))


def _left(present: list[int], ours: list[int], network: list[int]) -> list[int]:
    new = [number for number in ours if number not in present]
    at = next((n for n, number in enumerate(present) if number not in network), len(present))
    return [*present[:at], *new, *present[at:]]
