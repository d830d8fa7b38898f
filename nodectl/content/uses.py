"""Where frames belong: every place in files that wants one, and how the places become jobs.

In columns (16 bytes for each place), as a manifest may want a million.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nodectl.content.manifest import Entry
from nodectl.content.spans import FrameRow, SpanTable
from nodectl.units import MIB

_JOB_USES = 2000  # places in one job: small enough for a pipe (see workers.py)
_JOB_BYTES = 4 * MIB  # plain bytes in one job


class Use(NamedTuple):
    """One place that wants one frame: a chunk of a record of a part of the manifest."""

    part: int
    row: int
    chunk: int


FillJob = list[Use]  # uses of the same frame stand together


class Uses:
    """The places of one restore, in the order in which they are found."""

    def __init__(self) -> None:
        """Begin with none."""
        self.plain_bytes = 0  # of all places
        self._frames = array("I")  # number of the frame in its row; 0 where there is no row
        self._parts = array("I")
        self._rows = array("I")
        self._chunks = array("I")
        self._given = 0  # places that `new_jobs` has given out
        self._given_bytes = 0

    def add(self, part: int, row: int, entry: Entry, frames: FrameRow | None) -> None:
        """Note that all chunks of a record are wanted."""
        for chunk, ref in enumerate(entry.chunks):
            self._frames.append(0 if frames is None else frames.add(ref))
            self._parts.append(part)
            self._rows.append(row)
            self._chunks.append(chunk)
            self.plain_bytes += ref.plain_len

    def new_jobs(self, *, last: bool = False) -> Iterator[FillJob]:
        """Yield jobs for the places added since, when they are enough for one or are the `last`."""
        first, until = self._given, len(self._frames)
        size = self.plain_bytes - self._given_bytes
        if not last and size < _JOB_BYTES and until - first < _JOB_USES:
            return
        self._given, self._given_bytes = until, self.plain_bytes
        # A file of many chunks is shared out: each of the jobs is of about the same size.
        width = max(1, (until - first) * _JOB_BYTES // max(size, _JOB_BYTES))
        for begin in range(first, until, width):
            yield self._job(range(begin, min(until, begin + width)))

    def jobs(self, table: SpanTable, spans: Iterable[int]) -> Iterator[FillJob]:
        """Yield the jobs of each span of `table` as `spans` yields it."""
        key = self._frames.__getitem__
        order = array("I", sorted(range(len(self._frames)), key=key))
        for span in spans:
            numbers = table.frames_of(span)
            first = bisect_left(order, numbers.start, key=key)
            until = bisect_left(order, numbers.stop, key=key)
            for begin in range(first, until, _JOB_USES):
                yield self._job(order[begin : min(until, begin + _JOB_USES)])

    def _job(self, places: Iterable[int]) -> FillJob:
        parts, rows, chunks = self._parts, self._rows, self._chunks
        return [Use(parts[place], rows[place], chunks[place]) for place in places]
