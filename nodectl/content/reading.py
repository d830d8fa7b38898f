"""Reading files for a capture: consistently, cut into chunks, sealed into packs. Runs in workers.

A file counts as read consistently when its inode, size, mtime and ctime after the last byte are
what they were before the first. A file that changes meanwhile is read again, three times; then the
capture is told, and never gets a torn one. The kernel's file times move in steps of up to 10 ms,
and a write sets them when it begins: so a file that changed just now is read a little later.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import XATTRS_MAX, Extent, XAttrs, chunk_places
from nodectl.content.sealing import ChunkSealer
from nodectl.errors import PathUnreadable
from nodectl.store.packs import PackedFrame

_ATTEMPTS = 4
_SETTLE_NS = 20_000_000  # two steps of the slowest usual clock of the kernel (100 Hz)
_BLOCK = 4096  # holes are whole blocks of this size
# O_NONBLOCK: what was a file when it was listed may be a fifo by now, and opening one would wait.
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# XFS shows root each ACL a second time under its own names; they follow the ACL by themselves.
_SHADOWS = frozenset({"trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"})


class Signature(NamedTuple):
    """What tells one state of a file from another."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Signature":
        """Return the signature of a status."""
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class FileJob(NamedTuple):
    """A file to read, or a range of a large one."""

    number: int
    path: bytes  # below the tree
    expected: Signature
    begin: int = 0
    length: int = -1  # -1: the whole file, with its holes


class FileResult(NamedTuple):
    """What reading a file gave."""

    number: int
    begin: int = 0  # as in the job
    chunks: tuple[FrameRef, ...] = ()
    extents: tuple[Extent, ...] = ()  # where it is sparse
    xattrs: XAttrs = ()
    status: os.stat_result | None = None  # where it is no longer what the walk saw
    problem: str = ""  # why it could not be read
    changed: bool = False  # it changed whenever it was read
    gone: bool = False


class BatchResult(NamedTuple):
    """What a worker has to say: results, and frames that are durable since it last spoke."""

    files: list[FileResult]
    durable: list[PackedFrame]


class _Changed(Exception):
    """The file is not what it was when the reading began."""


class CaptureHandler:
    """A worker of a capture: files in, frames into packs of its own, references out."""

    def __init__(self, tree: Path, packs: Path, index: Path, codec: FrameCodec) -> None:
        """Open the index and get ready to write."""
        self._tree = os.fsencode(tree)
        self._sealer = ChunkSealer(packs, index, codec)
        self._flags = _OPEN | (os.O_NOATIME if os.geteuid() == 0 else 0)

    def handle(self, job: list[FileJob]) -> BatchResult:
        """Read some files."""
        files = [self._file(one) for one in job]
        return BatchResult(files, self._sealer.durable() if self._sealer.is_due else [])

    def finish(self) -> BatchResult:
        """Close the last pack."""
        return BatchResult([], self._sealer.close())

    def _file(self, job: FileJob) -> FileResult:
        path = self._tree + b"/" + job.path
        try:
            fd = os.open(path, self._flags)
        except FileNotFoundError:
            return FileResult(job.number, job.begin, gone=True)
        except OSError as exc:
            return FileResult(job.number, job.begin, problem=exc.strerror or str(exc))
        try:
            return self._read(fd, job)
        except OSError as exc:
            return FileResult(job.number, job.begin, problem=exc.strerror or str(exc))
        finally:
            os.close(fd)

    def _read(self, fd: int, job: FileJob) -> FileResult:
        expected, status = job.expected, None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return FileResult(job.number, job.begin, gone=True)
        for _ in range(1 if job.length >= 0 else _ATTEMPTS):
            _settle(fd, expected)
            try:
                extents, chunks = self._content(fd, expected, job)
                xattrs = read_xattrs(fd)
                after = os.fstat(fd)
                if Signature.of(after) == expected and stat.S_ISREG(after.st_mode):
                    return FileResult(job.number, job.begin, chunks, extents, xattrs, status)
            except _Changed:
                after = os.fstat(fd)
            if not stat.S_ISREG(after.st_mode):
                return FileResult(job.number, job.begin, gone=True)
            expected, status = Signature.of(after), after
        return FileResult(job.number, job.begin, changed=True)

    def _content(
        self, fd: int, expected: Signature, job: FileJob
    ) -> tuple[tuple[Extent, ...], tuple[FrameRef, ...]]:
        """Read and seal the chunks of the job's range; extents are empty where there is no hole."""
        if job.length >= 0:
            wanted: tuple[Extent, ...] = ((job.begin, job.length),)
            return (), tuple(self._chunks(fd, chunk_places(wanted, 0, sparse=True)))
        extents = data_extents(fd, expected.size)
        places = chunk_places(extents, 0, sparse=True)
        chunks = tuple(self._chunks(fd, places))
        dense = extents == ((0, expected.size),) or not expected.size
        return (() if dense else extents), chunks

    def _chunks(self, fd: int, places: Iterator[tuple[int, int]]) -> Iterator[FrameRef]:
        for offset, length in places:
            plain = os.pread(fd, length, offset)
            if len(plain) != length:
                raise _Changed
            yield self._sealer.ref(plain)


def _settle(fd: int, signature: Signature) -> None:
    """Wait until whatever changes the file from now on also changes its ctime.

    Later writes do so once the clock has moved on. One that is under way has set the times already
    and may take long, but it holds the inode's lock, which looking for data takes as well (ext4,
    btrfs, tmpfs; on XFS reading itself waits for it).
    """
    age = time.time_ns() - signature.ctime_ns
    if 0 <= age < _SETTLE_NS:
        time.sleep((_SETTLE_NS - age) / 1e9)
    with contextlib.suppress(OSError):  # ENXIO: it has no data
        os.lseek(fd, 0, os.SEEK_DATA)


def data_extents(fd: int, size: int) -> tuple[Extent, ...]:
    """Return where a file has data: in order, whole 4 KiB blocks but for the end of the file."""
    status = os.fstat(fd)
    if not size:
        return ()
    if status.st_blocks * 512 >= size:
        return ((0, size),)
    extents: list[Extent] = []
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            break
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        begin = begin // _BLOCK * _BLOCK
        end = min(size, -(-at // _BLOCK) * _BLOCK)
        if extents and extents[-1][0] + extents[-1][1] >= begin:
            begin = extents.pop()[0]
        if end > begin:
            extents.append((begin, end - begin))
    return tuple(extents)


def read_xattrs(where: int | bytes) -> XAttrs:
    """Return all extended attributes of an open file, or of an entry by its path, by name.

    Raises:
        PathUnreadable: they are larger than a manifest takes.
    """
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError:  # a file system without them
        return ()
    names = [name for name in names if name not in _SHADOWS]
    if not names:
        return ()
    get: Callable[[str], bytes] = lambda name: os.getxattr(where, name, follow_symlinks=follow)  # noqa: E731
    pairs = tuple(sorted((os.fsencode(name), get(name)) for name in names))
    if sum(len(name) + len(value) for name, value in pairs) > XATTRS_MAX:
        raise PathUnreadable(f"{where!r} has extended attributes of more than {XATTRS_MAX} bytes")
    return pairs
