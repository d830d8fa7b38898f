"""Spans: the frames of a manifest cut into the units that the swarm schedules. Pure.

The cut is a function of the frames alone, so that all nodes agree on it without a word:

* the frames in manifest order, each at its first use, in one row;
* the aim for a span is a 512th of all sealed bytes, but at least 512 KiB and at most 4 MiB: a span
  is passed on when it is whole, so the time of a swarm over its bound is that of some spans
  (simulated, 300 nodes: 1.35 times the bound with 256 spans, 1.25 with 512);
* a span ends with the frame that brings it to its aim; the last one may be short.

The row is kept in columns (72 bytes for each frame): objects for a million frames would not fit the
memory that a node may use.
"""

from array import array
from collections.abc import Iterable, Sequence
from typing import overload

from nodectl.content.frame import FrameRef
from nodectl.ids import ID_BYTES, ChunkId, FrameId
from nodectl.units import MIB

SPAN_MIN = MIB // 2
SPAN_MAX = 4 * MIB
SPANS_WANTED = 512

Span = tuple[FrameRef, ...]


class FrameRow:
    """Different frames in the order of their first use."""

    def __init__(self, refs: Iterable[FrameRef] = ()) -> None:
        """Begin with `refs`."""
        self._numbers: dict[FrameId, int] = {}
        self._chunk_ids = bytearray()
        self._frame_ids = bytearray()
        self._plain = array("I")
        self.sealed = array("I")  # sealed length of each frame
        for ref in refs:
            self.add(ref)

    def add(self, ref: FrameRef) -> int:
        """Return the number of a frame, which is appended if it is new."""
        number = self._numbers.get(ref.frame_id)
        if number is None:
            number = self._numbers[ref.frame_id] = len(self._numbers)
            self._chunk_ids += ref.chunk_id
            self._frame_ids += ref.frame_id
            self._plain.append(ref.plain_len)
            self.sealed.append(ref.sealed_len)
        return number

    def __len__(self) -> int:
        return len(self.sealed)

    def __getitem__(self, number: int) -> FrameRef:
        cut = slice(number * ID_BYTES, (number + 1) * ID_BYTES)
        return FrameRef(
            ChunkId(bytes(self._chunk_ids[cut])),
            FrameId(bytes(self._frame_ids[cut])),
            self._plain[number],
            self.sealed[number],
        )


class SpanTable(Sequence[Span]):
    """A row of frames cut into spans."""

    def __init__(self, row: FrameRow) -> None:
        """Cut a row that will not grow any more."""
        self.row = row
        self.sealed_bytes = sum(row.sealed)
        self.span_bytes = array("I")  # sealed bytes of each span
        self._starts = array("I")  # number of the first frame of each span
        aim = min(max(self.sealed_bytes // SPANS_WANTED, SPAN_MIN), SPAN_MAX)
        size = 0
        for number, sealed_len in enumerate(row.sealed):
            if size == 0:
                self._starts.append(number)
                self.span_bytes.append(0)
            size += sealed_len
            self.span_bytes[-1] = size
            if size >= aim:
                size = 0

    def frames_of(self, index: int) -> range:
        """Return the numbers of the frames of span `index`."""
        last = index + 1 == len(self)
        return range(self._starts[index], len(self.row) if last else self._starts[index + 1])

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Span, ...]: ...
    def __getitem__(self, index: int | slice) -> Span | tuple[Span, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return tuple(map(self.row.__getitem__, self.frames_of(index % len(self))))
