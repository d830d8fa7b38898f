"""Spans put together from pieces that come in any order, twice, or not at all. Pure.

The sender sends spans in ascending order, so only a few are open at one time: those about as far as
the last piece that came. A span is closed when all of it is here, or when the sender is well past
it; what is missing of it then has to come from elsewhere. Memory is bounded by the spans that may
be open, whatever comes.
"""

from collections.abc import Sequence
from typing import NamedTuple

from nodectl.multicast.datagram import PIECE
from nodectl.swarm.bitfield import full

OPEN_MAX = 4  # spans half-assembled at one time; the sender is past a span that falls out


class Closed(NamedTuple):
    """A span of which nothing more is expected."""

    span: int
    body: bytearray  # of the whole span; zeros where nothing came
    pieces: bytearray  # 1 for each piece that came, else 0


class _Open:
    """A span that is being assembled."""

    __slots__ = ("body", "left", "pieces")

    def __init__(self, size: int) -> None:
        self.body = bytearray(size)
        self.left = -(-size // PIECE)
        self.pieces = bytearray(self.left)


class Assembler:
    """The spans of one session; has one owner."""

    def __init__(self, sizes: Sequence[int], wanted: int) -> None:
        """Begin; `sizes` are the bytes of each span, `wanted` the set of those that are lacking."""
        self._sizes = sizes
        self._wanted = wanted
        self._open: dict[int, _Open] = {}
        self._ended = False
        self.position = -1  # the furthest span of which a piece came
        self.came = 0  # pieces, those that were here already too

    @property
    def expected(self) -> int:
        """The set of spans that may still come: lacking, and the sender is not past them."""
        if self._ended:
            return 0
        behind = full(max(0, self.position + 1 - OPEN_MAX))
        return self._wanted & full(len(self._sizes)) & ~behind

    def take(self, span: int, offset: int, payload: memoryview) -> list[Closed]:
        """Take one piece; return the spans that are closed by it, ascending.

        A piece that does not fit its span is passed over.
        """
        if self._ended or not self._fits(span, offset, len(payload)):
            return []
        self.came += 1
        closed = []
        if span > self.position:
            self.position = span
            closed = [self._close(number) for number in self._passed()]
        opened = self._open.get(span)
        if opened is None:
            if span <= self.position - OPEN_MAX or not self._wanted >> span & 1:
                return closed
            opened = self._open[span] = _Open(self._sizes[span])
        piece = offset // PIECE
        if not opened.pieces[piece]:
            opened.pieces[piece] = 1
            opened.left -= 1
            opened.body[offset : offset + len(payload)] = payload
        if not opened.left:
            closed.append(self._close(span))
        return closed

    def end(self) -> list[Closed]:
        """Close every span: the sender says that it is done."""
        self._ended = True
        return self.give_up()

    def give_up(self) -> list[Closed]:
        """Close what is open: the sender is not heard; it may be again."""
        return [self._close(span) for span in sorted(self._open)]

    def _fits(self, span: int, offset: int, length: int) -> bool:
        if span >= len(self._sizes) or offset % PIECE:
            return False
        return 0 < length == min(PIECE, self._sizes[span] - offset)

    def _passed(self) -> list[int]:
        return sorted(span for span in self._open if span <= self.position - OPEN_MAX)

    def _close(self, span: int) -> Closed:
        opened = self._open.pop(span)
        self._wanted &= ~(1 << span)
        return Closed(span, opened.body, opened.pieces)


def whole_frames(pieces: bytearray, lengths: Sequence[int]) -> list[int]:
    """Return which frames of a span came whole.

    Args:
        pieces: 1 for each piece that came, else 0.
        lengths: bytes of each frame of the span, in order.
    """
    whole = []
    at = 0
    for index, length in enumerate(lengths):
        if pieces.find(0, at // PIECE, (at + length - 1) // PIECE + 1) < 0:
            whole.append(index)
        at += length
    return whole
