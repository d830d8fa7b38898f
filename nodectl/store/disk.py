"""The store on disk: packs of frames and an index that can be made again from them.

    FOLDER/packs/*.pack      the frames (see packs.py): the truth
    FOLDER/index.sqlite      where each frame stands (see index.py): derived

Several processes may use one store at the same time: each writes packs of its own, and the index
takes their rows one transaction after the other.
"""

import contextlib
import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from nodectl.errors import FrameMissing, NoSpace, StoreInvalid
from nodectl.fsio import make_private_folder
from nodectl.ids import ChunkId, FrameId
from nodectl.store.index import Index, is_full
from nodectl.store.model import StoredFrame, StoreStatistics
from nodectl.store.packs import SUFFIX, PackedFrame, PackWriter, is_pack, read_runs, scan

log = logging.getLogger(__name__)

_SCAN_BATCH = 10_000  # rows given to the index at once


class DiskStore:
    """Frames in packs below one folder; may be shared by threads, and the folder by processes."""

    def __init__(self, folder: Path, *, catch_up: bool = True) -> None:
        """Open the store in `folder`, which is made if absent; takes in what a crash left.

        A worker of a process that has the store open already need not `catch_up`.

        Raises:
            StoreInvalid: the folder cannot be used.
        """
        self.folder = folder
        self.packs = folder / "packs"
        try:
            make_private_folder(folder)
            make_private_folder(self.packs)
        except OSError as exc:
            raise StoreInvalid(f"cannot use {folder} as a store: {exc.strerror}") from exc
        self._fds: dict[str, int] = {}
        self._fds_lock = threading.Lock()
        self._writer = PackWriter(self.packs)
        self._writer_lock = threading.Lock()
        self.index = self._open_index()
        if catch_up:
            self._catch_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; what was acknowledged is durable already."""
        with self._writer_lock:
            self._writer.close()
        with self._fds_lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()
        self.index.close()

    def missing(self, frame_ids: Iterable[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are not here, in their order, each once."""
        return self.index.absent(list(dict.fromkeys(frame_ids)))

    def find_chunk(self, chunk_id: ChunkId) -> PackedFrame | None:
        """Return the frame of a chunk that is known already."""
        return self.index.find_chunk(chunk_id)

    def get(self, frame_id: FrameId) -> bytes:
        """Return the sealed bytes of one frame, unchecked."""
        return next(self.get_many((frame_id,)))

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        """Yield the sealed bytes of frames in the order asked; neighbours are read together."""
        found = self.index.find_many(frame_ids)
        for frame_id in frame_ids:
            if frame_id not in found:
                raise FrameMissing(f"frame {frame_id.hex()} is not in the store {self.folder}")
        places = [found[frame_id] for frame_id in frame_ids]
        return read_runs({place.pack: self._fd(place.pack) for place in places}, places)

    def put_many(self, frames: Sequence[StoredFrame]) -> None:
        """Store frames; when it returns they survive kill -9 and power loss."""
        new = {frame.frame_id: frame for frame in frames}
        absent = self.missing(new)
        if not absent:
            return
        with self._writer_lock:
            placed = [self._writer.append(new[frame_id]) for frame_id in absent]
            self._writer.sync()
        self.add_packed(placed)

    def add_packed(self, frames: Iterable[PackedFrame]) -> None:
        """Take frames that a `PackWriter` in `packs` has written and synced into the index."""
        try:
            self.index.add(frames)
        except sqlite3.OperationalError as exc:
            if is_full(exc):
                raise self._no_space() from exc
            raise

    def statistics(self) -> StoreStatistics:
        """Return how much is here."""
        frames, sealed_bytes = self.index.totals()
        packs = sum(1 for _ in self.packs.glob(f"*{SUFFIX}"))
        return StoreStatistics(frames=frames, sealed_bytes=sealed_bytes, packs=packs)

    def _no_space(self) -> NoSpace:
        return NoSpace(
            f"no space left for the store in {self.folder}",
            hint="free space there and start again: what is stored is whole and is not sent twice",
        )

    def _fd(self, pack: str) -> int:
        with self._fds_lock:
            if pack not in self._fds:
                path = self.packs / f"{pack}{SUFFIX}"
                try:
                    self._fds[pack] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError as exc:
                    raise FrameMissing(f"the pack {path} is gone") from exc
            return self._fds[pack]

    def _open_index(self) -> Index:
        path = self.folder / "index.sqlite"
        try:
            return Index(path)
        except sqlite3.DatabaseError as exc:
            if is_full(exc):
                raise self._no_space() from exc
            if isinstance(exc, sqlite3.OperationalError):
                raise StoreInvalid(f"cannot open the index {path}: {exc}") from exc
            log.warning("the index %s is damaged (%s): made again from the packs", path, exc)
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()
        return Index(path)

    def _catch_up(self) -> None:
        """Index what packs hold beyond the index, and forget packs that are gone."""
        indexed = self.index.indexed()
        for path in sorted(self.packs.glob(f"*{SUFFIX}")):
            known, size = indexed.pop(path.stem, 0), path.stat().st_size
            if size < known:
                log.warning("%s is shorter than it was: indexed again", path)
                self.index.forget_pack(path.stem)
                known = 0
            if size != known:
                self._take_in(path, known)
        for pack in indexed:
            self.index.forget_pack(pack)

    def _take_in(self, path: Path, known: int) -> None:
        """Index the tail of one pack; cut off what a crash tore, unless a writer lives."""
        with path.open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # its writer lives and tells the index itself
            end = known
            batch: list[PackedFrame] = []
            for frame in scan(file.fileno(), path.stem, known):
                batch.append(frame)
                end = frame.offset + frame.sealed_len
                if len(batch) >= _SCAN_BATCH:
                    self.index.add(batch)
                    batch.clear()
            if batch:
                self.index.add(batch)
            if end == 0 and is_pack(file.fileno()):
                path.unlink()  # not one whole record: nothing in it was acknowledged
            elif end == 0:
                log.warning("%s is no pack of this version: left as it is", path)
            elif end < path.stat().st_size:
                log.warning("%s: the last write was torn; cut at %d bytes", path, end)
                file.truncate(end)
