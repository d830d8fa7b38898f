"""Frames, for all inputs: what is sealed comes out, and any changed bit is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.content.frame import CHUNK_MAX, OVERHEAD, FrameCodec
from nodectl.errors import ContentInvalid
from nodectl.trust.keys import ContentKeys

CODEC = FrameCodec(ContentKeys(chunk_id=b"c" * 32, seal=b"s" * 32, nonce=b"n" * 32))

# Pieces repeated, so that some chunks shrink and some do not; up to the largest chunk.
chunks = st.builds(
    lambda piece, times: (piece * times)[:CHUNK_MAX],
    st.binary(max_size=2000),
    st.sampled_from([1, 2, 50, 2000]),
)


@settings(deadline=None, max_examples=100)
@given(chunks)
def test_what_is_sealed_comes_out(plain: bytes) -> None:
    ref, sealed = CODEC.seal(plain, CODEC.chunk_id(plain))
    assert len(sealed) <= len(plain) + OVERHEAD
    assert CODEC.open(sealed, ref) == plain


@settings(deadline=None, max_examples=200)
@given(chunks, st.data())
def test_any_changed_bit_is_refused(plain: bytes, data: st.DataObject) -> None:
    ref, sealed = CODEC.seal(plain, CODEC.chunk_id(plain))
    place = data.draw(st.integers(0, len(sealed) - 1))
    bits = data.draw(st.integers(1, 255))
    bad = bytearray(sealed)
    bad[place] ^= bits
    with pytest.raises(ContentInvalid):
        CODEC.open(bytes(bad), ref)


@pytest.mark.parametrize("plain", [b"", b"x", b"the quick brown fox " * 8])
def test_every_byte_of_a_small_frame_counts(plain: bytes) -> None:
    ref, sealed = CODEC.seal(plain, CODEC.chunk_id(plain))
    for place in range(len(sealed)):
        bad = bytearray(sealed)
        bad[place] ^= 1
        with pytest.raises(ContentInvalid):
            CODEC.open(bytes(bad), ref)


@settings(deadline=None, max_examples=100)
@given(chunks, st.data())
def test_a_cut_or_longer_frame_is_refused(plain: bytes, data: st.DataObject) -> None:
    ref, sealed = CODEC.seal(plain, CODEC.chunk_id(plain))
    length = data.draw(st.integers(0, len(sealed) - 1))
    for bad in (sealed[:length], sealed + b"\0"):
        with pytest.raises(ContentInvalid):
            CODEC.open(bad, ref)
        with pytest.raises(ContentInvalid):
            CODEC.open(bad, ref._replace(sealed_len=len(bad)))


@settings(deadline=None, max_examples=100)
@given(chunks, st.data())
def test_any_changed_reference_is_refused(plain: bytes, data: st.DataObject) -> None:
    ref, sealed = CODEC.seal(plain, CODEC.chunk_id(plain))
    other = data.draw(st.binary(min_size=32, max_size=32).filter(lambda b: b != ref.chunk_id))
    length = data.draw(st.integers(0, 1 << 40).filter(lambda n: n != ref.plain_len))
    bad_refs = (
        ref._replace(chunk_id=other),
        ref._replace(plain_len=length),
        ref._replace(sealed_len=ref.sealed_len + 1 + length),
    )
    for bad in bad_refs:
        with pytest.raises(ContentInvalid):
            CODEC.open(sealed, bad)
