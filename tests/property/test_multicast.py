"""Spans assembled from datagrams that are lost, reordered, doubled, forged and cut."""

import random
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.multicast.assembler import OPEN_MAX, Assembler, Closed, whole_frames
from nodectl.multicast.datagram import PIECE, Datagram, Seal
from nodectl.swarm.bitfield import full

KEY, NUMBER = bytes(range(32)), b"sessions"
SEAL = Seal(KEY, NUMBER)

sizes_of_spans = st.lists(st.integers(1, 5 * PIECE), min_size=1, max_size=8)


def _bodies(sizes: list[int]) -> list[bytes]:
    return [random.Random(n).randbytes(size) for n, size in enumerate(sizes)]


def _datagrams(bodies: list[bytes]) -> list[bytes]:
    sent: list[bytes] = []
    for span, body in enumerate(bodies):
        sent += SEAL.pieces(span, memoryview(body), len(sent))
    return sent


def _through(assembler: Assembler, data: bytes) -> list[Closed]:
    opened = SEAL.open(memoryview(data))
    return [] if opened is None else _take(assembler, opened)


def _take(assembler: Assembler, opened: Datagram) -> list[Closed]:
    closed = assembler.take(opened.span, opened.offset, opened.payload)
    open_now = assembler._open
    assert len(open_now) <= OPEN_MAX, "memory is bounded whatever comes"
    return closed


@given(sizes=sizes_of_spans)
def test_in_order_and_without_loss_every_span_comes_whole_and_once(sizes: list[int]) -> None:
    bodies = _bodies(sizes)
    assembler = Assembler(sizes, full(len(sizes)))
    closed = [one for data in _datagrams(bodies) for one in _through(assembler, data)]
    assert [(one.span, bytes(one.body)) for one in closed] == list(enumerate(bodies))
    assert assembler.expected == 0
    assert assembler.end() == []


def _bad_network(rng: random.Random, sent: list[bytes]) -> Iterator[bytes]:
    """Yield what arrives: some lost, doubled, spoilt, cut, and out of order."""
    delays = [0, 0, 0.5, 3, 30]
    arrives = sorted((n + rng.choice(delays) * rng.random(), one) for n, one in enumerate(sent))
    for _, one in arrives:
        spoilt = bytearray(one)
        spoilt[rng.randrange(len(one))] ^= 1 << rng.randrange(8)
        cut = one[: rng.randrange(len(one))]
        yield from rng.choice([(), (one, one), (bytes(spoilt), one), (cut, one), (one,), (one,)])


@settings(max_examples=200)
@given(sizes=sizes_of_spans, seed=st.integers(0, 2**32), data=st.data())
def test_what_is_said_to_have_come_is_right_whatever_the_network_does(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    """Loss, doubles, near and far reordering, flipped bits and cuts: never a wrong byte."""
    bodies = _bodies(sizes)
    wanted = data.draw(st.integers(0, full(len(sizes))))
    assembler = Assembler(sizes, wanted)
    closed: list[Closed] = []
    for one in _bad_network(random.Random(seed), _datagrams(bodies)):
        closed += _through(assembler, one)
    closed += assembler.end()
    spans = [one.span for one in closed]
    assert len(spans) == len(set(spans)), "each span is closed once"
    assert all(wanted >> span & 1 for span in spans)
    for one in closed:
        body = bodies[one.span]
        for piece in range(-(-len(body) // PIECE)):
            if one.pieces[piece]:
                cut = slice(piece * PIECE, (piece + 1) * PIECE)
                assert one.body[cut] == body[cut]
    assert assembler.expected == 0


@given(sizes=sizes_of_spans, late=st.integers(0, 7))
def test_who_comes_late_expects_only_what_is_still_to_come(sizes: list[int], late: int) -> None:
    bodies = _bodies(sizes)
    first = min(late, len(sizes) - 1)
    assembler = Assembler(sizes, full(len(sizes)))
    pieces = list(SEAL.pieces(first, memoryview(bodies[first]), 0))
    _through(assembler, pieces[0])
    expected = assembler.expected
    assert not expected & full(max(0, first + 1 - OPEN_MAX))
    assert expected >> first == full(len(sizes) - first) & ~(len(pieces) == 1)


def test_a_piece_that_does_not_fit_its_span_is_passed_over() -> None:
    """Only who has the swarm key can send one; it must not cost a byte of memory."""
    assembler = Assembler([2 * PIECE + 5], 1)
    for span, offset, length in (
        (1, 0, PIECE), (0, 1, PIECE), (0, 0, PIECE - 1), (0, 2 * PIECE, 6), (0, 3 * PIECE, 1),
        (0, 2 * PIECE, 0), (2**32 - 1, 0, PIECE),
    ):  # fmt: skip
        assert assembler.take(span, offset, memoryview(bytes(length))) == []
    assert assembler.came == 0
    assert assembler.expected == 1
    assert assembler.position == -1


@given(
    lengths=st.lists(st.integers(1, 3 * PIECE), min_size=1, max_size=12),
    lost=st.integers(0, 2**40),
)
def test_a_frame_is_whole_when_none_of_its_pieces_is_lost(lengths: list[int], lost: int) -> None:
    size = sum(lengths)
    pieces = bytearray(not lost >> piece & 1 for piece in range(-(-size // PIECE)))
    expected = []
    at = 0
    for index, length in enumerate(lengths):
        if all(pieces[byte // PIECE] for byte in range(at, at + length)):
            expected.append(index)
        at += length
    assert whole_frames(pieces, lengths) == expected
