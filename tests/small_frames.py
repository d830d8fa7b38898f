"""Frames of no realm, small and told apart by a number: what store tests are made of."""

from blake3 import blake3

from nodectl.ids import ChunkId, FrameId
from nodectl.store.model import StoredFrame


def frame(number: int, size: int = 1000) -> StoredFrame:
    """Return the frame of a number."""
    sealed = number.to_bytes(4, "little") * (size // 4)
    return StoredFrame(
        FrameId(blake3(sealed).digest()), ChunkId(blake3(b"c" + sealed).digest()), size, sealed
    )


def ids(*numbers: int) -> list[FrameId]:
    """Return the ids of frames of the default size."""
    return [frame(number).frame_id for number in numbers]
