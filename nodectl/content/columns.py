"""A part of a manifest as columns, as it is stored; a row becomes an entry when asked for. Pure.

Most rows of a tree are small plain files, and a restore needs a few columns of them and no object.
So what must hold for every row is looked for in whole columns where that can be; where a column may
hold something wrong, `check_entry` looks at the rows one by one, and decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from nodectl.content.frame import FrameRef
from nodectl.content.manifest import (
    MODE_MAX,
    NAME_MAX,
    Entry,
    Extent,
    Kind,
    XAttrs,
    are_safe_paths,
    check_entry,
)
from nodectl.ids import ChunkId, FrameId


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """The rows of one part: column by column, each as long as `paths`, but for the last ones."""

    paths: Sequence[bytes]
    kinds: bytes
    modes: Sequence[int]
    uids: Sequence[int]
    gids: Sequence[int]
    mtimes_ns: Sequence[int]
    sizes: Sequence[int]
    # 1: a file of one chunk and no hole, which holds all of it. All other rows are odd ones.
    small: bytes
    xattr_numbers: Sequence[int]  # into `xattr_sets`
    extent_starts: Sequence[int]  # into `extents`; one more, where the last row's end
    chunk_starts: Sequence[int]  # into the columns of chunks; one more likewise
    targets: Mapping[int, bytes]  # by row, of those that have one
    xattr_sets: Sequence[XAttrs]  # the first one is empty
    extents: Sequence[Extent]
    chunk_ids: Sequence[ChunkId]
    frame_ids: Sequence[FrameId]
    plain_lens: Sequence[int]
    sealed_lens: Sequence[int]
    _odd: dict[int, Entry] = field(default_factory=dict)  # odd rows that were asked for

    def __len__(self) -> int:
        return len(self.paths)

    def ref(self, chunk: int) -> FrameRef:
        """Return the reference of a chunk by its number in the part."""
        return FrameRef(
            self.chunk_ids[chunk],
            self.frame_ids[chunk],
            self.plain_lens[chunk],
            self.sealed_lens[chunk],
        )

    def refs(self) -> Iterator[FrameRef]:
        """Yield the references of all chunks, row by row."""
        return map(FrameRef, self.chunk_ids, self.frame_ids, self.plain_lens, self.sealed_lens)

    def entry(self, row: int) -> Entry:
        """Return one row as an entry, an odd one as the same object each time."""
        entry = self._odd.get(row)
        if entry is None:
            entry = self._entry(row)
            if not self.small[row]:
                self._odd[row] = entry
        return entry

    def _entry(self, row: int) -> Entry:
        chunks = range(self.chunk_starts[row], self.chunk_starts[row + 1])
        return Entry(
            self.paths[row],
            self.kinds[row],
            self.modes[row],
            self.uids[row],
            self.gids[row],
            self.mtimes_ns[row],
            self.sizes[row],
            self.targets.get(row, b""),
            self.xattr_sets[self.xattr_numbers[row]],
            tuple(self.extents[self.extent_starts[row] : self.extent_starts[row + 1]]),
            tuple(map(self.ref, chunks)),
        )

    def entries(self) -> list[Entry]:
        """Return all rows as entries."""
        return list(map(self.entry, range(len(self))))

    def check(self) -> None:
        """Refuse rows that cannot be right by themselves.

        Raises:
            ContentInvalid: naming the path and what is wrong.
        """
        right = max(self.modes, default=0) <= MODE_MAX and are_safe_paths(self.paths)
        for row, (path, small) in enumerate(zip(self.paths, self.small, strict=True)):
            known = small or self._is_bare_directory(row)
            if not known or not right or len(path) > NAME_MAX:
                check_entry(self.entry(row))

    def _is_bare_directory(self, row: int) -> bool:
        return (
            self.kinds[row] == Kind.DIRECTORY
            and self.chunk_starts[row] == self.chunk_starts[row + 1]
            and self.extent_starts[row] == self.extent_starts[row + 1]
        )
