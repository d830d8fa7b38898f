"""Comparing a file or device with a block image, in jobs that cover all of it.

A chunk stands where it should when its ChunkId is right, a hole when it reads as zeros.
"""

import errno
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from nodectl.content.block import BlockManifest
from nodectl.content.block_format import BlockChunk
from nodectl.content.chunker import RANGE
from nodectl.content.frame import FrameCodec
from nodectl.content.workers import WorkerPool
from nodectl.errors import PathUnreadable
from nodectl.events import Observer, StepProgress

_BATCH = 48  # chunks of a job: about 6 MiB plain
_COMPARED = 1 << 20  # bytes read at once: they are still in the processor's cache when hashed
ZEROS = bytes(1 << 20)

Chunks = tuple[BlockChunk, ...]
Ranges = tuple[tuple[int, int], ...]  # offset, length


class BlockJob(NamedTuple):
    """Neighbouring chunks, and the holes before, between and behind them."""

    number: int  # in the order of the image
    chunks: Chunks
    holes: Ranges


class BlockDone(NamedTuple):
    """What became of a job."""

    number: int  # -1: of none
    written: int
    kept: int
    cleared: int
    bad: Ranges  # what differs


def block_jobs(manifest: BlockManifest, size: int) -> Iterator[BlockJob]:
    """Yield the whole image as jobs, in order; every byte is in one chunk or hole."""
    for number, (chunks, holes) in enumerate(_pieces(manifest, size)):
        yield BlockJob(number, chunks, holes)


def _pieces(manifest: BlockManifest, size: int) -> Iterator[tuple[Chunks, Ranges]]:
    chunks: list[BlockChunk] = []
    holes: list[tuple[int, int]] = []
    at = 0
    for chunk in _all_chunks(manifest):
        holes += _cut(at, chunk.offset)
        chunks.append(chunk)
        at = chunk.offset + chunk.ref.plain_len
        if len(chunks) >= _BATCH or len(holes) >= _BATCH:
            yield from _cut_short(chunks, holes)
            chunks, holes = [], []
    holes += _cut(at, size)
    yield from _cut_short(chunks, holes)


def _all_chunks(manifest: BlockManifest) -> Iterator[BlockChunk]:
    return (chunk for chunks in manifest.ranges() for chunk in chunks)


def _cut_short(
    chunks: list[BlockChunk], holes: list[tuple[int, int]]
) -> Iterator[tuple[Chunks, Ranges]]:
    """Yield pieces that are small enough for a pipe, however long a hole is."""
    yield tuple(chunks), tuple(holes[:_BATCH])
    for begin in range(_BATCH, len(holes), _BATCH):
        yield (), tuple(holes[begin : begin + _BATCH])


def _cut(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a hole where ranges end, so that a job is never long."""
    while begin < end:
        until = min(end, (begin // RANGE + 1) * RANGE)
        yield begin, until - begin
        begin = until


def differences(
    manifest: BlockManifest, target: Path, observer: Observer, *, step: str
) -> list[tuple[int, int]]:
    """Return offset and length of what differs between a target and the image, in order.

    Raises:
        PathUnreadable: the target cannot be read.
    """
    return compare(manifest, target, block_jobs(manifest, manifest.size), observer, step)


def compare(
    manifest: BlockManifest, target: Path, wanted: Iterable[BlockJob], observer: Observer, step: str
) -> list[tuple[int, int]]:
    """Compare the ranges of some jobs, and the size of a file."""
    bad: list[tuple[int, int]] = []
    done = 0
    try:
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise PathUnreadable(f"cannot read {target}: {exc.strerror}") from exc
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read the disk, not the memory
        found = os.lseek(fd, 0, os.SEEK_END)
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
    with WorkerPool(lambda: _Checker(target, manifest.codec)) as pool:
        for result in itertools.chain(pool.run(wanted), finished(pool)):
            bad += result.bad
            done += result.kept
            observer.on(StepProgress(step=step, done=done))
    if is_file and found != manifest.size:
        bad.append((min(found, manifest.size), abs(found - manifest.size)))
    return sorted(bad)


def finished(pool: WorkerPool[BlockJob, BlockDone]) -> Iterator[BlockDone]:
    """Yield what the workers say in the end; they are asked when the jobs are done, not before."""
    yield from pool.finish()


class _Checker:
    """A worker that compares."""

    def __init__(self, target: Path, codec: FrameCodec) -> None:
        self._comparison = Comparison(codec)
        self._fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)

    def handle(self, job: BlockJob) -> BlockDone:
        """Compare the ranges of a job with the image."""
        bad = [
            (chunk.offset, chunk.ref.plain_len)
            for chunk in self._comparison.wrong(self._fd, job.chunks)
        ]
        for hole in job.holes:
            bad += not_zero(self._fd, *hole)
        right = sum(chunk.ref.plain_len for chunk in job.chunks)
        return BlockDone(job.number, 0, right, 0, tuple(bad))

    def finish(self) -> BlockDone:
        """Close the target."""
        os.close(self._fd)
        return BlockDone(-1, 0, 0, 0, ())


class Comparison:
    """Compares chunks with what stands at their places; neighbours are read together."""

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self._buffer = memoryview(bytearray(_COMPARED))

    def wrong(self, fd: int, chunks: Chunks) -> list[BlockChunk]:
        """Return the chunks that do not stand there."""
        return [chunk for run in _runs(chunks) for chunk in self._wrong_of(fd, run)]

    def _wrong_of(self, fd: int, run: list[BlockChunk]) -> Iterator[BlockChunk]:
        begin = run[0].offset
        size = run[-1].offset + run[-1].ref.plain_len - begin
        found = 0
        while found < size:
            got = _read_into(fd, self._buffer[found:size], begin + found)
            if not got:
                break  # what is behind the end is not there
            found += got
        for chunk in run:
            at = chunk.offset - begin
            end = at + chunk.ref.plain_len
            if end > found or self._codec.chunk_id(self._buffer[at:end]) != chunk.ref.chunk_id:
                yield chunk


def _read_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill a view; return how many bytes, none where the disk cannot read (it may write)."""
    try:
        return os.preadv(fd, [view], offset)
    except OSError as exc:
        if exc.errno == errno.EIO:
            return 0
        raise


def _runs(chunks: Chunks) -> Iterator[list[BlockChunk]]:
    """Yield chunks that follow each other without a gap, together while they fit the buffer."""
    run: list[BlockChunk] = []
    size = 0
    for chunk in chunks:
        follows = run and chunk.offset == run[0].offset + size
        if run and (not follows or size + chunk.ref.plain_len > _COMPARED):
            yield run
            run, size = [], 0
        run.append(chunk)
        size += chunk.ref.plain_len
    if run:
        yield run


def _data_of(fd: int, begin: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield where there may be something in a hole, in pieces of at most 1 MiB."""
    at, end = begin, begin + length
    while at < end:
        at = max(at, _next_data(fd, at, end))
        if at < end:
            yield at, min(len(ZEROS), end - at)
        at += len(ZEROS)


def _next_data(fd: int, at: int, end: int) -> int:
    """Return where data may begin at or behind `at`, `end` if there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as exc:
        return end if exc.errno == errno.ENXIO else at  # not every device can tell


def not_zero(fd: int, begin: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield offset and length of what is not zero in a hole, in pieces of at most 1 MiB.

    What cannot be read, or lies behind the end of a device, is not zero.
    """
    return (piece for piece in _data_of(fd, begin, length) if not _reads_zero(fd, *piece))


def _reads_zero(fd: int, at: int, size: int) -> bool:
    end = at + size
    while at < end:
        try:
            data = os.pread(fd, end - at, at)  # ends where the disk cannot read on
        except OSError as exc:
            if exc.errno == errno.EIO:
                return False
            raise
        if not data or data != ZEROS[: len(data)]:
            return False
        at += len(data)
    return True
