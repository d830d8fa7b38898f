"""Manifests of trees through a store: written part by part, read part by part.

A manifest is never whole in memory: a part holds about a thousand entries, and whoever needs all of
them iterates.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nodectl.content.columns import Columns
from nodectl.content.format import decode_columns, encode_part, record_bytes
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import (
    KIND_TREE,
    PART_WEIGHT_MAX,
    RECORD_CHUNKS_MAX,
    Entry,
    Extent,
    Kind,
    RootBlock,
    TreeOrder,
    chunk_places,
    ends_part,
)
from nodectl.content.stored_manifest import PartWriter, StoredManifest
from nodectl.errors import ContentInvalid
from nodectl.ids import FrameId, Root
from nodectl.store.model import StoredFrame


def split_records(entry: Entry) -> Iterator[Entry]:
    """Yield the FILE record and the MORE records of a file with any number of chunks."""
    chunks = entry.chunks
    if len(chunks) <= RECORD_CHUNKS_MAX:
        yield entry
        return
    places = list(chunk_places(entry.extents, entry.size, sparse=bool(entry.extents)))
    for first in range(0, len(chunks), RECORD_CHUNKS_MAX):
        part = places[first : first + RECORD_CHUNKS_MAX]
        kept: dict[str, Any] = {
            "chunks": chunks[first : first + RECORD_CHUNKS_MAX],
            "extents": tuple(_joined(part)) if entry.extents else (),
        }
        if first == 0:
            yield entry._replace(**kept)
        else:
            yield Entry(path=entry.path, kind=Kind.MORE, size=part[0][0], **kept)


def _joined(places: list[tuple[int, int]]) -> Iterator[Extent]:
    """Join chunk places that touch each other into extents."""
    begin, end = places[0][0], places[0][0]
    for offset, length in places:
        if offset != end:
            yield begin, end - begin
            begin = offset
        end = offset + length
    yield begin, end - begin


@dataclass(slots=True, kw_only=True)
class PartTotals:
    """What a writer knows of one part."""

    first: int  # number of the first entry that begins in it
    whole: bool  # it begins with an entry, not with a MORE record
    plain_bytes: int = 0
    sealed_bytes: int = 0


class ManifestWriter:
    """Takes entries in tree order and stores the manifest; `put` takes each frame of it."""

    def __init__(self, codec: FrameCodec, put: Callable[[StoredFrame], None]) -> None:
        """Begin an empty manifest."""
        self._part_writer = PartWriter(codec, put)
        self._order = TreeOrder()
        self._rows: list[Entry] = []
        self._row_bytes = 0
        self._entries = 0
        self._parts: list[FrameRef] = []
        self.parts: list[PartTotals] = []

    def add(self, entry: Entry) -> None:
        """Add one entry; a file with all its chunks.

        Raises:
            ContentInvalid: it may not stand here, or is impossible.
        """
        self._entries += 1
        for record in split_records(entry):
            self._order.add(record)
            weight = record_bytes(record)
            if self._row_bytes + weight > PART_WEIGHT_MAX:
                self._end_part()
            if not self._rows:
                first = self._entries - (record.kind != Kind.MORE)
                self.parts.append(PartTotals(first=first, whole=record.kind != Kind.MORE))
            self.parts[-1].plain_bytes += sum(ref.plain_len for ref in record.chunks)
            self.parts[-1].sealed_bytes += sum(ref.sealed_len for ref in record.chunks)
            self._rows.append(record)
            self._row_bytes += weight
            if ends_part(record.path, len(self._rows), self._row_bytes):
                self._end_part()

    @property
    def at_boundary(self) -> bool:
        """Whether the next entry begins a part."""
        return not self._rows

    def reuse_part(
        self, ref: FrameRef, totals: PartTotals, paths: Sequence[bytes], folders: Iterable[bytes]
    ) -> None:
        """Take over a stored part of another manifest: the entries `paths`, some of them folders.

        Only `at_boundary`, and only a part that ended by `ends_part`.
        """
        self._order.pass_over(paths, folders)
        self.parts.append(replace(totals, first=self._entries))
        self._entries += len(paths)
        self._parts.append(ref)

    def finish(self, head: dict[str, Any]) -> tuple[Root, RootBlock, StoredFrame]:
        """Store the last part and the head; return id, content and frame of the root block.

        The root block is not stored here: it goes in last, when all that it stands for is durable.
        """
        self._order.end_file()
        if self._rows:
            self._end_part()
        totals = (
            self._entries,
            sum(part.plain_bytes for part in self.parts),
            sum(part.sealed_bytes for part in self.parts),
        )
        return self._part_writer.finish(head, KIND_TREE, totals, self._parts)

    def _end_part(self) -> None:
        self._parts.append(self._part_writer.add(encode_part(self._rows)))
        self._rows.clear()
        self._row_bytes = 0


class TreeManifest(StoredManifest):
    """The manifest of a tree."""

    kind = KIND_TREE
    other_kind = "this is a block image, and no tree"

    @property
    def part_count(self) -> int:
        """How many parts hold entries; they are numbered from 0."""
        return len(self.block.parts) - 1

    def columns(self, number: int, *, checked: bool = False) -> Columns:
        """Return the rows of one part, each checked by itself unless they were already.

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        return decode_columns(self._open(self.block.parts[number + 1]), checked=checked)

    def parts(self) -> Iterator[Columns]:
        """Yield the parts one after the other, the order of their rows checked.

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        order = TreeOrder()
        count = 0
        for number in range(self.part_count):
            columns = self.columns(number)
            for row, (path, small) in enumerate(zip(columns.paths, columns.small, strict=True)):
                if small:
                    order.add_small(path)
                else:
                    order.add(columns.entry(row))
            count += len(columns) - columns.kinds.count(Kind.MORE)
            yield columns
        order.end_file()
        if count != self.block.entries:
            raise ContentInvalid(f"the manifest {self.root.hex()} is not complete")

    def entries(self) -> Iterator[Entry]:
        """Yield all records, their order checked.

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        return (entry for columns in self.parts() for entry in columns.entries())

    def payload(self) -> Iterator[FrameRef]:
        """Yield the frames of all its files, one as often as it is used."""
        return (ref for columns in self.parts() for ref in columns.refs())

    def frame_ids(self) -> Iterator[Sequence[FrameId]]:
        """Yield the frames of each part's files; the rows are not checked."""
        return (self.columns(one, checked=True).frame_ids for one in range(self.part_count))
