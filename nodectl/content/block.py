"""Manifests of block images through a store, and their chunks."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from blake3 import blake3

from nodectl.content.block_format import (
    SIZE_MAX,
    BlockChunk,
    decode_block_part,
    encode_block_part,
)
from nodectl.content.chunker import RANGE
from nodectl.content.format import decode_head, encode_head, encode_root_block
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import KIND_BLOCK, RootBlock
from nodectl.content.spans import FrameRow, SpanTable
from nodectl.content.tree import read_root_block, stored
from nodectl.errors import ContentInvalid
from nodectl.ids import FrameId, Root
from nodectl.store.model import NO_CHUNK, Store, StoredFrame


class BlockManifestWriter:
    """Takes the chunks of one range after the other; `put` takes each frame of the manifest."""

    def __init__(self, codec: FrameCodec, put: Callable[[StoredFrame], None]) -> None:
        """Begin an empty manifest."""
        self._codec = codec
        self._put = put
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
        self._parts.append(self._add_part(encode_block_part(part)))

    def finish(self, head: dict[str, Any]) -> tuple[Root, RootBlock, StoredFrame]:
        """Store the head; return id, content and frame of the root block, which goes in last."""
        head_ref = self._add_part(encode_head(head))
        block = RootBlock(
            KIND_BLOCK,
            self._codec.realm_tag(),
            self._chunks,
            self._plain_bytes,
            self._sealed_bytes,
            (head_ref, *self._parts),
        )
        data = encode_root_block(block)
        root = Root(blake3(data).digest())
        return root, block, StoredFrame(FrameId(root), NO_CHUNK, len(data), data)

    def _add_part(self, plain: bytes) -> FrameRef:
        frame = self._codec.seal(plain, self._codec.chunk_id(plain))
        self._put(stored(frame))
        return frame.ref


class BlockManifest:
    """One manifest, read from a store that holds its root block and its parts."""

    def __init__(self, root: Root, block: RootBlock, store: Store, codec: FrameCodec) -> None:
        """Use `open`."""
        self.root = root
        self.block = block
        self._store = store
        self.codec = codec

    @classmethod
    def open(cls, root: Root, store: Store, codec: FrameCodec) -> Self:
        """Read and check the root block.

        Raises:
            FrameMissing: it is not in the store.
            ContentInvalid: it is damaged, of another realm, or no block image.
        """
        block = read_root_block(root, store, codec)
        if block.kind != KIND_BLOCK:
            raise ContentInvalid("this is a tree, and no block image")
        return cls(root, block, store, codec)

    @property
    def size(self) -> int:
        """Bytes of the image, holes included (reads part 0).

        Raises:
            FrameMissing, ContentInvalid: as the words say.
        """
        size = decode_head(self._open(self.block.parts[0])).get("size")
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

    def span_table(self) -> SpanTable:
        """Return the spans of all the frames that its content needs."""
        return SpanTable(FrameRow(self.payload()))

    def meta_table(self) -> SpanTable:
        """Return the spans of its own parts."""
        return SpanTable(FrameRow(self.block.parts))

    def _open(self, ref: FrameRef) -> bytes:
        return self.codec.open(self._store.get(ref.frame_id), ref)
