"""Several stores seen as one: read from the first that has a frame, write to the last."""

from collections.abc import Iterable, Iterator, Sequence

from nodectl.errors import FrameMissing
from nodectl.ids import FrameId
from nodectl.store.model import Store, StoredFrame, StoreStatistics


class ChainStore:
    """Stores in the order in which they are asked."""

    def __init__(self, *stores: Store) -> None:
        """Chain at least one store."""
        self._stores = stores

    def missing(self, frame_ids: Iterable[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are in none of the stores, in order, each once."""
        left = list(dict.fromkeys(frame_ids))
        for store in self._stores:
            left = store.missing(left)
        return left

    def get(self, frame_id: FrameId) -> bytes:
        """Return the sealed bytes of one frame, unchecked."""
        for store in self._stores[:-1]:
            try:
                return store.get(frame_id)
            except FrameMissing:
                continue
        return self._stores[-1].get(frame_id)

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        """Yield the sealed bytes of frames in the order asked."""
        for store in self._stores:
            if not store.missing(frame_ids):
                return store.get_many(frame_ids)
        for frame_id in self.missing(frame_ids):
            raise FrameMissing(f"frame {frame_id.hex()} is in none of the stores")
        return (self.get(frame_id) for frame_id in frame_ids)

    def put_many(self, frames: Sequence[StoredFrame]) -> None:
        """Store frames in the last store, unless one of the others has them."""
        absent = set(self.missing(frame.frame_id for frame in frames))
        self._stores[-1].put_many([frame for frame in frames if frame.frame_id in absent])

    def statistics(self) -> StoreStatistics:
        """Return how much is in the store that is written to."""
        return self._stores[-1].statistics()
