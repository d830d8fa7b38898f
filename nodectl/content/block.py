"""Manifests of block images through a store, and their chunks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nodectl.content.block_format import (
    SIZE_MAX,
    BlockChunk,
    decode_block_part,
    encode_block_part,
)
from nodectl.content.chunker import RANGE
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import KIND_BLOCK, RootBlock
from nodectl.content.stored_manifest import PartWriter, StoredManifest
from nodectl.errors import ContentInvalid
from nodectl.ids import Root
from nodectl.store.model import StoredFrame


class BlockManifestWriter:
    """Takes the chunks of one range after the other; `put` takes each frame of the manifest."""

    def __init__(self, codec: FrameCodec, put: Callable[[StoredFrame], None]) -> None:
        """Begin an empty manifest."""
        self._part_writer = PartWriter(codec, put)
        self._parts: list[FrameRef] = []
        self._chunks = 0
        self._plain_bytes = 0
        self._sealed_bytes = 0

    def add_range(self, chunks: Iterable[BlockChunk]) -> None:
        """Add the chunks of the next range, in order; one that is all hole has none."""
        part = list(chunks)
        if not part:
            return
        self._chunks += len(part)
        self._plain_bytes += sum(chunk.ref.plain_len for chunk in part)
        self._sealed_bytes += sum(chunk.ref.sealed_len for chunk in part)
        self._parts.append(self._part_writer.add(encode_block_part(part)))

    def finish(self, head: dict[str, Any]) -> tuple[Root, RootBlock, StoredFrame]:
        """Store the head; return id, content and frame of the root block, which goes in last."""
        totals = (self._chunks, self._plain_bytes, self._sealed_bytes)
        return self._part_writer.finish(head, KIND_BLOCK, totals, self._parts)


class BlockManifest(StoredManifest):
    """The manifest of a block image."""

    kind = KIND_BLOCK
    other_kind = "this is a tree, and no block image"

    @property
    def size(self) -> int:
        """Bytes of the image, holes included (reads part 0).

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        size = self.head.get("size")
        if not isinstance(size, int) or not 0 <= size <= SIZE_MAX:
            raise ContentInvalid("the head of a block image states no possible size")
        return size

    def ranges(self) -> Iterator[list[BlockChunk]]:
        """Yield the chunks, those of one range of 64 MiB after the other; empty ranges are skipped.

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        size, after, count = self.size, 0, 0
        for ref in self.block.parts[1:]:
            chunks = decode_block_part(self._open(ref), after=after, size=size)
            last = chunks[-1].offset + chunks[-1].ref.plain_len if chunks else 0
            if not chunks or chunks[0].offset // RANGE != (last - 1) // RANGE:
                raise ContentInvalid("a part of a block image does not hold one range")
            after = last
            count += len(chunks)
            yield chunks
        if count != self.block.entries:
            raise ContentInvalid(f"the manifest {self.root.hex()} is not complete")

    def payload(self) -> Iterator[FrameRef]:
        """Yield the frames of all chunks, one as often as it is used."""
        return (chunk.ref for chunks in self.ranges() for chunk in chunks)
