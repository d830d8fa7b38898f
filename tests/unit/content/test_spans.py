"""Spans: the cases that a random row seldom is. The rest is in tests/property/test_spans.py."""

import pytest
from strategies import reference

from nodectl.content.frame import CHUNK_MAX, OVERHEAD
from nodectl.content.spans import FrameRow, SpanTable

MIB = 1 << 20


def table_of(*plain: int) -> SpanTable:
    """Return the spans of frames of these plain lengths."""
    return SpanTable(FrameRow(reference(number, length) for number, length in enumerate(plain)))


def test_no_frame_gives_no_span() -> None:
    table = table_of()
    assert (len(table), table.sealed_bytes, list(table)) == (0, 0, [])
    with pytest.raises(IndexError):
        table[0]


def test_a_small_whole_is_one_span() -> None:
    table = table_of(10, 20, 30)
    assert len(table) == 1
    assert table.frames_of(0) == range(3)


def test_a_span_ends_with_the_frame_that_brings_it_to_the_aim() -> None:
    exact = MIB // 4 - OVERHEAD  # two of them are exactly 512 KiB sealed
    assert [len(span) for span in table_of(exact, exact, exact, 1)] == [2, 2]
    assert [len(span) for span in table_of(exact - 1, exact, exact, 1)] == [3, 1]


def test_the_aim_is_a_512th_of_the_whole_between_half_a_mib_and_4() -> None:
    def first(count: int) -> int:
        return len(table_of(*[CHUNK_MAX] * count)[0])

    assert [first(count) for count in (200, 512, 600, 2000, 3000)] == [1, 1, 2, 4, 4]


def test_spans_are_a_sequence() -> None:
    table = table_of(*[CHUNK_MAX] * 5)
    assert table[-1] == table[4]
    assert table[1:3] == (table[1], table[2])
    assert table[::2] == (table[0], table[2], table[4])
    assert next(reversed(table)) == table[4]
    for index in (5, -6):
        with pytest.raises(IndexError):
            table[index]


def test_a_frame_that_comes_again_keeps_its_number() -> None:
    one, two = reference(1, 10), reference(2, 10)
    row = FrameRow([one, two, one])
    assert (len(row), row.add(two), row.add(one)) == (2, 1, 0)
    assert [row[0], row[1]] == [one, two]
