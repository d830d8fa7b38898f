import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.swarm import bitfield
from nodectl.swarm.bitfield import Rarity

SETS = st.sets(st.integers(0, 300))


@given(SETS)
def test_a_set_is_its_members(members: set[int]) -> None:
    bits = bitfield.bits_of(members)
    assert list(bitfield.spans_of(bits)) == sorted(members)
    assert [bitfield.nth_span(bits, i) for i in range(len(members))] == sorted(members)


@given(SETS)
def test_hexadecimal_round_trip(members: set[int]) -> None:
    bits = bitfield.bits_of(members)
    assert bitfield.from_hex(bitfield.to_hex(bits), 301) == bits


def test_the_wire_form_is_little_endian() -> None:
    assert bitfield.to_hex(bitfield.bits_of([0, 9])) == "0102"


@pytest.mark.parametrize("text", ["0002", "zz", "1", "000000000000"])
def test_more_spans_than_there_are_and_nonsense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"spans|hex"):
        bitfield.from_hex(text, 9)


@given(SETS)
def test_ranges_round_trip(members: set[int]) -> None:
    numbers = sorted(members)
    text = bitfield.to_ranges(numbers)
    assert (bitfield.from_ranges(text, 301) if text else []) == numbers


@pytest.mark.parametrize(
    "text",
    ["", ",", "1,", "-1", "1-", "2-1", "1,1", "3,2", "0-9", "9", "1 ", "+1", "\u0661", "0" * 99],
)
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="rang"):
        bitfield.from_ranges(text, 9)


def test_ranges_read_as_documented() -> None:
    assert bitfield.from_ranges("0,3-5", 6) == [0, 3, 4, 5]
    assert bitfield.to_ranges([0, 3, 4, 5]) == "0,3-5"


@given(st.lists(SETS, max_size=12), st.data())
def test_rarity_counts_like_a_counter(haves: list[set[int]], data: st.DataObject) -> None:
    rarity = Rarity()
    for have in haves:
        rarity.add(bitfield.bits_of(have))
    gone = data.draw(st.sets(st.sampled_from(range(len(haves)))) if haves else st.just(set()))
    for i in gone:
        rarity.remove(bitfield.bits_of(haves[i]))
    left = [have for i, have in enumerate(haves) if i not in gone]
    counts = {span: sum(span in have for have in left) for span in range(301)}
    assert all(rarity.count(span) == count for span, count in counts.items())
    wanted = data.draw(SETS)
    rarest = set(bitfield.spans_of(rarity.rarest(bitfield.bits_of(wanted))))
    lowest = min((counts[span] for span in wanted), default=0)
    assert rarest == {span for span in wanted if counts[span] == lowest}


def test_random_span_reaches_every_member_evenly() -> None:
    rng = random.Random(3)
    bits = bitfield.bits_of([0, 1, 2, 250])
    seen = [bitfield.random_span(bits, rng) for _ in range(4000)]
    assert all(850 < seen.count(span) < 1150 for span in (0, 1, 2, 250))
