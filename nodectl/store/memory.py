"""A store in memory: for tests and for a node that keeps nothing. Same contract as on disk."""

import threading
from collections.abc import Iterable, Iterator, Sequence

from nodectl.errors import FrameMissing
from nodectl.ids import FrameId
from nodectl.store.model import StoredFrame, StoreStatistics


class MemoryStore:
    """Frames in a dictionary; may be shared by threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._frames: dict[FrameId, StoredFrame] = {}
        self._lock = threading.Lock()

    def missing(self, frame_ids: Iterable[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are not here, in their order, each once."""
        with self._lock:
            return [one for one in dict.fromkeys(frame_ids) if one not in self._frames]

    def get(self, frame_id: FrameId) -> bytes:
        """Return the sealed bytes of one frame, unchecked."""
        with self._lock:
            frame = self._frames.get(frame_id)
        if frame is None:
            raise FrameMissing(f"frame {frame_id.hex()} is not in this store")
        return frame.sealed

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        """Yield the sealed bytes of frames in the order asked."""
        for frame_id in self.missing(frame_ids):
            raise FrameMissing(f"frame {frame_id.hex()} is not in this store")
        return (self.get(frame_id) for frame_id in frame_ids)

    def put_many(self, frames: Sequence[StoredFrame]) -> None:
        """Store frames; one that is here already is passed over."""
        with self._lock:
            for frame in frames:
                self._frames.setdefault(frame.frame_id, frame)

    def statistics(self) -> StoreStatistics:
        """Return how much is here."""
        with self._lock:
            sealed_bytes = sum(len(frame.sealed) for frame in self._frames.values())
            return StoreStatistics(frames=len(self._frames), sealed_bytes=sealed_bytes, packs=0)
