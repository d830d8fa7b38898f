"""Every target of the fuzzer, on each run: its seeds, noise, and seeds with something changed."""

import pytest
from fuzz_targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(deadline=None, max_examples=10)
@given(data=st.data())
def test_a_parser_parses_or_refuses(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    seed = data.draw(st.sampled_from(target.seeds))
    place = data.draw(st.integers(0, len(seed)))
    put = data.draw(st.binary(max_size=8))
    taken = data.draw(st.integers(0, 8))
    for tried in (seed, put, seed[:place] + put + seed[place + taken :]):
        target.try_bytes(tried)
