"""Where block images are cut: always the same, within bounds, and following the content."""

import random

import pytest

from nodectl.content.chunker import BLOCK, CHUNK_LEAST, CHUNK_MOST, RANGE, cut

DATA = random.Random(5).randbytes(8 << 20)


def places(data: bytes, base: int = 0) -> list[tuple[int, int]]:
    return list(cut(memoryview(data), base))


def contents(data: bytes) -> list[bytes]:
    return [data[offset : offset + length] for offset, length in places(data)]


def test_the_cut_is_the_same_for_ever() -> None:
    """Golden figures: another cut would be another profile."""
    found = places(DATA)
    assert found[:4] == GOLDEN
    assert len(found) == GOLDEN_COUNT


GOLDEN = [(0, 53248), (53248, 49152), (102400, 57344), (159744, 155648)]
GOLDEN_COUNT = 124


def test_chunks_are_within_bounds_and_of_the_wanted_size() -> None:
    lengths = [length for _, length in places(DATA)]
    assert sum(lengths) == len(DATA)
    assert all(CHUNK_LEAST <= length <= CHUNK_MOST for length in lengths[:-1])
    assert 48 << 10 < sum(lengths) / len(lengths) < 80 << 10


def test_zeros_are_holes_and_end_a_chunk() -> None:
    data = DATA[: 3 * BLOCK] + bytes(2 * BLOCK) + DATA[: 2 * BLOCK] + bytes(BLOCK)
    assert places(data, 7 * BLOCK) == [(7 * BLOCK, 3 * BLOCK), (12 * BLOCK, 2 * BLOCK)]
    assert places(bytes(1 << 20)) == []
    assert places(b"") == []


def test_an_odd_end_belongs_to_the_last_chunk() -> None:
    data = DATA[: 9 * BLOCK + 123]
    assert sum(length for _, length in places(data)) == len(data)
    assert places(DATA[:100]) == [(0, 100)]
    assert places(bytes(100)) == []
    assert places(DATA[:BLOCK] + bytes(100)) == [(0, BLOCK)]


def test_the_same_bytes_without_one_random_cut_end_at_the_most() -> None:
    assert {length for _, length in places(b"\1" * (2 << 20))} <= {CHUNK_LEAST, CHUNK_MOST}


@pytest.mark.parametrize("at", [0, 1 << 20, 3 << 20])
def test_after_an_inserted_block_the_cut_finds_back(at: int) -> None:
    changed = DATA[:at] + b"x" * BLOCK + DATA[at:]
    before, after = contents(DATA), contents(changed)
    assert len(set(after) - set(before)) <= 3
    assert contents(changed)[-1] == before[-1]


def test_a_piece_must_lie_in_one_range_and_begin_at_a_block() -> None:
    with pytest.raises(ValueError, match="cannot begin"):
        places(DATA, RANGE - BLOCK)
    with pytest.raises(ValueError, match="cannot begin"):
        places(DATA, 100)
    assert places(DATA[:BLOCK], RANGE - BLOCK) == [(RANGE - BLOCK, BLOCK)]
