"""Boot entries: their bytes, and the least that has to be written."""

import uuid

import pytest

from nodectl.boot.entries import (
    BootEntry,
    CreateEntry,
    FirmwareFacts,
    RemoveEntry,
    SetOrder,
    WantedEntry,
    parse_load_option,
    plan_entries,
    plan_order,
)
from nodectl.boot.model import BootOrder

OURS = "6a9c2f0e-1111-4222-8333-944455556666"
GONE = "00000000-1111-4222-8333-944455556666"
WANTED = WantedEntry(
    label="debian", disk="/dev/sda", number=2, partuuid=OURS, file="\\EFI\\debian\\shimx64.efi"
)

# As OVMF writes them.
PXE = BootEntry(number=1, label="UEFI PXEv4 (MAC:525400)", active=True, is_network=True)
SHELL = BootEntry(number=2, label="EFI Internal Shell", active=True)
MINE = BootEntry(number=4, label="debian", active=True, partuuid=OURS, file=WANTED.file)
STALE = BootEntry(number=5, label="debian", active=True, partuuid=GONE, file=WANTED.file)
WINDOWS = BootEntry(number=7, label="Windows Boot Manager", active=True, partuuid=GONE,
                    file="\\EFI\\Microsoft\\Boot\\bootmgfw.efi")  # fmt: skip


def facts(*entries: BootEntry, order: tuple[int, ...] | None = None) -> FirmwareFacts:
    numbers = tuple(entry.number for entry in entries)
    return FirmwareFacts(entries=entries, order=numbers if order is None else order, current=None)


def node(kind: int, subtype: int, body: bytes) -> bytes:
    return bytes([kind, subtype]) + (len(body) + 4).to_bytes(2, "little") + body


def hard_drive(partuuid: str) -> bytes:
    guid = uuid.UUID(partuuid).bytes_le
    place = (2).to_bytes(4, "little") + (2048).to_bytes(8, "little") + (4096).to_bytes(8, "little")
    return node(4, 1, place + guid + b"\x02\x02")


def option(label: str, path: bytes, *, active: bool = True) -> bytes:
    path += b"\x7f\xff\x04\x00"
    head = int(active).to_bytes(4, "little") + len(path).to_bytes(2, "little")
    return head + label.encode("utf-16-le") + b"\0\0" + path


def test_an_entry_of_a_disk() -> None:
    file = node(4, 4, "\\EFI\\debian\\shimx64.efi\0".encode("utf-16-le"))
    data = option("debian", hard_drive(OURS) + file)
    assert parse_load_option(4, data) == MINE


def test_an_entry_of_the_network_is_known_by_its_path_not_by_its_words() -> None:
    mac = node(3, 0x0B, bytes(33))
    ipv4 = node(3, 0x0C, bytes(23))
    assert parse_load_option(1, option("Slot 3 adapter", mac + ipv4)).is_network
    usb = node(3, 5, bytes(2))
    assert not parse_load_option(1, option("PXE Network stick", usb)).is_network


def test_a_disk_with_an_mbr_has_no_guid() -> None:
    body = bytes(20) + b"\x12\x34\x56\x78" + bytes(12) + b"\x01\x01"
    assert parse_load_option(9, option("x", node(4, 1, body))).partuuid == ""


@pytest.mark.parametrize("cut", [3, 8, 30])
def test_what_is_cut_off_is_refused_or_means_less(cut: int) -> None:
    data = option("debian", hard_drive(OURS))
    with pytest.raises(ValueError, match="Boot0004"):
        parse_load_option(4, data[:cut])


def test_a_path_with_a_wrong_length_ends_there() -> None:
    path = hard_drive(OURS) + b"\x04\x04\xff\xff"
    assert parse_load_option(4, option("debian", path)).partuuid == OURS


def test_nothing_is_written_where_all_is_right() -> None:
    there = facts(PXE, MINE, SHELL)
    assert plan_entries(there, [WANTED], frozenset({OURS})) == ()
    assert plan_order(there, [WANTED], BootOrder.LEAVE) is None
    assert plan_order(there, [WANTED], BootOrder.PXE_FIRST) is None


def test_a_stale_entry_of_ours_goes_and_one_of_others_stays() -> None:
    steps = plan_entries(facts(STALE, WINDOWS), [WANTED], frozenset({OURS}))
    assert [type(each) for each in steps] == [RemoveEntry, CreateEntry]
    assert isinstance(steps[0], RemoveEntry)
    assert steps[0].entry is STALE


def test_an_entry_of_our_label_on_a_disk_that_is_there_stays() -> None:
    other = BootEntry(number=6, label="debian", active=True, partuuid=GONE, file=WANTED.file)
    steps = plan_entries(facts(MINE, other), [WANTED], frozenset({OURS, GONE}))
    assert steps == ()


def test_a_second_one_goes() -> None:
    twice = BootEntry(number=8, label="debian", active=True, partuuid=OURS,
                      file=WANTED.file.upper())  # fmt: skip
    steps = plan_entries(facts(MINE, twice), [WANTED], frozenset({OURS}))
    assert [each.entry for each in steps if isinstance(each, RemoveEntry)] == [twice]
    assert len(steps) == 1


def test_an_inactive_one_is_made_anew() -> None:
    off = BootEntry(number=4, label="debian", active=False, partuuid=OURS, file=WANTED.file)
    steps = plan_entries(facts(off), [WANTED], frozenset({OURS}))
    assert [type(each) for each in steps] == [RemoveEntry, CreateEntry]


@pytest.mark.parametrize(
    ("order", "made"),
    [
        (BootOrder.PXE_FIRST, (1, 4, 7, 2)),
        (BootOrder.DISK_FIRST, (4, 7, 1, 2)),
    ],
)
def test_the_order_that_is_wished(order: BootOrder, made: tuple[int, ...]) -> None:
    there = facts(PXE, SHELL, MINE, WINDOWS, order=(7, 1, 2))
    assert plan_order(there, [WANTED], order) == SetOrder(order=made)


def test_leave_puts_a_new_entry_before_the_first_that_is_no_network() -> None:
    there = facts(PXE, SHELL, MINE, WINDOWS, order=(1, 7, 2))
    assert plan_order(there, [WANTED], BootOrder.LEAVE) == SetOrder(order=(1, 4, 7, 2))
    there = facts(PXE, SHELL, MINE, WINDOWS, order=(7, 1, 2))
    assert plan_order(there, [WANTED], BootOrder.LEAVE) == SetOrder(order=(4, 7, 1, 2))


def test_leave_leaves_an_entry_where_it_is() -> None:
    there = facts(PXE, WINDOWS, MINE, order=(7, 1, 4))
    assert plan_order(there, [WANTED], BootOrder.LEAVE) is None
