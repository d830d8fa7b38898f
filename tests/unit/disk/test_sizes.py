"""Sizes: what is read, what is refused, and how they share a room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.disk.sizes import (
    REST_SIZE,
    Size,
    TooLittleRoom,
    read_size,
    round_up,
    share_out,
    write_size,
)

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("20GiB", Size(exact=20 * GIB)),
        ("30%", Size(share=3000)),
        ("12.5 %", Size(share=1250)),
        ("rest", REST_SIZE),
        ({"min": "1GiB"}, Size(least=GIB)),
        ({"min": "1GiB", "max": "2GiB", "weight": 3}, Size(least=GIB, most=2 * GIB, weight=3)),
        ({"percent": 50, "max": "9GiB"}, Size(share=5000, most=9 * GIB)),
    ],
)
def test_a_size_is_read_and_written(value: object, wanted: Size) -> None:
    assert read_size(value) == wanted
    assert read_size(write_size(wanted)) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("two", "not a size"),
        ("0", "more than 0"),
        ("0%", "more than 0 and at most 100"),
        ("101%", "0.01 to 100"),
        ("0.001%", "at most two digits"),
        (5, "must be"),
        ({"mni": "1GiB"}, "unknown key 'mni'"),
        ({"min": 5}, "min must be a size"),
        ({"min": "2GiB", "max": "1GiB"}, "max is less than min"),
        ({"weight": 0}, "1 to 1000"),
        ({"weight": 2.5}, "whole number"),
        ({"percent": 5, "weight": 2}, "not both"),
        ({"percent": True}, "must be a number"),
    ],
)
def test_a_wrong_size_is_refused(value: object, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        read_size(value)


def test_weights_share_what_exact_sizes_and_percentages_leave() -> None:
    sizes = [Size(exact=10 * MIB), Size(share=1000), Size(), Size(weight=3)]
    assert share_out(100 * MIB, sizes, MIB) == (10 * MIB, 10 * MIB, 20 * MIB, 60 * MIB)


def test_limits_bound_the_shares_and_nothing_is_left_over_while_somebody_may_grow() -> None:
    sizes = [Size(least=60 * MIB), Size(most=10 * MIB)]
    assert share_out(100 * MIB, sizes, MIB) == (90 * MIB, 10 * MIB)


SIZES = st.one_of(
    st.builds(Size, exact=st.integers(1, 50 * MIB)),
    st.builds(Size, share=st.integers(1, 3000)),
    st.builds(
        lambda least, more, weight: Size(
            least=least, most=None if more is None else least + more + 1, weight=weight
        ),
        st.integers(0, 20 * MIB),
        st.none() | st.integers(0, 100 * MIB),
        st.integers(1, 9),
    ),
)


@given(st.integers(0, 300 * MIB), st.lists(SIZES, min_size=1, max_size=6))
def test_shares_keep_to_the_room_and_to_every_limit(room: int, sizes: list[Size]) -> None:
    try:
        got = share_out(room, sizes, MIB)
    except TooLittleRoom:
        needed = sum(max(round_up(size.smallest, MIB), MIB) for size in sizes)
        assert needed + sum(size.share or 0 for size in sizes) * room // 10_000 > room
        return
    assert sum(got) <= room
    for size, one in zip(sizes, got, strict=True):
        assert one % MIB == 0
        assert one >= max(round_up(size.smallest, MIB), MIB)
        if size.most is not None and size.most - size.least >= MIB:
            assert one <= max(size.most, round_up(size.least, MIB), MIB)
    if any(size.is_whole_rest for size in sizes):
        assert room - sum(got) < MIB * len(sizes)
