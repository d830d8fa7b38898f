r"""Packs: append-only files of frames, each record telling its own name, so no index is precious.

    pack   = b"NCPACK\0\1" | record ...
    record = magic b"NCFR" | sealed_len u32 | plain_len u32 | frame_id 32 | chunk_id 32 | sealed
             (u32 little-endian)

A pack is written by one process alone, which holds an exclusive flock on it while it may still
grow. A reader that finds bytes behind the last record that the index knows scans them: whole
records with the right FrameId count, and what follows the last of them (the write that a crash
tore) is cut off as soon as nobody holds the lock. Damage between two records costs nothing but what
it hit.
"""

import contextlib
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple, Self

from blake3 import blake3

from nodectl.fsio import fsync_folder, write_all
from nodectl.ids import ChunkId, FrameId
from nodectl.store.model import StoredFrame
from nodectl.store.refusals import as_store_error
from nodectl.units import MIB

PACK_MAX = 64 * MIB  # bytes; a pack is closed by the record that brings it there
PACK_HEADER = b"NCPACK\0\1"
SUFFIX = ".pack"
RECORD = struct.Struct("<4sII32s32s")
_RECORD_MAGIC = b"NCFR"
# Frames are at most 1 MiB and a little; root blocks of huge manifests are a few MiB.
RECORD_MAX = 64 * MIB
_SCAN_WINDOW = MIB
_WRITE_BATCH = 4 * MIB  # bytes gathered before a write call


class PackedFrame(NamedTuple):
    """Where one frame stands."""

    frame_id: FrameId
    chunk_id: ChunkId
    pack: str  # file name without suffix
    offset: int  # of the sealed bytes in the pack file
    sealed_len: int
    plain_len: int


class PackWriter:
    """Appends frames to packs of its own; used by one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Prepare to write into `folder`; the first pack is made with the first frame."""
        self._folder = folder
        self._fd = -1
        self._pack = ""
        self._size = 0  # bytes of the current pack, the unwritten ones included
        self._synced = 0  # bytes of the current pack that are durable
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, frame: StoredFrame) -> PackedFrame:
        """Add one frame; it is durable after the next `sync`.

        Raises:
            NoSpace, StoreInvalid: the file system is full, or read-only. Nothing of what was not
                synced counts.
        """
        if self._fd < 0:
            self._begin()
        sealed = frame.sealed
        header = RECORD.pack(
            _RECORD_MAGIC, len(sealed), frame.plain_len, frame.frame_id, frame.chunk_id
        )
        offset = self._size + RECORD.size
        self._pending += (header, sealed)
        self._size = offset + len(sealed)
        self._pending_bytes += len(header) + len(sealed)
        placed = PackedFrame(
            frame.frame_id, frame.chunk_id, self._pack, offset, len(sealed), frame.plain_len
        )
        if self._pending_bytes >= _WRITE_BATCH:
            self._flush()
        if self._size >= PACK_MAX:
            self.close()
        return placed

    def sync(self) -> None:
        """Make all that was appended durable."""
        if self._fd < 0:
            return
        self._flush()
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            self._abandon()
            raise as_store_error(exc, self._folder) from exc
        self._synced = self._size

    def close(self) -> None:
        """Make all durable and leave the pack to everybody."""
        if self._fd < 0:
            return
        self.sync()
        os.close(self._fd)
        self._fd = -1

    def _begin(self) -> None:
        try:
            while not self._made_pack():
                pass
            os.write(self._fd, PACK_HEADER)
            fsync_folder(self._folder)
        except OSError as exc:
            # A pack without its header takes no frame: the next one begins another.
            if self._fd >= 0:
                (self._folder / f"{self._pack}{SUFFIX}").unlink(missing_ok=True)
            self._abandon()
            raise as_store_error(exc, self._folder) from exc
        self._size = self._synced = len(PACK_HEADER)

    def _made_pack(self) -> bool:
        """Make a pack and lock it; False if somebody took the empty file for a torn one."""
        self._pack = secrets.token_hex(8)
        self._size = self._synced = 0
        path = self._folder / f"{self._pack}{SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        if not os.fstat(fd).st_nlink:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def _flush(self) -> None:
        data = memoryview(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0
        try:
            write_all(self._fd, data)
            # Linux begins to write back what is not needed any more (and keeps it until then), so
            # that the disk is at work before `sync` waits for it.
            os.posix_fadvise(self._fd, self._size - len(data), len(data), os.POSIX_FADV_DONTNEED)
        except OSError as exc:
            self._abandon()
            raise as_store_error(exc, self._folder) from exc

    def _abandon(self) -> None:
        """Leave the pack after a failed write, and give back the space of what does not count."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._synced)
            os.close(self._fd)
        self._fd = -1
        self._pending.clear()
        self._pending_bytes = 0


def is_pack(fd: int) -> bool:
    """Say whether a file begins as a pack of this version does, or is the torn beginning of one."""
    head = os.pread(fd, len(PACK_HEADER), 0)
    return PACK_HEADER.startswith(head)


def scan(fd: int, pack: str, begin: int) -> Iterator[PackedFrame]:
    """Yield the whole and valid records of a pack from offset `begin` (0: from its first).

    What is torn or damaged is passed over: a record counts when its FrameId is right, wherever it
    stands. Records of an undamaged pack follow each other without a gap.
    """
    size = os.fstat(fd).st_size
    at = begin or len(PACK_HEADER)
    while at + RECORD.size <= size:
        frame = _record_at(fd, pack, at, size)
        if frame is None:
            at = _next_magic(fd, at + 1, size)
            continue
        yield frame
        at = frame.offset + frame.sealed_len


def _record_at(fd: int, pack: str, at: int, size: int) -> PackedFrame | None:
    header = os.pread(fd, RECORD.size, at)
    if len(header) < RECORD.size:
        return None
    magic, sealed_len, plain_len, frame_id, chunk_id = RECORD.unpack(header)
    body = at + RECORD.size
    if magic != _RECORD_MAGIC or sealed_len > min(RECORD_MAX, size - body):
        return None
    if blake3(os.pread(fd, sealed_len, body)).digest() != frame_id:
        return None
    return PackedFrame(frame_id, chunk_id, pack, body, sealed_len, plain_len)


def find_copies(fd: int, pack: str, wanted: AbstractSet[FrameId]) -> Iterator[PackedFrame]:
    """Yield the records of a pack with these ids; reads headers, and of the others no bytes."""
    size = os.fstat(fd).st_size
    at = len(PACK_HEADER)
    while at + RECORD.size <= size:
        magic, sealed_len, _, frame_id, _ = RECORD.unpack(os.pread(fd, RECORD.size, at))
        if magic != _RECORD_MAGIC:
            return
        if frame_id in wanted and (frame := _record_at(fd, pack, at, size)) is not None:
            yield frame
        at += RECORD.size + sealed_len


def _next_magic(fd: int, begin: int, size: int) -> int:
    """Return where, from `begin` on, a record may start; the end of the file if nowhere."""
    at = begin
    while window := os.pread(fd, _SCAN_WINDOW, at):
        found = window.find(_RECORD_MAGIC)
        if found >= 0:
            return at + found
        if len(window) < len(_RECORD_MAGIC):
            break
        at += len(window) - len(_RECORD_MAGIC) + 1  # it may lie across two windows
    return size


class PackFile:
    """A pack open for reading, closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        """Open it; `FileNotFoundError` if it is gone."""
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        # getattr: `open` may have failed.
        fd = getattr(self, "fd", -1)
        if fd >= 0:
            os.close(fd)

    def is_gone(self) -> bool:
        """Say whether the pack was deleted; its space is free when nobody has it open."""
        return os.fstat(self.fd).st_nlink == 0


def read_runs(files: Mapping[str, PackFile], frames: Sequence[PackedFrame]) -> Iterator[bytes]:
    """Yield sealed bytes in the order of `frames`, reading neighbours in a pack with one call."""
    first = 0
    while first < len(frames):
        last = first
        begin = frames[first].offset
        end = begin + frames[first].sealed_len
        while last + 1 < len(frames):
            following = frames[last + 1]
            near = following.pack == frames[first].pack and 0 <= following.offset - end <= _GAP
            if not near or following.offset + following.sealed_len - begin > _RUN_MAX:
                break
            last += 1
            end = following.offset + following.sealed_len
        data = os.pread(files[frames[first].pack].fd, end - begin, begin)
        for frame in frames[first : last + 1]:
            yield data[frame.offset - begin : frame.offset - begin + frame.sealed_len]
        first = last + 1


_GAP = 4096  # bytes between two frames that are cheaper read than skipped
_RUN_MAX = 4 * MIB
