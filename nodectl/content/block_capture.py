"""Capturing a block image: ranges of 64 MiB read, cut and sealed by workers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nodectl.content.block import BlockManifestWriter
from nodectl.content.block_format import BlockChunk
from nodectl.content.block_source import BlockSource
from nodectl.content.chunker import BLOCK, RANGE, cut
from nodectl.content.frame import FrameCodec
from nodectl.content.manifest import Extent, RootBlock
from nodectl.content.sealing import ChunkSealer
from nodectl.content.workers import WorkerPool
from nodectl.errors import PathUnreadable
from nodectl.events import Observer, StepProgress
from nodectl.ids import Root
from nodectl.store.disk import DiskStore
from nodectl.store.model import StoredFrame
from nodectl.store.packs import PackedFrame

STEP = "capture"
# Bytes read at once: many chunks, and little enough to be in the processor's cache when hashed.
WINDOW = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCaptureReport:
    """What a capture made."""

    root: Root
    block: RootBlock
    size: int  # bytes of the image, holes included
    new_frames: int  # frames that were not in the store before
    new_bytes: int  # their sealed bytes
    free_bytes: int  # of what a file system calls free, not read


class RangeJob(NamedTuple):
    """A range to read; where it has data."""

    number: int
    extents: tuple[Extent, ...]


class RangeResult(NamedTuple):
    """The chunks of a range, and frames that are durable since the worker last spoke."""

    number: int  # -1: no range, only frames
    chunks: list[BlockChunk]
    durable: list[PackedFrame]


class _RangeHandler:
    """A worker: ranges in, frames into packs of its own, references out."""

    def __init__(self, source: BlockSource, packs: Path, index: Path, codec: FrameCodec) -> None:
        self._path = source.path
        self._reader = source.open()
        self._sealer = ChunkSealer(packs, index, codec)
        self._window = memoryview(bytearray(WINDOW))

    def handle(self, job: RangeJob) -> RangeResult:
        """Read, cut and seal one range."""
        chunks = [
            BlockChunk(offset, self._sealer.ref(plain))
            for begin, length in job.extents
            for offset, plain in self._cut(begin, begin + length)
        ]
        # Durable with each range: at most 64 MiB of plain bytes are done again after a crash.
        return RangeResult(job.number, chunks, self._sealer.durable())

    def finish(self) -> RangeResult:
        """Close the last pack."""
        self._reader.close()
        return RangeResult(-1, [], self._sealer.close())

    def _cut(self, begin: int, end: int) -> Iterator[tuple[int, memoryview]]:
        """Yield offset and bytes of the chunks of a piece, which is read window by window.

        A chunk that the end of the window cuts off is read again with the next one: what is cut
        does not depend on the windows, since each chunk is cut from its own beginning.
        """
        while begin < end:
            data = self._window[: end - begin]
            self._read(data, begin)
            until = begin + len(data)
            for offset, size in cut(data, begin):
                if offset + size == until < end:
                    until = offset
                    break
                yield offset, data[offset - begin : offset - begin + size]
            begin = until

    def _read(self, data: memoryview, begin: int) -> None:
        done = 0
        while done < len(data):
            at = begin + done
            try:
                got = self._reader.read_into(data[done:], at)
            except OSError as exc:
                raise PathUnreadable(
                    f"cannot read {self._path} at byte {at}: {exc.strerror or exc}",
                    hint="the kernel's log tells what the disk says",
                ) from exc
            if not got:
                raise PathUnreadable(f"{self._path} became smaller while it was read")
            done += got


def range_jobs(size: int, extents: tuple[Extent, ...]) -> Iterator[RangeJob]:
    """Yield every range that has data, with its extents widened to whole blocks. Pure."""
    waiting: list[Extent] = []
    for at, length in _pieces(size, extents):
        begin, end = at, at + length
        if waiting and waiting[-1][0] // RANGE != at // RANGE:
            yield RangeJob(waiting[0][0] // RANGE, tuple(waiting))
            waiting = []
        if waiting and sum(waiting[-1]) >= at:  # touches the one before it
            begin, before = waiting.pop()
            end = max(end, begin + before)
        waiting.append((begin, end - begin))
    if waiting:
        yield RangeJob(waiting[0][0] // RANGE, tuple(waiting))


def _pieces(size: int, extents: tuple[Extent, ...]) -> Iterator[Extent]:
    for begin, length in extents:
        at, end = begin // BLOCK * BLOCK, min(size, -(-(begin + length) // BLOCK) * BLOCK)
        while at < end:
            until = min(end, (at // RANGE + 1) * RANGE)
            yield at, until - at
            at = until


class _Capture:
    """Puts what workers say into order."""

    def __init__(self, store: DiskStore, writer: BlockManifestWriter, due: Iterator[int]) -> None:
        self._store = store
        self._writer = writer
        self._due = due
        self._wanted = next(due, -1)
        self._waiting: dict[int, list[BlockChunk]] = {}
        self.new_frames = 0
        self.new_bytes = 0
        self.done = 0

    def take(self, result: RangeResult) -> None:
        """Take what a worker says, and write the ranges whose turn it is."""
        self._store.add_packed(result.durable)
        self.new_frames += len(result.durable)
        self.new_bytes += sum(frame.sealed_len for frame in result.durable)
        self.done += sum(chunk.ref.plain_len for chunk in result.chunks)
        if result.number >= 0:
            self._waiting[result.number] = result.chunks
        while self._wanted in self._waiting:
            self._writer.add_range(self._waiting.pop(self._wanted))
            self._wanted = next(self._due, -1)


def capture_block(
    source: BlockSource, store: DiskStore, codec: FrameCodec, observer: Observer
) -> BlockCaptureReport:
    """Capture an image into `store`; the root block is stored last, when all else is durable.

    Raises:
        PathUnreadable, FileChanged, NoSpace: as the words say. What was stored so far stays.
    """
    meta: list[StoredFrame] = []
    writer = BlockManifestWriter(codec, meta.append)
    numbers = [job.number for job in range_jobs(source.size, source.extents)]
    capture = _Capture(store, writer, iter(numbers))
    packs, index = store.packs, store.folder / "index.sqlite"
    with WorkerPool(lambda: _RangeHandler(source, packs, index, codec)) as pool:
        for result in pool.run(range_jobs(source.size, source.extents)):
            capture.take(result)
            observer.on(StepProgress(step=STEP, done=capture.done))
        for result in pool.finish():
            capture.take(result)
    source.check_unchanged()
    root, block, root_frame = writer.finish({"size": source.size})
    store.put_many(meta)
    store.put_many([root_frame])
    return BlockCaptureReport(
        root=root,
        block=block,
        size=source.size,
        new_frames=capture.new_frames,
        new_bytes=capture.new_bytes,
        free_bytes=source.free_bytes,
    )
