"""The exact bytes of a block image's manifest. Pure. Specified in docs/block-images.md.

The root block is that of trees (format.py) with kind 2 and profile 2; its `entries` counts chunks.
Part 0 is the head: canonical JSON with the `size` of the image in bytes. The others hold chunks, in
the order of the image, each part those of one range of 64 MiB:

    magic b"NCBK" | count n u32 | offset u64 * n | plain_len u32 * n | sealed_len u32 * n
    | chunk_id 32 * n | frame_id 32 * n                                       (little-endian)
"""

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nodectl.content.chunker import BLOCK, CHUNK_MOST, RANGE
from nodectl.content.frame import FRAME_MAX, FrameRef
from nodectl.errors import ContentInvalid
from nodectl.ids import ID_BYTES, ChunkId, FrameId

SIZE_MAX = 1 << 60

_HEAD = struct.Struct("<4sI")
_MAGIC = b"NCBK"
_CHUNKS_MAX = RANGE // BLOCK // 2  # with a hole behind every block: such a part fits a frame
_ROW = 8 + 4 + 4 + 2 * ID_BYTES


class BlockChunk(NamedTuple):
    """One chunk and where it stands."""

    offset: int  # bytes from the start of the image
    ref: FrameRef


def encode_block_part(chunks: Sequence[BlockChunk]) -> bytes:
    """Return the plain bytes of a part."""
    columns = (
        array("Q", (chunk.offset for chunk in chunks)),
        array("I", (chunk.ref.plain_len for chunk in chunks)),
        array("I", (chunk.ref.sealed_len for chunk in chunks)),
    )
    if sys.byteorder == "big":
        for column in columns:
            column.byteswap()
    return b"".join(
        (
            _HEAD.pack(_MAGIC, len(chunks)),
            *(column.tobytes() for column in columns),
            *(chunk.ref.chunk_id for chunk in chunks),
            *(chunk.ref.frame_id for chunk in chunks),
        )
    )


def decode_block_part(data: bytes, *, after: int, size: int) -> list[BlockChunk]:
    """Return the chunks of a part, each checked: in order, aligned, inside of the image.

    Args:
        data: the plain bytes.
        after: where the last chunk before this part ends.
        size: bytes of the image.

    Raises:
        ContentInvalid: it is not a part of such an image.
    """
    if len(data) < _HEAD.size:
        raise ContentInvalid("a part of a block image is too short")
    magic, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or count > _CHUNKS_MAX or len(data) != _HEAD.size + count * _ROW:
        raise ContentInvalid("a part of a block image is not one")
    chunks = list(_rows(data, count))
    for offset, ref in chunks:
        end = offset + ref.plain_len
        whole = ref.plain_len % BLOCK == 0 or end == size
        if offset < after or offset % BLOCK or not whole or end > size:
            raise ContentInvalid("the chunks of a block image are not in order")
        if not 0 < ref.plain_len <= CHUNK_MOST or not 0 < ref.sealed_len <= FRAME_MAX:
            raise ContentInvalid("a chunk of a block image has an impossible length")
        after = end
    return chunks


def _rows(data: bytes, count: int) -> Iterator[BlockChunk]:
    at = _HEAD.size
    offsets, plains, sealeds = array("Q"), array("I"), array("I")
    for column in (offsets, plains, sealeds):
        end = at + count * column.itemsize
        column.frombytes(data[at:end])
        if sys.byteorder == "big":
            column.byteswap()
        at = end
    ids = at + count * ID_BYTES
    for number, offset in enumerate(offsets):
        first, second = at + number * ID_BYTES, ids + number * ID_BYTES
        ref = FrameRef(
            ChunkId(data[first : first + ID_BYTES]),
            FrameId(data[second : second + ID_BYTES]),
            plains[number],
            sealeds[number],
        )
        yield BlockChunk(offset, ref)
