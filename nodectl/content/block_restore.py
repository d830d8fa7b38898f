"""Restoring a block image to a file or a device, and comparing one with it.

What stands on the target is its own seed: each chunk is read there first and written only if it
differs, so a target that holds an older generation gets the difference. A file that is made new is
sparse; where `seed` names an older copy on a file system with reflinks it begins as its clone.

Nothing is written before it is known that the image fits and that nobody uses the device. What was
written is made durable, dropped from memory, read back and compared, holes too.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nodectl.content.block import BlockManifest
from nodectl.content.block_format import BlockChunk
from nodectl.content.chunker import RANGE
from nodectl.content.frame import FrameCodec
from nodectl.content.workers import WorkerPool
from nodectl.errors import (
    DiskBusy,
    DiskTooSmall,
    NoSpace,
    PathMissing,
    PathUnreadable,
    ReadBackFailed,
)
from nodectl.events import Observer, StepProgress
from nodectl.fsio import fsync_folder
from nodectl.store.model import Store

STEP = "restore"
CHECK_STEP = "read back"
_BATCH = 48  # chunks of a job: about 6 MiB plain
_COMPARED = 1 << 20  # bytes read at once: they are still in the processor's cache when hashed
_ZEROS = bytes(1 << 20)
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_BLKDISCARD = 0x1277  # linux/fs.h
_BAD_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRestoreOptions:
    """How to write."""

    seed: Path | None = None  # an older copy on the same file system, for a new file
    discard: bool = False  # of a device: discard the holes


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRestoreReport:
    """What a restore did."""

    size: int  # bytes of the image
    written_bytes: int
    kept_bytes: int  # data that was right already
    cleared_bytes: int  # holes that were not zeros


class _Job(NamedTuple):
    """Neighbouring chunks, and the holes before, between and behind them."""

    chunks: tuple[BlockChunk, ...]
    holes: tuple[tuple[int, int], ...]  # offset, length


class _Done(NamedTuple):
    """What became of a job."""

    written: int
    kept: int
    cleared: int
    bad: tuple[tuple[int, int], ...]  # offset, length of what differs


def jobs(manifest: BlockManifest, size: int) -> Iterator[_Job]:
    """Yield the whole image as jobs, in order; every byte is in one chunk or hole."""
    chunks: list[BlockChunk] = []
    holes: list[tuple[int, int]] = []
    at = 0
    for chunk in _all_chunks(manifest):
        holes += _cut(at, chunk.offset)
        chunks.append(chunk)
        at = chunk.offset + chunk.ref.plain_len
        if len(chunks) >= _BATCH or len(holes) >= _BATCH:
            yield from _jobs_of(chunks, holes)
            chunks, holes = [], []
    holes += _cut(at, size)
    yield from _jobs_of(chunks, holes)


def _all_chunks(manifest: BlockManifest) -> Iterator[BlockChunk]:
    return (chunk for chunks in manifest.ranges() for chunk in chunks)


def _jobs_of(chunks: list[BlockChunk], holes: list[tuple[int, int]]) -> Iterator[_Job]:
    """Yield jobs that are small enough for a pipe, however long a hole is."""
    yield _Job(tuple(chunks), tuple(holes[:_BATCH]))
    for begin in range(_BATCH, len(holes), _BATCH):
        yield _Job((), tuple(holes[begin : begin + _BATCH]))


def _cut(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a hole where ranges end, so that a job is never long."""
    while begin < end:
        until = min(end, (begin // RANGE + 1) * RANGE)
        yield begin, until - begin
        begin = until


class _Handler:
    """A worker: writes what differs, or only compares."""

    def __init__(
        self,
        target: Path,
        codec: FrameCodec,
        open_store: Callable[[], Store],
        *,
        fresh: bool,
        discard: bool,
    ) -> None:
        self._codec = codec
        self._comparison = _Comparison(codec)
        self._store = open_store()
        self._fresh = fresh  # a new file: holes are there already, and nothing to keep
        self._discard = discard
        self._fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)

    def handle(self, job: _Job) -> _Done:
        """Bring the ranges of a job to the image."""
        wrong = list(job.chunks)
        if not self._fresh:
            wrong = self._comparison.wrong(self._fd, job.chunks)
        frames = self._store.get_many([chunk.ref.frame_id for chunk in wrong])
        for chunk, sealed in zip(wrong, frames, strict=True):
            _write(self._fd, self._codec.open(sealed, chunk.ref), chunk.offset)
        for begin, length in job.holes if self._discard else ():
            with contextlib.suppress(OSError):  # a device that cannot is none the worse for it
                fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", begin, length))
        cleared = 0 if self._fresh else sum(_clear(self._fd, *hole) for hole in job.holes)
        written = sum(chunk.ref.plain_len for chunk in wrong)
        kept = sum(chunk.ref.plain_len for chunk in job.chunks) - written
        return _Done(written, kept, cleared, ())

    def finish(self) -> _Done:
        """Make all durable."""
        os.fsync(self._fd)
        os.close(self._fd)
        return _Done(0, 0, 0, ())


class _Checker:
    """A worker that compares."""

    def __init__(self, target: Path, codec: FrameCodec) -> None:
        self._comparison = _Comparison(codec)
        self._fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)

    def handle(self, job: _Job) -> _Done:
        """Compare the ranges of a job with the image."""
        bad = [
            (chunk.offset, chunk.ref.plain_len)
            for chunk in self._comparison.wrong(self._fd, job.chunks)
        ]
        for hole in job.holes:
            bad += _not_zero(self._fd, *hole)
        right = sum(chunk.ref.plain_len for chunk in job.chunks)
        return _Done(0, right, 0, tuple(bad))

    def finish(self) -> _Done:
        """Close the target."""
        os.close(self._fd)
        return _Done(0, 0, 0, ())


class _Comparison:
    """Compares chunks with what stands at their places; neighbours are read together."""

    def __init__(self, codec: FrameCodec) -> None:
        self._codec = codec
        self._buffer = memoryview(bytearray(_COMPARED))

    def wrong(self, fd: int, chunks: Sequence[BlockChunk]) -> list[BlockChunk]:
        """Return the chunks that do not stand there."""
        return [chunk for run in _runs(chunks) for chunk in self._wrong_of(fd, run)]

    def _wrong_of(self, fd: int, run: list[BlockChunk]) -> Iterator[BlockChunk]:
        begin = run[0].offset
        size = run[-1].offset + run[-1].ref.plain_len - begin
        found = 0
        while found < size:
            got = os.preadv(fd, [self._buffer[found:size]], begin + found)
            if not got:
                break  # what is behind the end is not there
            found += got
        for chunk in run:
            at = chunk.offset - begin
            end = at + chunk.ref.plain_len
            if end > found or self._codec.chunk_id(self._buffer[at:end]) != chunk.ref.chunk_id:
                yield chunk


def _runs(chunks: Sequence[BlockChunk]) -> Iterator[list[BlockChunk]]:
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


def _write(fd: int, plain: bytes, offset: int) -> None:
    view = memoryview(plain)
    while view:
        try:
            done = os.pwrite(fd, view, offset)
        except OSError as exc:
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise NoSpace("no space left for the image") from exc
            raise
        view, offset = view[done:], offset + done


def _data_of(fd: int, begin: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield where there may be something in a hole, in pieces of at most 1 MiB."""
    at, end = begin, begin + length
    while at < end:
        at = max(at, _next_data(fd, at, end))
        if at < end:
            yield at, min(len(_ZEROS), end - at)
        at += len(_ZEROS)


def _next_data(fd: int, at: int, end: int) -> int:
    """Return where data may begin at or behind `at`, `end` if there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError as exc:
        return end if exc.errno == errno.ENXIO else at  # not every device can tell


def _not_zero(fd: int, begin: int, length: int) -> Iterator[tuple[int, int]]:
    for at, size in _data_of(fd, begin, length):
        data = os.pread(fd, size, at)
        if data != _ZEROS[:size] and data.strip(b"\0"):
            yield at, size


def _clear(fd: int, begin: int, length: int) -> int:
    cleared = 0
    for at, size in _not_zero(fd, begin, length):
        _write(fd, _ZEROS[:size], at)
        cleared += size
    return cleared


# ---------------------------------------------------------------- the target


def restore_block(
    manifest: BlockManifest,
    target: Path,
    open_store: Callable[[], Store],
    options: BlockRestoreOptions,
    observer: Observer,
) -> BlockRestoreReport:
    """Bring a file (made if absent) or a device to the image, and read it back.

    Raises:
        PathMissing: the target is neither, or its folder is not there.
        DiskTooSmall, DiskBusy: nothing was written.
        ReadBackFailed: what was read back is not what was written.
        FrameMissing, ContentInvalid, NoSpace: as the words say; what is written so far is right.
    """
    size = manifest.size
    with _ready(target, size, options) as (path, fresh):
        totals = [0, 0, 0]
        codec = manifest.codec
        discard = options.discard and path.is_block_device()
        with WorkerPool(
            lambda: _Handler(path, codec, open_store, fresh=fresh, discard=discard)
        ) as pool:
            for done in itertools.chain(pool.run(jobs(manifest, size)), _finished(pool)):
                totals = [a + b for a, b in zip(totals, done[:3], strict=True)]
                observer.on(StepProgress(step=STEP, done=totals[0] + totals[1]))
        bad = differences(manifest, path, observer, step=CHECK_STEP)
        if bad:
            raise ReadBackFailed(
                f"{target}: {len(bad)} ranges read back differ from what was written, the first "
                f"at byte {bad[0][0]}",
                hint="the disk or its cable may be failing: the kernel's log tells more",
            )
    return BlockRestoreReport(
        size=size, written_bytes=totals[0], kept_bytes=totals[1], cleared_bytes=totals[2]
    )


def differences(
    manifest: BlockManifest, target: Path, observer: Observer, *, step: str
) -> list[tuple[int, int]]:
    """Return offset and length of what differs between a target and the image, in order.

    Raises:
        PathUnreadable: the target cannot be read.
    """
    size = manifest.size
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
        for result in itertools.chain(pool.run(jobs(manifest, size)), _finished(pool)):
            bad += result.bad
            done += result.kept
            observer.on(StepProgress(step=step, done=done))
    if is_file and found != size:
        bad.append((min(found, size), abs(found - size)))
    return sorted(bad)


def _finished(pool: WorkerPool[_Job, _Done]) -> Iterator[_Done]:
    yield from pool.finish()  # asked for when the jobs are done, not before


@contextlib.contextmanager
def _ready(target: Path, size: int, options: BlockRestoreOptions) -> Iterator[tuple[Path, bool]]:
    """Check and prepare the target, and hold it.

    Yields where to write, and whether that is a new file without data. A new file has another name
    until it is whole.
    """
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        with _new_file(target, size, options.seed) as made:
            yield made
        return
    if stat.S_ISREG(mode):
        os.truncate(target, size)
        yield target, False
    elif stat.S_ISBLK(mode):
        fd = _claimed(target, size)
        try:
            yield target, False
        finally:
            os.close(fd)
    else:
        raise PathMissing(f"{target} is neither a file nor a block device")


@contextlib.contextmanager
def _new_file(target: Path, size: int, seed: Path | None) -> Iterator[tuple[Path, bool]]:
    path = target.with_name(f".{target.name}.nodectl-new")
    path.unlink(missing_ok=True)  # of a run that was killed
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as exc:
        raise PathMissing(f"there is no directory {target.parent}") from exc
    try:
        try:
            cloned = seed is not None and _clone(fd, seed)
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
        yield path, not cloned
        path.rename(target)
        fsync_folder(target.parent)
    finally:
        path.unlink(missing_ok=True)


def _clone(fd: int, seed: Path) -> bool:
    """Let a new file share the blocks of an older copy; False where that cannot be."""
    try:
        source = os.open(seed, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise PathUnreadable(f"cannot read the seed {seed}: {exc.strerror}") from exc
    try:
        fcntl.ioctl(fd, _FICLONE, source)
    except OSError:  # EOPNOTSUPP, EXDEV and the like: it comes from the store then
        return False
    finally:
        os.close(source)
    return True


def _claimed(target: Path, size: int) -> int:
    """Open a device so that nobody else can mount it meanwhile; check that the image fits."""
    try:
        fd = os.open(target, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise DiskBusy(
                f"{target} is mounted, or part of something else that is in use; nothing was "
                "written",
                hint="lsblk shows what uses it",
            ) from exc
        raise PathUnreadable(f"cannot write to {target}: {exc.strerror}") from exc
    found = os.lseek(fd, 0, os.SEEK_END)
    if found < size:
        os.close(fd)
        raise DiskTooSmall(
            f"{target} has {found} bytes and the image {size}; nothing was written",
            hint="name a larger device",
        )
    return fd
