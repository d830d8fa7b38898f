"""Where a block image is cut: profile 2. Pure.

* Blocks of 4 KiB, counted from the start of the image: file systems place data on such borders.
* A block of zeros belongs to no chunk: it ends the one before it, and is a hole.
* A chunk ends behind a block whose XXH3-64 is below a threshold (64 KiB on average, so that the
  cut follows the content when it moves by whole blocks), but not before 16 KiB and at the latest at
  512 KiB; always at a multiple of 64 MiB, so that ranges can be read by different workers.

64 KiB and not 128: of 30 packages upgraded in an ext4 image 12 MiB less of 75 MiB are new
(bench/updates.py). It costs twice the index rows, and a capture of known data a quarter more CPU.

The hash decides only where to cut: no identity depends on it.
"""

from collections.abc import Iterator

from xxhash import xxh3_64_intdigest

BLOCK = 4096
RANGE = 64 << 20  # no chunk crosses a multiple of this
AVERAGE = 64 << 10
CHUNK_LEAST = AVERAGE // 4
CHUNK_MOST = AVERAGE * 8
# 1.3: what the least size takes away from the average is put back.
_THRESHOLD = int(BLOCK / AVERAGE * 1.3 * 2**64)
_ZEROS = bytes(BLOCK)
_ZEROS_HASH = xxh3_64_intdigest(_ZEROS)
_LEAST_BLOCKS = CHUNK_LEAST // BLOCK
_MOST_BLOCKS = CHUNK_MOST // BLOCK

Place = tuple[int, int]  # offset in the image, length: bytes


def cut(data: memoryview, base: int) -> Iterator[Place]:
    """Yield the chunks of a piece of an image that begins at `base`, a multiple of 4 KiB.

    The piece ends at the next multiple of 64 MiB, at the end of the image, or before a hole.
    """
    if base % BLOCK or base // RANGE != (base + max(len(data), 1) - 1) // RANGE:
        raise ValueError(f"a piece of {len(data)} bytes cannot begin at {base}")
    begin = -1  # of the chunk under way, -1: none
    blocks = 0
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        value = xxh3_64_intdigest(block)
        if (value == _ZEROS_HASH or len(block) < BLOCK) and block == _ZEROS[: len(block)]:
            if begin >= 0:
                yield base + begin, at - begin
            begin, blocks = -1, 0
            continue
        begin = at if begin < 0 else begin
        blocks += 1
        if blocks >= _LEAST_BLOCKS and (value < _THRESHOLD or blocks == _MOST_BLOCKS):
            yield base + begin, min(at + BLOCK, len(data)) - begin
            begin, blocks = -1, 0
    if begin >= 0:
        yield base + begin, len(data) - begin
