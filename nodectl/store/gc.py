"""gc: deletes what no root needs, while captures, fetches and restores go on.

Who may rely on a frame: a root that is remembered (the caller lists what those need), or a running
work that has a lease. A work looks for frames at any time between taking its lease and having its
root remembered, so:

1. Mark. What roots need is listed; what is left, in packs older than the grace period of which most
   is dead, is *condemned*: still here for whoever asks, and saved by asking (index.py).
2. Wait. A work that looked before it was condemned cannot have saved it. The leases that lived just
   after the condemning are noted; as long as one of them lives, nothing condemned is deleted. A run
   that finds some alive ends, and the next one goes on here.
3. Mark again: those works have their roots remembered by now.
4. Sweep, pack by pack, each under its lock: the frames still needed are copied to a new pack and
   made durable, the index is moved over in one transaction, the old pack is deleted.

Killed at any point it leaves a whole store: condemned frames are here until swept, a copy that the
index does not know is garbage for the next run, and a pack that the index has left but that still
stands is taken in again.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from nodectl.errors import StoreBusy
from nodectl.fsio import sole_holder, write_private
from nodectl.ids import FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.lease import living_leases
from nodectl.store.model import StoredFrame
from nodectl.store.packs import PACK_HEADER, SUFFIX, PackedFrame, PackFile, PackWriter, read_runs
from nodectl.store.refusals import refuse_read_only

GRACE_S = 24 * 3600.0
_MOSTLY_DEAD = 0.5  # share of a pack's bytes; below it, copying costs more than it frees
_MARK_BATCH = 5_000
_COPY_BATCH = 256  # rows read together
_SETTLE_TRIES = 100  # a pack whose dead are saved again and again is left to the next run
_RESULT = "gc.json"

Live = Callable[[], Iterable[FrameId]]
"""Lists every frame that a remembered root needs; called again for each marking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcOptions:
    """How careful to be."""

    grace_s: float = GRACE_S  # a pack written to more recently is not touched
    now: float | None = None  # seconds since 1970, None: the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPlan:
    """What a run would do."""

    packs: tuple[str, ...]  # to be deleted, after copying what is needed of them
    dead_frames: int
    dead_bytes: int  # of their records
    copied_bytes: int  # bytes of what is needed in those packs
    young_bytes: int  # dead, but younger than the grace period or in a pack being written
    thin_bytes: int  # dead, in packs of which most is needed
    live_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport:
    """What a run did."""

    plan: GcPlan
    deleted_packs: int
    freed_bytes: int  # of files: those deleted without those written
    waits_for: tuple[str, ...]  # leases that keep what is condemned
    damaged: tuple[str, ...]  # needed frames whose bytes turned out to be bad: now missing
    at: float  # seconds since 1970

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def last_gc(folder: Path) -> dict[str, Any]:
    """Return what the last run said, empty if there was none."""
    with contextlib.suppress(OSError, ValueError):
        document = json.loads((folder / _RESULT).read_bytes())
        return document if isinstance(document, dict) else {}
    return {}


def plan_gc(store: DiskStore, live: Live, options: GcOptions) -> GcPlan:
    """Return what `collect` would do now; changes nothing."""
    return _planned(store, live, options)[0]


def collect(store: DiskStore, live: Live, options: GcOptions) -> GcReport:
    """Delete what nothing needs.

    Raises:
        StoreBusy: another gc runs.
        StoreInvalid: the index is damaged: nothing was deleted.
        NoSpace: there is no room for the copy of a pack that is mostly dead.
        NodectlError: what `live` raises: then nothing was deleted.
    """
    with _alone(store.folder):
        damaged: list[PackedFrame] = []
        before = _file_bytes(store)
        swept = 0
        # Of a run that ended while works were running, or was killed.
        condemned = bool(store.index.condemned())
        left = condemned or bool(_noted(store, "packs"))
        # Nothing is deleted on the word of a damaged index. To find it sound takes about as long as
        # to mark (4 s for a million frames), so only a run that deletes something does it.
        if left:
            store.index.check()
        waits = _waits(store) if condemned else ()
        if left and not waits:
            swept += _sweep(store, live, damaged)
        plan, dead = _planned(store, live, options)
        if plan.packs and not waits:
            if not left:
                store.index.check()
            store.index.condemn(dead)
            store.index.write_note("packs", json.dumps(plan.packs))
            waits = _waits(store)
            if not waits:
                swept += _sweep(store, live, damaged)
        store.let_go()
        report = GcReport(
            plan=plan,
            deleted_packs=swept,
            freed_bytes=before - _file_bytes(store),
            waits_for=waits,
            damaged=tuple(frame.frame_id.hex() for frame in damaged),
            at=time.time() if options.now is None else options.now,
        )
    write_private(store.folder / _RESULT, json.dumps(report.to_json()).encode() + b"\n")
    return report


def _alone(folder: Path) -> AbstractContextManager[None]:
    refuse_read_only(folder)
    busy = StoreBusy(
        f"another gc works on the store {folder}",
        hint="wait until it has ended",
    )
    return sole_holder(folder / "gc.lock", busy)


def _waits(store: DiskStore) -> tuple[str, ...]:
    """Return the leases, still alive, that lived when the frames were condemned."""
    living = living_leases(store.folder)
    noted = _noted(store, "waits")
    if noted is None:  # condemned just now, or by a run that was killed before it wrote them down
        store.index.write_note("waits", json.dumps(living))
        return living
    return tuple(sorted(noted & set(living)))


def _noted(store: DiskStore, name: str) -> set[str] | None:
    """Return a list of names that a run before wrote down; a damaged one counts as none."""
    try:
        return set(map(str, json.loads(store.index.note(name) or "null")))
    except (ValueError, TypeError):
        return None


def _planned(store: DiskStore, live: Live, options: GcOptions) -> tuple[GcPlan, list[PackedFrame]]:
    latest = (time.time() if options.now is None else options.now) - options.grace_s
    with store.index.marking() as marking:
        _mark(marking.mark, live())
        # A damaged row of the index must not let what is needed pass for dead.
        store.find_again(marking.lost())
        needed = marking.needed()
        shares = {  # pack: bytes of dead records, bytes of needed ones
            pack: (indexed - len(PACK_HEADER) - needed.get(pack, 0), needed.get(pack, 0))
            for pack, indexed in store.index.indexed().items()
        }
        young = {pack for pack in shares if not _is_settled(store, pack, latest)}
        packs = tuple(
            pack
            for pack, (dead, kept) in sorted(shares.items())
            if dead > 0 and pack not in young and dead >= _MOSTLY_DEAD * (dead + kept)
        )
        frames = [frame for pack in packs for frame in marking.dead(pack)]
        live_frames = marking.count()
    dead_bytes = sum(shares[pack][0] for pack in packs)
    young_bytes = sum(shares[pack][0] for pack in young)
    plan = GcPlan(
        packs=packs,
        dead_frames=len(frames),
        dead_bytes=dead_bytes,
        copied_bytes=sum(shares[pack][1] for pack in packs),
        young_bytes=young_bytes,
        thin_bytes=sum(dead for dead, _ in shares.values()) - dead_bytes - young_bytes,
        live_frames=live_frames,
    )
    return plan, frames


def _mark(mark: Callable[[Sequence[FrameId]], None], live: Iterable[FrameId]) -> None:
    batch: list[FrameId] = []
    for frame_id in live:
        batch.append(frame_id)
        if len(batch) >= _MARK_BATCH:
            mark(batch)
            batch.clear()
    mark(batch)


def _is_settled(store: DiskStore, pack: str, latest: float) -> bool:
    """Say whether nobody writes to a pack, and nobody has since `latest`."""
    try:
        with _locked(store, pack) as fd:
            return fd is not None and os.fstat(fd).st_mtime <= latest
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _locked(store: DiskStore, pack: str) -> Iterator[int | None]:
    """Lock a pack, so that no other process takes it in.

    None: its writer lives, or has written what the index has not been told yet.
    """
    known = store.index.indexed_of(pack)
    fd = os.open(store.packs / f"{pack}{SUFFIX}", os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield fd if os.fstat(fd).st_size <= known else None
    finally:
        os.close(fd)


def _sweep(store: DiskStore, live: Live, damaged: list[PackedFrame]) -> int:
    """Delete what is condemned and still not needed; return the number of packs deleted."""
    packs = _noted(store, "packs") or set()
    packs |= {frame.pack for frame in store.index.condemned()}
    if not packs:
        return 0
    with store.index.marking() as marking:
        _mark(marking.mark, live())
        store.index.save(marking.marked_of_condemned())
    swept = 0
    with PackWriter(store.packs) as writer:
        for pack in sorted(packs):
            lost = rewrite_pack(store, pack, writer)
            if lost is not None:
                damaged += lost
                swept += 1
    store.index.write_note("packs", "[]")
    return swept


def rewrite_pack(store: DiskStore, pack: str, writer: PackWriter) -> list[PackedFrame] | None:
    """Copy what the index knows of a pack through `writer`, and delete the pack.

    Returns the frames whose bytes were bad, which are missing from now on; None: the pack is in
    use by its writer (or gone) and was left.
    """
    try:
        with _locked(store, pack) as fd:
            return None if fd is None else _rewrite_locked(store, pack, writer)
    except FileNotFoundError:
        store.index.forget_pack(pack)
        return None


def _rewrite_locked(store: DiskStore, pack: str, writer: PackWriter) -> list[PackedFrame] | None:
    copies: dict[FrameId, PackedFrame] = {}
    lost: dict[FrameId, PackedFrame] = {}
    path = store.packs / f"{pack}{SUFFIX}"
    for _ in range(_SETTLE_TRIES):
        rows = [row for row in store.index.rows_of(pack) if row.frame_id not in copies]
        for row, sealed in read_rows(path, [row for row in rows if row.frame_id not in lost]):
            if sealed is None:
                lost[row.frame_id] = row
            else:
                frame = StoredFrame(row.frame_id, row.chunk_id, row.plain_len, sealed)
                copies[row.frame_id] = writer.append(frame)
        writer.sync()
        if store.index.move_pack(pack, copies.values(), lost.values()):
            path.unlink()
            return list(lost.values())
    return None


def read_rows(
    path: Path, rows: Sequence[PackedFrame]
) -> Iterator[tuple[PackedFrame, bytes | None]]:
    """Yield rows of one pack with their bytes, None for those that cannot be read or are wrong."""
    file = PackFile(path)
    for first in range(0, len(rows), _COPY_BATCH):
        batch = rows[first : first + _COPY_BATCH]
        for row, sealed in zip(batch, _read_batch(file, batch), strict=True):
            right = sealed is not None and blake3(sealed).digest() == row.frame_id
            yield row, sealed if right else None


def _read_batch(file: PackFile, rows: Sequence[PackedFrame]) -> Iterator[bytes | None]:
    for row in rows:
        try:
            yield next(read_runs({row.pack: file}, (row,)))
        except OSError:  # EIO: this one is lost, the next may be well
            yield None


def _file_bytes(store: DiskStore) -> int:
    total = 0
    for path in store.packs.glob(f"*{SUFFIX}"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
