"""scrub: reads a whole store back at a bounded rate and takes out what is bad.

One kind of pass: the BLAKE3 of every frame, every record header against the index. A quicker hash
beside it would save nothing: BLAKE3 checks 4 GB/s on one core, and what bounds a scrub is the disk
and the rate that it is allowed.

A bad frame loses its row, so that it counts as missing and is fetched again; a pack with anything
bad in it, even between its frames, is written anew without that, since an index made again from it
must give the same answers. The pass is resumable: packs are checked by name, and scrub.json keeps
the last one done and what was found.
"""

import contextlib
import itertools
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nodectl.errors import StoreBusy
from nodectl.fsio import sole_holder, write_private
from nodectl.store.disk import DiskStore
from nodectl.store.gc import read_rows, rewrite_pack
from nodectl.store.packs import PACK_HEADER, RECORD, SUFFIX, PackedFrame, PackWriter, scan
from nodectl.store.refusals import refuse_read_only

_RESULT = "scrub.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubState:
    """How far a pass is, or what it found when it ended."""

    began: float = 0.0  # seconds since 1970
    ended: float = 0.0  # 0: under way
    after: str = ""  # packs up to this name are done
    packs: int = 0
    frames: int = 0
    checked_bytes: int = 0
    damaged: tuple[str, ...] = ()  # FrameIds that this pass took out
    rewritten: int = 0  # packs written anew

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """How fast to read, and the clocks to do it by."""

    rate: float  # bytes/s, 0: as fast as it goes
    now: Callable[[], float]  # seconds since 1970
    monotonic: Callable[[], float]
    pause: Callable[[float], None]  # waits some seconds; may raise to stop the pass


def last_scrub(folder: Path) -> ScrubState | None:
    """Return the state of the pass under way or done last, None if there was none."""
    try:
        document = json.loads((folder / _RESULT).read_bytes())
        return ScrubState(**{**document, "damaged": tuple(document["damaged"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def scrub(
    store: DiskStore,
    pacing: Pacing,
    *,
    restart: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> ScrubState:
    """Check every pack once, from where the pass before was stopped.

    Raises:
        StoreBusy: another scrub runs.
        StoreInvalid: the index is damaged: nothing was changed.
    """
    with _alone(store.folder):
        store.index.check()
        state = last_scrub(store.folder)
        if state is None or state.ended or restart:
            state = ScrubState(began=pacing.now())
        bucket = _Bucket(pacing)
        while True:
            packs = sorted(path.stem for path in store.packs.glob(f"*{SUFFIX}"))
            pack = next((name for name in packs if name > state.after), None)
            if pack is None:
                break
            state = _scrubbed(store, pack, state, bucket)
            _keep(store.folder, state)
            on_bytes(state.checked_bytes)
        _forget_unplaced(store)
        state = replace(state, ended=pacing.now(), after="")
        _keep(store.folder, state)
    return state


class _Bucket:
    """Holds a rate over time."""

    def __init__(self, pacing: Pacing) -> None:
        self._pacing = pacing
        self._began = pacing.monotonic()
        self._taken = 0

    def take(self, size: int) -> None:
        """Wait until so many bytes more are within the rate."""
        self._taken += size
        if self._pacing.rate <= 0:
            return
        ahead = self._taken / self._pacing.rate - (self._pacing.monotonic() - self._began)
        if ahead > 0:
            self._pacing.pause(ahead)


def _alone(folder: Path) -> AbstractContextManager[None]:
    refuse_read_only(folder)
    busy = StoreBusy(
        f"another scrub works on the store {folder}",
        hint="nodectl serve scrubs by itself; nodectl store status shows how far it is",
    )
    return sole_holder(folder / "scrub.lock", busy)


def _keep(folder: Path, state: ScrubState) -> None:
    write_private(folder / _RESULT, json.dumps(state.to_json()).encode() + b"\n")


def _scrubbed(store: DiskStore, pack: str, state: ScrubState, bucket: _Bucket) -> ScrubState:
    """Return the state after one pack more."""
    path = store.packs / f"{pack}{SUFFIX}"
    # What such a row hid is found below by its record, as a frame that the index does not know.
    store.index.drop_untrue(pack)
    try:
        checked, whole = _check(store, path, bucket)
    except FileNotFoundError:  # gc was quicker
        return replace(state, after=pack)
    state = replace(
        state,
        after=pack,
        packs=state.packs + 1,
        frames=state.frames + checked,
        checked_bytes=state.checked_bytes + store.index.indexed_of(pack),
    )
    if whole:
        return state
    # Whether the condemned are needed is for gc to find out: here they are kept like the others.
    store.index.save(row.frame_id for row in store.index.condemned() if row.pack == pack)
    # First of all nobody shall get a bad frame; the rest is copied when no writer is in the way.
    said = _records(store, path)
    rows = store.index.rows_of(pack)
    bad = [row for row, sealed in read_rows(path, rows) if sealed is None]
    store.index.drop(bad)
    hidden = store.index.unknown([frame.frame_id for frame in said.values()])
    found = [frame for frame in said.values() if frame.frame_id in hidden]
    store.index.add(found, advance=False)
    with PackWriter(store.packs) as writer:
        lost = rewrite_pack(store, pack, writer)
    # Where a whole frame of another name stands, the row was wrong, and no frame is lost by it.
    bad = [row for row in bad if said.get(row.offset, row).frame_id == row.frame_id]
    gone = {frame.frame_id for frame in (*bad, *(lost or ()))}
    store.find_again(gone)
    names = [frame_id.hex() for frame_id in store.missing(sorted(gone))]
    return replace(
        state,
        damaged=(*state.damaged, *names),
        rewritten=state.rewritten + (lost is not None),
    )


def _check(store: DiskStore, path: Path, bucket: _Bucket) -> tuple[int, bool]:
    """Return how many frames a pack has, and whether all of it is as it was written."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # read the disk, not the memory
        # Asked in this order: what is written meanwhile is beyond the end.
        end = store.index.indexed_of(path.stem)
        rows = {row.offset: row for row in store.index.rows_of(path.stem)}
        count, at = 0, len(PACK_HEADER)
        whole = os.pread(fd, at, 0) == PACK_HEADER
        for frame in scan(fd, path.stem, 0):
            if frame.offset > end:
                break
            whole &= frame.offset == at + RECORD.size
            row = rows.pop(frame.offset, None)
            whole &= row == frame or (row is None and not store.index.unknown([frame.frame_id]))
            at = frame.offset + frame.sealed_len
            count += 1
            bucket.take(RECORD.size + frame.sealed_len)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return count, whole and at == end and not rows
    except OSError as exc:
        if isinstance(exc, FileNotFoundError):
            raise
        return 0, False  # EIO: found out frame by frame
    finally:
        os.close(fd)


def _records(store: DiskStore, path: Path) -> dict[int, PackedFrame]:
    """Return the whole records of a pack by their offset, up to where the index knows it."""
    end = store.index.indexed_of(path.stem)
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return {
                frame.offset: frame
                for frame in itertools.takewhile(
                    lambda frame: frame.offset <= end, scan(fd, path.stem, 0)
                )
            }
        finally:
            os.close(fd)
    return {}


def _forget_unplaced(store: DiskStore) -> None:
    """Forget rows of packs that are not there (a damaged index may have them)."""
    named = store.index.packs_of_rows()  # asked first: a pack made meanwhile is not forgotten
    here = {path.stem for path in store.packs.glob(f"*{SUFFIX}")}
    lost = {frame_id for pack in named - here for frame_id in store.index.forget_pack(pack)}
    store.find_again(lost)  # the name of a pack may be what was damaged
