"""Block images: capture then restore is the identity, whatever the image and the target hold."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.content import block_capture
from nodectl.content.block import BlockManifest
from nodectl.content.block_capture import WINDOW, capture_block, range_jobs
from nodectl.content.block_compare import differences
from nodectl.content.block_format import BlockChunk, decode_block_part, encode_block_part
from nodectl.content.block_restore import BlockRestoreOptions, restore_block
from nodectl.content.block_source import SourceOptions, open_source
from nodectl.content.chunker import BLOCK, CHUNK_MOST, RANGE, cut
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.errors import ContentInvalid
from nodectl.events import NullObserver
from nodectl.ids import ChunkId, FrameId
from nodectl.store.disk import DiskStore
from nodectl.units import MIB

# An image in words: runs of blocks, each all of one byte or of its own; and a few odd bytes.
RUNS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), max_size=8)
TAILS = st.binary(max_size=50)


def make(runs: list[tuple[int, int]], tail: bytes) -> bytes:
    blocks = []
    for number, (byte, count) in enumerate(runs):
        for index in range(count):
            unique = byte == 4
            blocks.append(
                f"{number} {index} ".encode().ljust(16) * 256 if unique else bytes([byte]) * BLOCK
            )
    return b"".join(blocks) + tail


@settings(deadline=None, max_examples=15)
@given(runs=RUNS, tail=TAILS, old=RUNS, old_tail=TAILS)
def test_any_image_comes_back_over_anything(
    tmp_path_factory: pytest.TempPathFactory,
    codec: FrameCodec,
    runs: list[tuple[int, int]],
    tail: bytes,
    old: list[tuple[int, int]],
    old_tail: bytes,
) -> None:
    folder = tmp_path_factory.mktemp("image")
    image, target, fresh = folder / "image", folder / "target", folder / "fresh"
    image.write_bytes(make(runs, tail))
    target.write_bytes(make(old, old_tail))
    with DiskStore(folder / "store") as store:
        with open_source(image, SourceOptions()) as source:
            report = capture_block(source, store, codec, NullObserver())
        manifest = BlockManifest.open(report.root, store, codec)

        def open_store() -> DiskStore:
            return DiskStore(folder / "store", catch_up=False)

        for path in (target, fresh):
            restore_block(manifest, path, open_store, BlockRestoreOptions(), NullObserver())
            assert path.read_bytes() == image.read_bytes()
        again = restore_block(manifest, target, open_store, BlockRestoreOptions(), NullObserver())
        assert (again.written_bytes, again.cleared_bytes) == (0, 0)
        assert differences(manifest, target, NullObserver(), step="x") == []
        with open_source(target, SourceOptions()) as source:
            assert capture_block(source, store, codec, NullObserver()).root == report.root


def test_the_cut_does_not_depend_on_what_is_read_at_once(
    tmp_path: Path, codec: FrameCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(8)
    pieces = (rng.randbytes(3 * MIB), bytes(BLOCK), rng.randbytes(700 * BLOCK), b"tail" * 99)
    (tmp_path / "image").write_bytes(b"".join(pieces))
    roots = set()
    for number, window in enumerate((CHUNK_MOST + BLOCK, 150 * BLOCK, MIB, 2 * MIB, WINDOW)):
        monkeypatch.setattr(block_capture, "WINDOW", window)
        with (
            DiskStore(tmp_path / f"store{number}") as store,
            open_source(tmp_path / "image", SourceOptions()) as source,
        ):
            roots.add(capture_block(source, store, codec, NullObserver()).root)
    assert len(roots) == 1
    chunks = list(cut(memoryview((tmp_path / "image").read_bytes()), 0))
    with DiskStore(tmp_path / "store0") as store:
        ranges = BlockManifest.open(roots.pop(), store, codec).ranges()
        assert [(one.offset, one.ref.plain_len) for part in ranges for one in part] == chunks


@settings(deadline=None, max_examples=50)
@given(runs=RUNS, tail=TAILS)
def test_chunks_cover_all_but_zeros(runs: list[tuple[int, int]], tail: bytes) -> None:
    data = make(runs, tail)
    at = 0
    for offset, length in cut(memoryview(data), 0):
        assert offset >= at
        assert not any(data[at:offset])
        assert offset % BLOCK == 0
        at = offset + length
    assert not any(data[at:])


@settings(deadline=None, max_examples=100)
@given(
    size=st.integers(0, 5 * RANGE),
    raw=st.lists(st.tuples(st.integers(0, 5 * RANGE), st.integers(1, 2 * RANGE)), max_size=6),
)
def test_range_jobs_cover_every_extent_once(size: int, raw: list[tuple[int, int]]) -> None:
    extents, at = [], 0
    for begin, length in sorted(raw):
        begin = max(begin, at)  # noqa: PLW2901 - the extents of a file do not overlap
        if begin + length <= size:
            extents.append((begin, length))
            at = begin + length
    covered = []
    for job in range_jobs(size, tuple(extents)):
        for begin, length in job.extents:
            assert begin // RANGE == (begin + length - 1) // RANGE == job.number
            assert not covered or sum(covered[-1]) <= begin
            covered.append((begin, length))
    numbers = [job.number for job in range_jobs(size, tuple(extents))]
    assert numbers == sorted(set(numbers))
    for begin, length in extents:
        inside = sum(
            max(0, min(begin + length, one + size_) - max(begin, one)) for one, size_ in covered
        )
        assert inside == length


PART = [
    BlockChunk(8192, FrameRef(ChunkId(b"c" * 32), FrameId(b"f" * 32), 4096, 500)),
    BlockChunk(16384, FrameRef(ChunkId(b"d" * 32), FrameId(b"g" * 32), 100, 90)),
]
SIZE = 16484


def test_a_part_says_what_it_was_given() -> None:
    assert decode_block_part(encode_block_part(PART), after=8192, size=SIZE) == PART


@settings(max_examples=200)
@given(at=st.integers(0, 55), bit=st.integers(0, 7))
def test_a_part_that_lies_is_refused_or_says_something_possible(at: int, bit: int) -> None:
    data = bytearray(encode_block_part(PART))
    data[at % len(data)] ^= 1 << bit
    try:
        chunks = decode_block_part(bytes(data), after=0, size=SIZE)
    except ContentInvalid:
        return
    ends = [chunk.offset + chunk.ref.plain_len for chunk in chunks]
    assert ends == sorted(ends)
    assert ends[-1] <= SIZE


@pytest.mark.parametrize(
    ("after", "size"), [(8193, SIZE), (0, SIZE - 1), (0, 16384), (0, SIZE + 5000)]
)
def test_chunks_outside_of_their_place_are_refused(after: int, size: int) -> None:
    with pytest.raises(ContentInvalid):
        decode_block_part(encode_block_part(PART), after=after, size=size)
