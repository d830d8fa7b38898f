"""The store on disk: packs of frames and an index that can be made again from them.

    FOLDER/packs/*.pack      the frames (see packs.py): the truth
    FOLDER/index.sqlite      where each frame stands (see index.py): derived
    FOLDER/leases/           who is at work (see lease.py)
    FOLDER/gc.json           what the last gc did (see gc.py)
    FOLDER/scrub.json        how far scrub has come, and what it found (see scrub.py)

Several processes may use one store at the same time: each writes packs of its own, and the index
takes their rows one transaction after the other. On a file system that takes no writes a store can
be read all the same (see read_only.py).
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Self

from nodectl.errors import FrameMissing, NodectlError, StoreInvalid
from nodectl.fsio import make_private_folder
from nodectl.ids import ChunkId, FrameId
from nodectl.store.damage import ERRORS, is_damage, mark_of, outside
from nodectl.store.index import Index
from nodectl.store.model import StoredFrame, StoreStatistics
from nodectl.store.packs import (
    SUFFIX,
    PackedFrame,
    PackFile,
    PackWriter,
    find_copies,
    is_pack,
    read_runs,
    scan,
)
from nodectl.store.read_only import copied_index
from nodectl.store.refusals import as_store_error, is_read_only

log = logging.getLogger(__name__)

_SCAN_BATCH = 10_000  # rows given to the index at once
_FILES_MAX = 256  # packs kept open for reading
_FIND_TRIES = 3  # gc moves frames: who meets a pack that has just gone looks again


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
        self._is_fixed = is_read_only(folder)
        try:
            if not (self._is_fixed and self.packs.is_dir()):
                make_private_folder(folder)
                make_private_folder(self.packs)
        except OSError as exc:
            told = as_store_error(exc, folder)
            if isinstance(told, NodectlError):
                raise told from exc
            raise StoreInvalid(f"cannot use {folder} as a store: {exc.strerror}") from exc
        self._files: dict[str, PackFile] = {}
        self._files_lock = threading.Lock()
        self._writer = PackWriter(self.packs)
        self._writer_lock = threading.Lock()
        self.index = self._open_index()
        if self._is_fixed and catch_up:
            self._prove_index()
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
        with self._files_lock:
            self._files.clear()
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
        for attempt in range(_FIND_TRIES):
            places = self._places(frame_ids)
            try:
                files = {place.pack: self._file(place.pack) for place in places}
            except FileNotFoundError as exc:
                if attempt + 1 == _FIND_TRIES:
                    raise FrameMissing(f"a pack of the store {self.folder} is gone") from exc
                continue
            return read_runs(files, places)
        raise AssertionError("the last try returns or raises")

    def _places(self, frame_ids: Sequence[FrameId]) -> list[PackedFrame]:
        found = self.index.find_many(frame_ids)
        for frame_id in frame_ids:
            if frame_id not in found:
                raise FrameMissing(f"frame {frame_id.hex()} is not in the store {self.folder}")
        return [found[frame_id] for frame_id in frame_ids]

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
        self.index.add(frames)

    def statistics(self) -> StoreStatistics:
        """Return how much is here."""
        frames, sealed_bytes = self.index.totals()
        packs = sum(1 for _ in self.packs.glob(f"*{SUFFIX}"))
        return StoreStatistics(frames=frames, sealed_bytes=sealed_bytes, packs=packs)

    def let_go(self) -> None:
        """Close the packs that gc has deleted, so that their space becomes free."""
        with self._files_lock:
            for pack in [pack for pack, file in self._files.items() if file.is_gone()]:
                del self._files[pack]

    def _file(self, pack: str) -> PackFile:
        with self._files_lock:
            file = self._files.get(pack)
            if file is None:
                file = PackFile(self.packs / f"{pack}{SUFFIX}")
                if len(self._files) >= _FILES_MAX:
                    del self._files[next(iter(self._files))]
                self._files[pack] = file
            return file

    def _open_index(self) -> Index:
        path = self.folder / "index.sqlite"
        if self._is_fixed:
            path = copied_index(path)
        if mark_of(path).exists():
            log.warning("the index %s was found damaged: made again from the packs", path)
        else:
            try:
                return Index(path)
            except ERRORS as exc:
                if not is_damage(exc):
                    raise outside(path, exc) from exc
                log.warning("the index %s is damaged (%s): made again from the packs", path, exc)
        # The mark goes last: who dies before that begins again.
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", mark_of(path).name):
            path.with_name(name).unlink(missing_ok=True)
        return Index(path)

    def _prove_index(self) -> None:
        """Read all of the index at once: nobody can mark it, so that the next who opens it knows.

        Costs a few microseconds for each frame.
        """
        with contextlib.suppress(StoreInvalid):
            self.index.check()
            self.index.check_rows()
            return
        self.index.close()
        self.index = self._open_index()

    def _catch_up(self) -> None:
        """Index what packs hold beyond the index, and forget packs that are gone."""
        indexed = self.index.indexed()
        paths = sorted(self.packs.glob(f"*{SUFFIX}"))
        # First: a frame that gc had copied out of a pack is taken in from its copy only when the
        # index does not hold it in the old place any more.
        lost: set[FrameId] = set()
        for pack in indexed.keys() - {path.stem for path in paths}:
            lost |= self.index.forget_pack(pack)
        for path in paths:
            known, size = indexed.get(path.stem, 0), _size_of(path)
            if size < known:
                log.warning("%s is shorter than it was: indexed again", path)
                lost |= self.index.forget_pack(path.stem)
                known = 0
            if size != known and self._is_fixed:
                with path.open("rb") as file:
                    self._index_tail(file.fileno(), path.stem, known)
            elif size != known:
                self._take_in(path, known)
        self.find_again(lost)

    def find_again(self, frame_ids: AbstractSet[FrameId]) -> None:
        """Look in the packs for copies, which the index does not know, of frames that are lost."""
        wanted = set(self.missing(frame_ids))
        if not wanted:
            return
        for path in sorted(self.packs.glob(f"*{SUFFIX}")):
            try:
                file = PackFile(path)
                # Locked for a moment, so that gc does not delete it meanwhile.
                fcntl.flock(file.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (FileNotFoundError, BlockingIOError):
                continue
            if not file.is_gone():
                self.index.add(find_copies(file.fd, path.stem, wanted), advance=False)

    def _take_in(self, path: Path, known: int) -> None:
        """Index the tail of one pack; cut off what a crash tore, unless a writer lives."""
        try:
            file = path.open("r+b")
        except FileNotFoundError:
            return  # gc was quicker
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # its writer lives and tells the index itself, or gc is about to delete it
            if not os.fstat(file.fileno()).st_nlink:
                return
            end = max(known, self._index_tail(file.fileno(), path.stem, known))
            if known and end < path.stat().st_size:
                # Nothing is cut on the word of the index alone.
                end = self._index_tail(file.fileno(), path.stem, 0)
            if end == 0 and is_pack(file.fileno()):
                path.unlink()  # not one whole record: nothing in it was acknowledged
            elif end == 0:
                log.warning("%s is no pack of this version: left as it is", path)
            elif end < path.stat().st_size:
                log.warning("%s: the last write was torn; cut at %d bytes", path, end)
                os.ftruncate(file.fileno(), end)

    def _index_tail(self, fd: int, pack: str, known: int) -> int:
        """Index the records behind `known`; return where the last of them ends, 0 for none."""
        if not self._is_fixed:
            os.fdatasync(fd)  # what the index names is durable; the writer may have died before
        end = 0
        batch: list[PackedFrame] = []
        for frame in scan(fd, pack, known):
            batch.append(frame)
            end = frame.offset + frame.sealed_len
            if len(batch) >= _SCAN_BATCH:
                self.index.add(batch, just_read=True)
                batch.clear()
        if batch:
            self.index.add(batch, just_read=True)
        return end


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # gc was quicker
        return 0
