"""Writes the firmware's boot entries by efibootmgr(8): only what differs, and reads them back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodectl.boot.efivars import EFI, probe_firmware, why_not_writable
from nodectl.boot.entries import (
    CreateEntry,
    EntryStep,
    FirmwareFacts,
    RemoveEntry,
    SetOrder,
    WantedEntry,
    plan_entries,
    plan_order,
)
from nodectl.boot.model import BootOrder
from nodectl.boot.probe import partition_uuids
from nodectl.errors import CommandFailed, FirmwareRefused, ToolMissing
from nodectl.run import run

_TOOL = "efibootmgr"
_TIMEOUT_S = 60.0  # some firmware takes seconds for a variable


@dataclass(frozen=True, slots=True, kw_only=True)
class EntriesReport:
    """What was done to the firmware's entries."""

    lines: tuple[str, ...]  # a line for each thing written; none: all was right
    entries: FirmwareFacts  # as read back


def entry_words(each: EntryStep | SetOrder) -> str:
    """Return a step in words."""
    match each:
        case RemoveEntry():
            return f"remove Boot{each.entry.number:04X} {each.entry.label!r}: {each.why}"
        case CreateEntry():
            return f"make an entry {each.wanted.label!r} for {each.wanted.file}"
        case SetOrder():
            return f"order {','.join(f'{number:04X}' for number in each.order)}"


def entry_command(each: EntryStep | SetOrder) -> tuple[str, ...]:
    """Return the program that carries out a step."""
    match each:
        case RemoveEntry():
            return (_TOOL, "--quiet", "--delete-bootnum", "--bootnum", f"{each.entry.number:04X}")
        case CreateEntry():
            wanted = each.wanted
            where = ("--disk", wanted.disk, "--part", str(wanted.number))
            what = ("--label", wanted.label, "--loader", wanted.file)
            return (_TOOL, "--quiet", "--create-only", *where, *what)
        case SetOrder():
            numbers = ",".join(f"{number:04X}" for number in each.order)
            return (_TOOL, "--quiet", "--bootorder", numbers)


def look_at_entries(
    wanted: Sequence[WantedEntry], order: BootOrder, efi: Path = EFI
) -> tuple[FirmwareFacts, tuple[EntryStep | SetOrder, ...]]:
    """Return what is there and what would be written; the order as far as it is known already."""
    facts = probe_firmware(efi)
    steps = plan_entries(facts, wanted, partition_uuids())
    last = None if steps else plan_order(facts, wanted, order)
    return facts, (*steps, *([last] if last else []))


def apply_entries(
    wanted: Sequence[WantedEntry], order: BootOrder, efi: Path = EFI
) -> EntriesReport:
    """Make the firmware's entries so.

    Raises:
        FirmwareRefused: they cannot be written, or do not read back; what was there before may
            partly be changed, and doing it again is safe.
    """
    facts = probe_firmware(efi)
    steps = plan_entries(facts, wanted, partition_uuids())
    lines = []
    for each in steps:
        _do(each, efi)
        lines.append(entry_words(each))
    if steps:
        facts = probe_firmware(efi)
    last = plan_order(facts, wanted, order)
    if last is not None:
        _do(last, efi)
        lines.append(entry_words(last))
        facts = probe_firmware(efi)
    left = plan_entries(facts, wanted, partition_uuids()), plan_order(facts, wanted, order)
    if left != ((), None):
        raise FirmwareRefused(
            "the firmware's entries do not read back as they were written: "
            + "; ".join(entry_words(each) for each in (*left[0], *([left[1]] if left[1] else [])))
        )
    return EntriesReport(lines=tuple(lines), entries=facts)


def _do(each: EntryStep | SetOrder, efi: Path) -> None:
    why = why_not_writable(efi)
    if why:
        raise FirmwareRefused(f"to {entry_words(each)} is not possible: {why}")
    try:
        run(entry_command(each), timeout=_TIMEOUT_S)
    except ToolMissing as exc:
        raise FirmwareRefused(str(exc), hint=exc.hint) from exc
    except CommandFailed as exc:
        raise FirmwareRefused(
            f"the firmware did not take it to {entry_words(each)}: {exc}",
            hint="its memory may be full, often of /sys/firmware/efi/efivars/dump-*",
        ) from exc
