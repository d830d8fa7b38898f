"""What manifests of every kind share: a root block and parts, in a store and out of it.

tree.py and block.py say what the parts of their kind hold.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Self

from blake3 import blake3

from nodectl.content.format import (
    decode_head,
    decode_root_block,
    encode_head,
    encode_root_block,
)
from nodectl.content.frame import CHUNK_MAX, Frame, FrameCodec, FrameRef
from nodectl.content.manifest import RootBlock
from nodectl.content.spans import FrameRow, SpanTable
from nodectl.errors import ContentInvalid
from nodectl.ids import FrameId, Root
from nodectl.store.model import NO_CHUNK, Store, StoredFrame


def stored(frame: Frame) -> StoredFrame:
    """Return a frame as a store takes it."""
    ref = frame.ref
    return StoredFrame(ref.frame_id, ref.chunk_id, ref.plain_len, frame.sealed)


def read_root_block(root: Root, store: Store, codec: FrameCodec) -> RootBlock:
    """Read a root block, of whatever kind, and check it.

    Raises:
        FrameMissing: it is not in the store.
        ContentInvalid: it is damaged, of an unknown version, or of another realm.
    """
    data = store.get(FrameId(root))
    if blake3(data).digest() != root:
        raise ContentInvalid(f"the root block {root.hex()} in the store is damaged")
    block = decode_root_block(data)
    if not codec.knows_tag(block.realm_tag):
        raise ContentInvalid(f"the manifest {root.hex()} is of another realm")
    return block


class PartWriter:
    """Seals the parts of a manifest; `put` takes each frame of it."""

    def __init__(self, codec: FrameCodec, put: Callable[[StoredFrame], None]) -> None:
        """Begin with no part."""
        self._codec = codec
        self._put = put

    def add(self, plain: bytes) -> FrameRef:
        """Seal and store one part.

        Raises:
            ContentInvalid: it is too large for a frame.
        """
        if len(plain) > CHUNK_MAX:  # sealed it could not be read by anybody
            raise ContentInvalid(f"a part of the manifest has {len(plain)} bytes: too much for one")
        frame = self._codec.seal(plain, self._codec.chunk_id(plain))
        self._put(stored(frame))
        return frame.ref

    def finish(
        self,
        head: dict[str, Any],
        kind: int,
        totals: tuple[int, int, int],
        parts: Sequence[FrameRef],
    ) -> tuple[Root, RootBlock, StoredFrame]:
        """Store the head; return id, content and frame of the root block.

        `totals` are entries, plain bytes and sealed bytes. The root block is not stored here: it
        goes in last, when all that it stands for is durable.
        """
        head_ref = self.add(encode_head(head))
        block = RootBlock(kind, self._codec.realm_tag(), *totals, (head_ref, *parts))
        data = encode_root_block(block)
        root = Root(blake3(data).digest())
        return root, block, StoredFrame(FrameId(root), NO_CHUNK, len(data), data)


class StoredManifest(ABC):
    """One manifest, read from a store that holds its root block and its parts."""

    kind: ClassVar[int]
    other_kind: ClassVar[str]  # what a root block of another kind is told to be

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
            ContentInvalid: it is damaged, of an unknown version, of another realm or kind.
        """
        block = read_root_block(root, store, codec)
        if block.kind != cls.kind:
            raise ContentInvalid(cls.other_kind)
        return cls(root, block, store, codec)

    @property
    def head(self) -> dict[str, Any]:
        """What was left out and where it came from (reads part 0)."""
        return decode_head(self._open(self.block.parts[0]))

    @abstractmethod
    def payload(self) -> Iterator[FrameRef]:
        """Yield the frames of its content, one as often as it is used."""

    def span_table(self) -> SpanTable:
        """Return the spans of all the frames that its content needs."""
        return SpanTable(FrameRow(self.payload()))

    def meta_table(self) -> SpanTable:
        """Return the spans of its own parts."""
        return SpanTable(FrameRow(self.block.parts))

    def through(self, store: Store) -> Self:
        """Return the same manifest read from another store."""
        return type(self)(self.root, self.block, store, self.codec)

    def _open(self, ref: FrameRef) -> bytes:
        return self.codec.open(self._store.get(ref.frame_id), ref)
