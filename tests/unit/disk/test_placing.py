"""Logical partitions, starts, numbers, and what is kept."""

from dataclasses import replace

import pytest
from disk_machines import GIB, disk, holding, part
from disk_samples import MIB, plan_of

from nodectl.disk.facts import DiskFacts
from nodectl.disk.steps import WipeSignatures, WriteTable
from nodectl.disk.text import parse_layout
from nodectl.errors import DiskTooSmall, LayoutUnfit

HEAD = 'schema = 2\n[[disk]]\nid = "d"\nrole = "data"\n'


def layout(*lines: str, table: str = "gpt", more: str = "") -> str:
    parts = "".join(
        f'[[partition]]\nid = "{line.split()[0]}"\ndisk = "d"\ntype = "linux"\n'
        + "\n".join(line.split(" ", 1)[1].split("; "))
        + "\n"
        for line in lines
    )
    return f'{HEAD}table = "{table}"\n{parts}{more}'


def table_of(facts: DiskFacts, text: str) -> WriteTable:
    plan = plan_of(facts, parse_layout(text))
    return next(each for each in plan.steps if isinstance(each, WriteTable))


def test_logical_partitions_stand_in_one_extended_with_a_gap_before_each() -> None:
    text = layout(
        'boot size = "100MiB"',
        'a size = "1GiB"; logical = true',
        'b size = "rest"; logical = true',
        table="mbr",
    )
    entries = table_of(disk("/dev/sda"), text).entries
    seen = [(e.path, e.start // MIB, e.size // MIB, e.is_extended) for e in entries]
    end = 64 * 1024
    assert seen == [
        ("/dev/sda1", 1, 100, False),
        ("/dev/sda2", 101, end - 101, True),
        ("/dev/sda5", 102, 1024, False),
        ("/dev/sda6", 1127, end - 1127, False),
    ]


def test_a_larger_disk_gives_to_the_rest_wherever_it_stands() -> None:
    """Swap at the end keeps its size, and what is in front of it grows."""
    text = layout('root size = "rest"', 'swap size = "4GiB"')
    sizes = {
        size: [entry.size // MIB for entry in table_of(disk("/dev/sda", size=size), text).entries]
        for size in (64 * GIB, 256 * GIB)
    }
    assert sizes == {64 * GIB: [60 * 1024 - 2, 4096], 256 * GIB: [252 * 1024 - 2, 4096]}


def test_an_mbr_ends_at_two_tib() -> None:
    entries = table_of(
        disk("/dev/sda", size=4096 * GIB), layout('a size = "rest"', table="mbr")
    ).entries
    assert entries[0].start + entries[0].size == 2048 * GIB


def test_starts_and_numbers_are_kept_to() -> None:
    text = layout(
        'a size = "1GiB"; number = 3', 'b size = "1GiB"; start = "10GiB"', 'c size = "rest"'
    )
    entries = table_of(disk("/dev/nvme0n1"), text).entries
    assert [(e.path, e.start // MIB) for e in entries] == [
        ("/dev/nvme0n1p3", 1),
        ("/dev/nvme0n1p1", 10 * 1024),
        ("/dev/nvme0n1p2", 11 * 1024),
    ]


def test_what_does_not_fit_before_a_start_is_refused() -> None:
    with pytest.raises(DiskTooSmall, match="the layout needs 1 GiB"):
        plan_of(
            disk("/dev/sda"),
            parse_layout(layout('a size = { min = "1GiB" }', 'b size = "1GiB"; start = "1GiB"')),
        )


SCRATCH = holding(
    disk("/dev/sda"),
    part(1, "/dev/sda1", 1, 10_000, "ext4 root"),
    part(2, "/dev/sda2", 20_000, 30_000, "xfs scratch", label="scratch"),
)
KEEP = layout(
    'root size = "rest"',
    'scratch size = "rest"; preserve = "keep"',
    more='[[filesystem]]\nvolume = "scratch"\ntype = "xfs"\nlabel = "scratch"\npreserve = "keep"\n',
)


def test_a_kept_partition_stays_and_the_others_are_made_around_it() -> None:
    plan = plan_of(SCRATCH, parse_layout(KEEP))
    root, scratch = plan.partitions
    assert (scratch.path, scratch.start, scratch.size) == ("/dev/sda2", 20_000 * MIB, 30_000 * MIB)
    assert scratch.uuid == "PART-2"
    assert scratch.is_kept
    assert (root.number, root.start, root.size) == (1, MIB, 19_999 * MIB)
    assert plan.filesystems[0].uuid == "uuid-/dev/sda2"
    wipe = next(each for each in plan.steps if isinstance(each, WipeSignatures))
    assert not wipe.erase
    kept = range(scratch.start, scratch.start + scratch.size)
    for zero in wipe.zeros:
        assert zero.start not in kept
        assert zero.end - 1 not in kept
        assert not zero.start < scratch.start < zero.end
    words = [each.describe() for each in plan.steps]
    assert "wipe /dev/sda2" not in words
    assert "format /dev/sda2 as xfs" not in words
    table = next(each for each in plan.steps if isinstance(each, WriteTable))
    assert [(e.number, e.uuid) for e in table.entries if e.number == 2] == [(2, "PART-2")]
    assert plan.disks[0].uuid == "AAAAAAAA-0000-4000-8000-000000000000"


def test_what_is_to_be_kept_must_be_there() -> None:
    with pytest.raises(LayoutUnfit, match="'scratch' is to be kept, and /dev/sda has no partition"):
        plan_of(disk("/dev/sda"), parse_layout(KEEP))
    assert SCRATCH.contents
    first, second = SCRATCH.contents.partitions
    other = replace(second, signatures=first.signatures)
    facts = holding(disk("/dev/sda"), first, other)
    with pytest.raises(LayoutUnfit, match="to keep its xfs labelled scratch, and holds ext4"):
        plan_of(facts, parse_layout(KEEP))


def test_a_disk_on_which_everything_is_kept_is_not_written_at_all() -> None:
    assert SCRATCH.contents
    facts = holding(disk("/dev/sda"), SCRATCH.contents.partitions[1])
    text = KEEP.replace(
        '[[partition]]\nid = "root"\ndisk = "d"\ntype = "linux"\nsize = "rest"\n', ""
    )
    plan = plan_of(facts, parse_layout(text))
    assert plan.is_empty
    assert plan.disks[0].is_kept


def test_if_there_keeps_or_makes() -> None:
    text = KEEP.replace('"keep"', '"if_there"')
    assert plan_of(SCRATCH, parse_layout(text)).partitions[1].is_kept
    made = plan_of(disk("/dev/sda"), parse_layout(text.replace('root size = "rest"', "x")))
    assert [each.is_kept for each in made.partitions] == [False, False]


def test_a_kept_partition_before_its_place_in_the_layout_is_refused() -> None:
    text = layout(
        'scratch size = "rest"; preserve = "keep"', 'part1 size = "rest"; preserve = "keep"'
    )
    with pytest.raises(LayoutUnfit, match="stands on /dev/sda before what the layout has"):
        plan_of(SCRATCH, parse_layout(text))
