"""Datagrams of multicast: what comes out is what went in, or nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.multicast.datagram import DATAGRAM, PIECE, Kind, Seal, Session

KEY = bytes(range(32))
NUMBER = b"12345678"


def _seal(key: bytes = KEY, number: bytes = NUMBER) -> Seal:
    return Seal(key, number)


@given(
    kind=st.sampled_from(Kind),
    span=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**32 - 1),
    sequence=st.integers(0, 2**40),
    payload=st.binary(max_size=PIECE),
)
def test_a_datagram_says_what_it_was_made_of(
    kind: Kind, span: int, offset: int, sequence: int, payload: bytes
) -> None:
    data = _seal().make(kind, span=span, offset=offset, sequence=sequence, payload=payload)
    assert len(data) <= DATAGRAM
    opened = _seal().open(memoryview(data))
    assert opened is not None
    assert opened[:4] == (kind, span, offset, sequence & 0xFFFFFFFF)
    assert opened.payload == payload


def test_a_full_datagram_fits_an_ethernet_packet() -> None:
    assert DATAGRAM + 8 + 20 == 1500  # UDP and IPv4 headers


@given(at=st.integers(0, DATAGRAM - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_refused(at: int, bit: int) -> None:
    data = bytearray(_seal().make(Kind.PIECE, span=3, offset=0, sequence=9, payload=b"p" * PIECE))
    data[at] ^= 1 << bit
    assert _seal().open(memoryview(data)) is None


@given(data=st.binary(max_size=2000))
def test_noise_is_refused(data: bytes) -> None:
    assert _seal().open(memoryview(data)) is None


@given(cut=st.integers(0, DATAGRAM - 1))
def test_a_truncated_one_is_refused(cut: int) -> None:
    data = _seal().make(Kind.PIECE, span=3, offset=0, sequence=9, payload=b"p" * PIECE)
    assert _seal().open(memoryview(data)[:cut]) is None
    assert _seal().open(memoryview(data + b"more")) is None


def test_another_key_and_another_session_are_refused() -> None:
    data = memoryview(_seal().make(Kind.PIECE, span=0, offset=0, sequence=0, payload=b"x"))
    assert _seal(key=bytes(32)).open(data) is None
    assert _seal(number=b"87654321").open(data) is None


def test_an_unknown_kind_is_refused() -> None:
    data = _seal().make(7, sequence=0)  # type: ignore[arg-type]
    assert _seal().open(memoryview(data)) is None


GOOD = {
    "session": NUMBER.hex(),
    "group": "239.192.1.2",
    "port": 7445,
    "rate": 10**7,
    "ttl": 1,
    "wait_s": 10,
}


def test_a_session_travels_as_options() -> None:
    session = Session.from_options(GOOD)
    assert session.session == NUMBER
    assert session.to_options() == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"group": "10.1.2.3"},
        {"group": "no address"},
        {"port": 0},
        {"port": 65536},
        {"rate": 0},
        {"rate": True},
        {"rate": "fast"},
        {"ttl": 256},
        {"wait_s": -1},
        {"session": "12"},
        {"session": "no hex"},
        {"session": 5},
        {"more": 1},
    ],
)
def test_options_that_are_no_session_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Session.from_options({**GOOD, **change})
