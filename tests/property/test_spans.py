"""Spans, for all rows of frames: each frame once, in order, of the sizes that are documented."""

from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import frame_rows, reference

from nodectl.content.frame import CHUNK_MAX, FrameRef
from nodectl.content.spans import FrameRow, SpanTable

MIB = 1 << 20


def _expected(lengths: list[int]) -> list[list[int]]:
    """Cut sealed lengths as docs/format.md says."""
    aim = min(max(sum(lengths) // 512, MIB // 2), 4 * MIB)
    spans: list[list[int]] = []
    size = aim
    for number, length in enumerate(lengths):
        if size >= aim:
            spans.append([])
            size = 0
        spans[-1].append(number)
        size += length
    return spans


@settings(deadline=None, max_examples=100)
@given(frame_rows, st.integers(1, 5))
def test_spans_hold_each_frame_once_in_order(refs: list[FrameRef], times: int) -> None:
    row = FrameRow(refs * times)
    unique = list(dict.fromkeys(refs))
    table = SpanTable(row)
    assert [ref for span in table for ref in span] == unique
    assert [list(table.frames_of(index)) for index in range(len(table))] == _expected(
        [ref.sealed_len for ref in unique]
    )
    assert list(table.span_bytes) == [sum(ref.sealed_len for ref in span) for span in table]
    assert sum(table.span_bytes) == table.sealed_bytes
    for ref in refs:
        assert row[row.add(ref)] == ref
    assert len(row) == len(unique)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3000), st.sampled_from([1, 4000, 200_000, CHUNK_MAX]))
def test_spans_are_as_many_and_as_large_as_documented(count: int, plain_len: int) -> None:
    table = SpanTable(FrameRow(reference(number, plain_len) for number in range(count)))
    for size in list(table.span_bytes)[:-1]:
        assert MIB // 2 <= size < 4 * MIB + CHUNK_MAX + 100
    if 256 * (MIB // 2 + CHUNK_MAX) <= table.sealed_bytes <= 2048 * MIB:
        assert len(table) >= 256
    if table.sealed_bytes > 2048 * MIB:
        assert len(table) >= 400
