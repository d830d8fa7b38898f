"""Restoring a block image to a file or a device, and comparing one with it.

What stands on the target is its own seed: each chunk is read there first and written only if it
differs, so a target that holds an older generation gets the difference. A file that is made new is
sparse; where `seed` names an older copy on a file system with reflinks it begins as its clone.

Nothing is written before it is known that the image fits and that nobody uses the device. What was
written is made durable, dropped from memory, read back and compared, holes too; what stood there
already has been read and compared before.
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

from nodectl.content.block import BlockManifest
from nodectl.content.block_compare import (
    ZEROS,
    BlockDone,
    BlockJob,
    Chunks,
    Comparison,
    block_jobs,
    compare,
    finished,
    not_zero,
)
from nodectl.content.block_format import BlockChunk
from nodectl.content.frame import FrameCodec
from nodectl.content.workers import WorkerPool
from nodectl.errors import (
    DiskBusy,
    DiskTooSmall,
    DiskUnwritable,
    NoSpace,
    PathMissing,
    PathUnreadable,
    ReadBackFailed,
)
from nodectl.events import Observer, StepProgress
from nodectl.fsio import fsync_folder, punch_hole
from nodectl.store.model import Store

STEP = "restore"
CHECK_STEP = "read back"
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_BLKDISCARD = 0x1277  # linux/fs.h


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
        self._comparison = Comparison(codec)
        self._store = open_store()
        self._fresh = fresh  # a new file: holes are there already, and nothing to keep
        self._discard = discard
        self._foreign = False  # nothing of the last job stood there
        self._fd = os.open(target, os.O_RDWR | os.O_CLOEXEC)
        self._target = target
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def handle(self, job: BlockJob) -> BlockDone:
        """Bring the ranges of a job to the image."""
        wrong = self._wrong(job.chunks)
        frames = self._store.get_many([chunk.ref.frame_id for chunk in wrong])
        for chunk, sealed in zip(wrong, frames, strict=True):
            plain = self._codec.open(sealed, chunk.ref)
            with _writing(self._target):
                _write(self._fd, plain, chunk.offset)
        for begin, length in job.holes if self._discard else ():
            with contextlib.suppress(OSError):  # a device that cannot is none the worse for it
                fcntl.ioctl(self._fd, _BLKDISCARD, struct.pack("QQ", begin, length))
        cleared = 0 if self._fresh else sum(self._clear(*hole) for hole in job.holes)
        written = sum(chunk.ref.plain_len for chunk in wrong)
        kept = sum(chunk.ref.plain_len for chunk in job.chunks) - written
        self._begin_writing_back(job)
        return BlockDone(job.number, written, kept, cleared, ())

    def _clear(self, begin: int, length: int) -> int:
        """Let a range be zeros, a hole where it can be; return how many bytes were not."""
        wrong = list(not_zero(self._fd, begin, length))
        with _writing(self._target):
            if not self._is_file or not punch_hole(self._fd, begin, length):
                for at, size in wrong:
                    _write(self._fd, ZEROS[:size], at)
        return sum(size for _, size in wrong)

    def finish(self) -> BlockDone:
        """Make all durable."""
        with _writing(self._target):
            os.fsync(self._fd)
        os.close(self._fd)
        return BlockDone(-1, 0, 0, 0, ())

    def _wrong(self, chunks: Chunks) -> Sequence[BlockChunk]:
        """Return the chunks to write: those that do not stand there.

        A target that holds something else altogether is not read from end to end for it: where
        nothing of the last job stood there, nor the first chunk of this one, all is written.
        """
        if self._fresh:
            return chunks
        if self._foreign and self._comparison.wrong(self._fd, chunks[:1]):
            return chunks
        wrong = self._comparison.wrong(self._fd, chunks)
        self._foreign = len(wrong) == len(chunks) > 0
        return wrong

    def _begin_writing_back(self, job: BlockJob) -> None:
        """Let the disk begin with what was written, so that it does not wait for the end.

        What posix_fadvise(2) calls not needed any more, Linux begins to write back at once.
        """
        if job.chunks:
            begin, (last, ref) = job.chunks[0].offset, job.chunks[-1]
            size = last + ref.plain_len - begin
            os.posix_fadvise(self._fd, begin, size, os.POSIX_FADV_DONTNEED)


def _write(fd: int, plain: bytes, offset: int) -> None:
    view = memoryview(plain)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tell what the kernel refuses by its name; a disk may refuse late, when all is flushed."""
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise NoSpace(f"no space left for the image at {target}") from exc
        raise DiskUnwritable(
            f"cannot write to {target}: {exc.strerror}",
            hint="the kernel's log tells what the disk says",
        ) from exc


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
        DiskUnwritable: the target does not take what is written.
        ReadBackFailed: what was read back is not what was written.
        FrameMissing, ContentInvalid, NoSpace: as the words say; what is written so far is right.
    """
    size = manifest.size
    with _ready(target, size, options) as (path, fresh):
        codec = manifest.codec
        discard = options.discard and path.is_block_device()
        done = _bring(
            manifest,
            lambda: _Handler(path, codec, open_store, fresh=fresh, discard=discard),
            observer,
        )
        every = fresh or discard  # of a new file, and of a device's holes, nothing was read before
        touched = {one.number for one in done if every or one.written or one.cleared}
        jobs = (job for job in block_jobs(manifest, size) if job.number in touched)
        _read_back(target, compare(manifest, path, jobs, observer, CHECK_STEP))
    return BlockRestoreReport(
        size=size,
        written_bytes=sum(one.written for one in done),
        kept_bytes=sum(one.kept for one in done),
        cleared_bytes=sum(one.cleared for one in done),
    )


def _bring(
    manifest: BlockManifest, make_handler: Callable[[], _Handler], observer: Observer
) -> list[BlockDone]:
    """Bring all of a target to the image; return what became of each job."""
    found: list[BlockDone] = []
    right = 0
    with WorkerPool(make_handler) as pool:
        for done in itertools.chain(pool.run(block_jobs(manifest, manifest.size)), finished(pool)):
            found.append(done)
            right += done.written + done.kept
            observer.on(StepProgress(step=STEP, done=right))
    return found


def _read_back(target: Path, bad: list[tuple[int, int]]) -> None:
    if bad:
        raise ReadBackFailed(
            f"{target}: {len(bad)} ranges read back differ from what was written, the first "
            f"at byte {bad[0][0]}",
            hint="the disk or its cable may be failing: the kernel's log tells more",
        )


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
        with _writing(target):
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
            with _writing(target):
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
