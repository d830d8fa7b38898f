"""What a store is: sealed frames by FrameId, durable once acknowledged.

`store/memory.py` and `store/disk.py` keep the same contract; tests/contract/test_store.py holds
both to it. A store does not know keys: it checks FrameIds, and it never opens a frame. A root
block (see `content/manifest.py`) is kept like a frame: its id is BLAKE3 of its bytes, too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nodectl.ids import ChunkId, FrameId

NO_CHUNK = ChunkId(bytes(32))
"""The chunk id under which something that is no chunk (a root block) is stored."""


class StoredFrame(NamedTuple):
    """One frame with what its record keeps about it."""

    frame_id: FrameId
    chunk_id: ChunkId
    plain_len: int  # bytes
    sealed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """How much a store holds."""

    frames: int
    sealed_bytes: int
    packs: int


class Store(Protocol):
    """Sealed frames by FrameId."""

    def missing(self, frame_ids: Iterable[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are not here, in their order, each once."""
        ...

    def get(self, frame_id: FrameId) -> bytes:
        """Return the sealed bytes of one frame, unchecked.

        Raises:
            FrameMissing: it is not here.
        """
        ...

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        """Yield the sealed bytes of frames in the order asked; neighbours are read together.

        Raises:
            FrameMissing: one of them is not here (found before the first is yielded).
        """
        ...

    def put_many(self, frames: Sequence[StoredFrame]) -> None:
        """Store frames; when it returns they survive kill -9 and power loss.

        The caller has checked that each `sealed` is its FrameId. A frame that is here already
        is passed over.

        Raises:
            NoSpace: the file system is full; the store is whole, the batch may be absent.
        """
        ...

    def statistics(self) -> StoreStatistics:
        """Return how much is here."""
        ...
