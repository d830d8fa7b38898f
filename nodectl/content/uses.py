"""Where frames belong: every place in files that wants one, and how the places become jobs.

In columns (16 bytes for each place), as a manifest may want a million.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nodectl.content.spans import SpanTable
from nodectl.units import MIB

_JOB_USES = 2000  # places in one job: small enough for a pipe (see workers.py)
_JOB_BYTES = 4 * MIB  # plain bytes in one job


class FillJob(NamedTuple):
    """Places that want frames, in columns; those of the same frame stand together."""

    parts: "array[int]"  # of the manifest
    rows: "array[int]"  # of the part
    chunks: "array[int]"  # of the row


class Uses:
    """The places of one restore, in the order in which they are found."""

    def __init__(self) -> None:
        """Begin with none."""
        self.plain_bytes = 0  # of all places
        self._frames = array("I")  # number of the frame in its row; nothing where there is no row
        self._parts = array("I")
        self._rows = array("I")
        self._chunks = array("I")
        self._given_bytes = 0  # of the places that `new_jobs` has given out

    def add_row(self, part: int, row: int, plain_lens: Sequence[int]) -> None:
        """Note that all chunks of one row are wanted."""
        count = len(plain_lens)
        self._parts.extend([part] * count)
        self._rows.extend([row] * count)
        self._chunks.extend(range(count))
        self.plain_bytes += sum(plain_lens)

    def add_small(self, part: int, rows: Sequence[int], plain_bytes: int) -> None:
        """Note that the one chunk of each of these rows is wanted."""
        self._parts.extend([part] * len(rows))
        self._rows.extend(rows)
        self._chunks.extend([0] * len(rows))
        self.plain_bytes += plain_bytes

    def add_frames(self, numbers: Iterable[int]) -> None:
        """Say which frames of the manifest's row the places want that were noted just now."""
        self._frames.extend(numbers)

    def new_jobs(self, *, last: bool = False) -> Iterator[FillJob]:
        """Yield jobs for the places noted since, when they are enough for one or are the `last`.

        What is given out is forgotten.
        """
        count, size = len(self._parts), self.plain_bytes - self._given_bytes
        if not last and size < _JOB_BYTES and count < _JOB_USES:
            return
        given = (self._parts, self._rows, self._chunks)
        self._parts, self._rows, self._chunks = array("I"), array("I"), array("I")
        self._given_bytes = self.plain_bytes
        # Each of the jobs is of about the same size.
        width = max(1, min(_JOB_USES, count * _JOB_BYTES // max(size, _JOB_BYTES)))
        for begin in range(0, count, width):
            yield FillJob(*(column[begin : begin + width] for column in given))

    def jobs(self, table: SpanTable, spans: Iterable[int]) -> Iterator[FillJob]:
        """Yield the jobs of each span of `table` as `spans` yields it."""
        key = self._frames.__getitem__
        order = array("I", sorted(range(len(self._frames)), key=key))
        columns = (self._parts, self._rows, self._chunks)
        for span in spans:
            numbers = table.frames_of(span)
            first = bisect_left(order, numbers.start, key=key)
            until = bisect_left(order, numbers.stop, key=key)
            for begin in range(first, until, _JOB_USES):
                places = order[begin : min(until, begin + _JOB_USES)]
                yield FillJob(*(array("I", map(one.__getitem__, places)) for one in columns))
