"""Spans: the frames of a manifest cut into the units that the swarm schedules. Pure.

The cut is a function of the frames alone, so that all nodes agree on it without a word:

* the frames in manifest order, each at its first use, in one row;
* the aim for a span is a 256th of all sealed bytes, but at least 1 MiB and at most 4 MiB (at least
  256 spans where the size allows keep a swarm near the bound; see docs/format.md);
* a span ends with the frame that brings it to its aim; the last one may be short.

The table is kept in columns (72 bytes for each frame): objects for a million frames would not
fit the memory that a node may use.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from nodectl.content.frame import FrameRef
from nodectl.ids import ID_BYTES, ChunkId, FrameId
from nodectl.units import MIB

SPAN_MIN = MIB
SPAN_MAX = 4 * MIB
SPANS_WANTED = 256

Span = tuple[FrameRef, ...]


class SpanTable(Sequence[Span]):
    """All spans of one list of frames."""

    def __init__(self, refs: Iterable[FrameRef]) -> None:
        """Cut `refs` (manifest order; repeated frames count once) into spans."""
        numbers: dict[FrameId, int] = {}
        chunk_ids, frame_ids = bytearray(), bytearray()
        self._plain, self._sealed = array("I"), array("I")
        for ref in refs:
            if ref.frame_id in numbers:
                continue
            numbers[ref.frame_id] = len(numbers)
            chunk_ids += ref.chunk_id
            frame_ids += ref.frame_id
            self._plain.append(ref.plain_len)
            self._sealed.append(ref.sealed_len)
        self._chunk_ids, self._frame_ids = bytes(chunk_ids), bytes(frame_ids)
        self._numbers = numbers
        self.sealed_bytes = sum(self._sealed)
        aim = min(max(self.sealed_bytes // SPANS_WANTED, SPAN_MIN), SPAN_MAX)
        self._starts = array("I")  # number of the first frame of each span
        self.span_bytes = array("I")  # sealed bytes of each span
        self._cut(aim)

    def _cut(self, aim: int) -> None:
        size = 0
        for number, sealed_len in enumerate(self._sealed):
            if size == 0:
                self._starts.append(number)
                self.span_bytes.append(0)
            size += sealed_len
            self.span_bytes[-1] = size
            if size >= aim:
                size = 0

    @property
    def frame_count(self) -> int:
        """How many different frames there are."""
        return len(self._sealed)

    def ref(self, number: int) -> FrameRef:
        """Return frame `number` of the row."""
        cut = slice(number * ID_BYTES, (number + 1) * ID_BYTES)
        return FrameRef(
            ChunkId(self._chunk_ids[cut]),
            FrameId(self._frame_ids[cut]),
            self._plain[number],
            self._sealed[number],
        )

    def refs(self) -> Iterator[FrameRef]:
        """Yield all frames in their row."""
        return (self.ref(number) for number in range(self.frame_count))

    def span_of(self, frame_id: FrameId) -> int:
        """Return the number of the span that holds a frame; KeyError if there is none."""
        return bisect_right(self._starts, self._numbers[frame_id]) - 1

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
        index %= len(self)
        last = index + 1 == len(self)
        end = self.frame_count if last else self._starts[index + 1]
        return tuple(self.ref(number) for number in range(self._starts[index], end))
