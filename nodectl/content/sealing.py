"""Sealing for captures of every kind: plain chunks in, frames into packs, references out.

One sealer belongs to one worker. It writes packs of its own and tells nobody: what `durable`
returns is for the parent to put into the index, which has one writer that way.
"""

from pathlib import Path

from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.stored_manifest import stored
from nodectl.ids import ChunkId
from nodectl.store.index import Index
from nodectl.store.packs import PackedFrame, PackWriter
from nodectl.units import MIB

# Between two durable points, whichever comes first. Of a frame that is not in the index yet, worker
# and parent keep about a kilobyte.
_DURABLE_AFTER = 64 * MIB  # sealed bytes
_DURABLE_AFTER_FRAMES = 10_000


class ChunkSealer:
    """Gives each chunk its frame: the one that the store has, or a new one."""

    def __init__(self, packs: Path, index: Path, codec: FrameCodec) -> None:
        """Open the index and get ready to write below `packs`."""
        self._codec = codec
        self._index = Index(index)
        self._writer = PackWriter(packs)
        self._written: dict[ChunkId, FrameRef] = {}  # since the last durable point
        self._placed: list[PackedFrame] = []
        self._placed_bytes = 0  # sealed

    def ref(self, plain: bytes | memoryview) -> FrameRef:
        """Return the reference of a chunk; its frame is in the store, or will be.

        Raises:
            StoreInvalid: the index is damaged, or the store cannot be written.
            NoSpace: the file system is full.
        """
        chunk_id = self._codec.chunk_id(plain)
        ref = self._written.get(chunk_id)
        if ref is not None:
            return ref
        known = self._index.find_chunk(chunk_id)
        if known is not None:
            # Not the length that the store has written down: here are the bytes themselves.
            return FrameRef(chunk_id, known.frame_id, len(plain), known.sealed_len)
        frame = self._codec.seal(plain, chunk_id)
        self._placed.append(self._writer.append(stored(frame)))
        self._placed_bytes += len(frame.sealed)
        self._written[chunk_id] = frame.ref
        return frame.ref

    @property
    def is_due(self) -> bool:
        """Whether enough was written for a durable point."""
        return self._placed_bytes >= _DURABLE_AFTER or len(self._placed) >= _DURABLE_AFTER_FRAMES

    def durable(self) -> list[PackedFrame]:
        """Make all durable that was written; return what is new in packs, for the index."""
        if self._placed:
            self._writer.sync()
        placed, self._placed, self._placed_bytes = self._placed, [], 0
        self._written.clear()
        return placed

    def close(self) -> list[PackedFrame]:
        """Close the last pack; return what is durable by that."""
        self._writer.close()
        self._index.close()
        return self.durable()
