"""Capturing a tree: walk it, read its files in workers, write the manifest, all as one stream.

The walk runs only as far ahead as the workers are busy, and entries go into the manifest as soon as
all before them are read: memory does not grow with the tree.
"""

import json
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nodectl.content import recapture
from nodectl.content.excludes import Excludes
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import Entry, Kind, RootBlock
from nodectl.content.reading import (
    BatchResult,
    CaptureHandler,
    FileJob,
    FileResult,
    Signature,
    read_xattrs,
)
from nodectl.content.tree import ManifestWriter
from nodectl.content.walk import Found, Walk
from nodectl.content.workers import WorkerPool
from nodectl.errors import FileChanged, PathUnreadable
from nodectl.events import Note, Observer, StepProgress
from nodectl.ids import Root
from nodectl.store.disk import DiskStore
from nodectl.store.model import StoredFrame
from nodectl.units import MIB

STEP = "capture"
_BATCH_FILES = 200  # with paths of at most 4 KiB still small enough for a pipe (see workers.py)
_BATCH_BYTES = 8 * MIB
_BATCH_PATH_BYTES = 32 << 10
_RANGE = 16 * MIB  # a large file is read by several workers, in ranges
_RANGES_FROM = 64 * MIB
_ROWS_AHEAD = 5000  # entries that may wait for being written; more than a part holds
_LEFT_OUT_MAX = 1000  # files that could not be read or kept changing; their names go into the head
_TIME_MAX = 1 << 63  # nanoseconds
_META_BATCH = 8 * MIB  # sealed bytes of manifest parts gathered before they are stored


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureOptions:
    """What to capture, and what to do about what cannot be."""

    excludes: tuple[str, ...] = ()  # patterns, see excludes.py
    mounts: tuple[str, ...] = ()  # mount points below the tree that belong to it
    skip_unreadable: bool = False  # leave out what cannot be read, with a note
    skip_changing: bool = False  # leave out what changes whenever it is read, with a note


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport:
    """What a capture made."""

    root: Root
    block: RootBlock
    excludes: tuple[str, ...]
    left_out: tuple[bytes, ...]  # paths that matched, and mount points not entered
    skipped: tuple[bytes, ...]  # sockets, vanished files, what could not be read
    new_frames: int  # frames that were not in the store before
    new_bytes: int  # their sealed bytes


@dataclass(slots=True)
class _Row:
    """An entry on its way into the manifest."""

    found: Found
    waiting: int = 0  # results still to come
    before: int = -1  # its number in the last capture, if it is as it was
    run: int = 0  # rows up to this one that are as they were, one after the other in both captures
    link_to: bytes = b""
    results: list[FileResult] = field(default_factory=list)


def capture_tree(
    tree: Path,
    store: DiskStore,
    codec: FrameCodec,
    options: CaptureOptions,
    observer: Observer,
    *,
    memory: Path | None = None,
) -> CaptureReport:
    """Capture `tree` into `store`; the root block is stored last, when all else is durable.

    `memory` is a folder in which is remembered what was seen, so that the next capture of the same
    tree reads only what changed (see recapture.py).

    Raises:
        PathMissing, PathUnreadable, EmptyTree, FileChanged, NoSpace: as the words say. What was
            stored so far stays, so that a second run goes on where this one ended.
    """
    excludes = Excludes(options.excludes)
    mounts = frozenset(os.fsencode(path.strip("/")) for path in options.mounts)
    walk = Walk(tree, excludes, mounts, skip_unreadable=options.skip_unreadable)
    packs, index = store.packs, store.folder / "index.sqlite"
    began_ns, removals = time.time_ns(), store.index.removals()
    key = json.dumps([sorted(options.excludes), sorted(options.mounts), codec.realm_tag().hex()])
    record = None if memory is None else recapture.record_path(memory, tree)
    previous = None if record is None else recapture.load(record, key, store, codec)
    with WorkerPool(lambda: CaptureHandler(tree, packs, index, codec)) as pool:
        capture = _Capture(walk, store, codec, options, observer)
        capture.previous = previous
        for batch in pool.run(capture.jobs()):
            capture.take(batch)
        for batch in pool.run(capture.second_jobs()):
            capture.take(batch)
        for batch in pool.finish():
            capture.take(batch)
    report = capture.finish(excludes)
    if record is not None:
        seen = capture.seen
        recapture.save(record, seen, report.root, began_ns=began_ns, removals=removals, key=key)
    return report


class _Capture:
    """The state of one capture: rows in tree order, and what has become of them."""

    def __init__(
        self,
        walk: Walk,
        store: DiskStore,
        codec: FrameCodec,
        options: CaptureOptions,
        observer: Observer,
    ) -> None:
        self._walk = walk
        self._store = store
        self._options = options
        self._observer = observer
        self.previous: recapture.Previous | None = None
        self.seen = recapture.Seen()
        self._last_before, self._last_run = -1, 0  # of the row before
        self._walked = False  # whether the walk is at its end
        self._writer = ManifestWriter(codec, self._put_meta)
        self._meta: list[StoredFrame] = []
        self._meta_bytes = 0
        self._rows: deque[_Row] = deque()
        self._waiting: dict[int, _Row] = {}
        self._again: list[FileJob] = []
        self._links: dict[tuple[int, int], bytes] = {}  # device, inode: the first path
        self._lost_links: set[bytes] = set()  # first paths that were left out after all
        self._skipped: list[bytes] = []
        self._left_out: list[bytes] = []  # those of them that the tree has
        self._plain_bytes = 0
        self._new_frames = 0
        self._new_bytes = 0

    # ------------------------------------------------------------ from the walk to the workers

    def jobs(self) -> Iterator[list[FileJob]]:
        """Walk the tree and yield what workers shall read."""
        batch: list[FileJob] = []
        size = paths = number = 0
        for found in self._walk:
            row = _Row(found)
            self._rows.append(row)
            if self._needs_no_reading(row):
                if len(self._rows) >= _ROWS_AHEAD and not self._rows[0].waiting:
                    self._write_rows()
                continue
            jobs = list(_file_jobs(number, found))
            row.waiting = len(jobs)
            self._waiting[number] = row
            number += 1
            if len(jobs) > 1:
                yield from ([job] for job in jobs)
                continue
            batch += jobs
            size += found.status.st_size
            paths += len(found.path)
            if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES or paths >= _BATCH_PATH_BYTES:
                yield batch
                batch, size, paths = [], 0, 0
        self._walked = True
        if batch:
            yield batch

    def _needs_no_reading(self, row: _Row) -> bool:
        if self.previous is not None:
            row.before = self.previous.number_of(row.found)
            if row.before >= 0:
                follows = row.before == self._last_before + 1
                row.run = self._last_run + 1 if follows else 1
            self._last_before, self._last_run = row.before, row.run
        is_file = stat.S_ISREG(row.found.status.st_mode)
        return not is_file or self._is_later_link(row) or row.before >= 0

    def second_jobs(self) -> Iterator[list[FileJob]]:
        """Yield large files that changed while their ranges were read: once more, by one worker."""
        while self._again:
            yield [self._again.pop()]

    def _is_later_link(self, row: _Row) -> bool:
        status = row.found.status
        if status.st_nlink == 1:
            return False
        first = self._links.setdefault((status.st_dev, status.st_ino), row.found.path)
        row.link_to = first if first != row.found.path else b""
        return bool(row.link_to)

    # ------------------------------------------------------------ from the workers to the manifest

    def take(self, batch: BatchResult) -> None:
        """Take what a worker says, and write the entries that are complete."""
        if batch.durable:
            self._store.add_packed(batch.durable)
            self._new_frames += len(batch.durable)
            self._new_bytes += sum(frame.sealed_len for frame in batch.durable)
        for result in batch.files:
            self._take_file(result)
        self._write_rows()
        self._observer.on(StepProgress(step=STEP, done=self._plain_bytes))

    def _take_file(self, result: FileResult) -> None:
        row = self._waiting[result.number]
        row.results.append(result)
        row.waiting -= 1
        self._plain_bytes += sum(ref.plain_len for ref in result.chunks)
        if row.waiting:
            return
        if len(row.results) > 1 and any(one.changed or one.gone for one in row.results):
            # The ranges are not of one state of the file: all of it once more, by one worker.
            row.results.clear()
            row.waiting = 1
            expected = Signature.of(row.found.status)
            self._again.append(FileJob(result.number, row.found.path, expected))
            return
        del self._waiting[result.number]

    def _write_rows(self) -> None:
        """Write the rows at the front that are complete; parts that are as they were, whole."""
        rows = self._rows
        while rows and rows[0].waiting == 0:
            if self.previous is not None and rows[0].before >= 0 and self._writer.at_boundary:
                part = self.previous.part_at(rows[0].before)
                if part is not None and len(rows) < part.entries and not self._walked:
                    return  # not all of the part is there to be compared
                if part is not None and self._is_all_there(part):
                    self._write_part(part)
                    continue
            self._write(rows.popleft())

    def _is_all_there(self, part: recapture.Reusable) -> bool:
        """Say whether the next rows are just the entries of a part, each as it was."""
        if len(self._rows) < part.entries:
            return False
        return self._rows[part.entries - 1].run >= part.entries

    def _write_part(self, part: recapture.Reusable) -> None:
        found = [self._rows.popleft().found for _ in range(part.entries)]
        for one in found:
            self.seen.add(one.path, one.status)
        folders = (one.path for one in found if stat.S_ISDIR(one.status.st_mode))
        self._writer.reuse_part(part.ref, part.totals, [one.path for one in found], folders)

    def _add(self, entry: Entry, status: os.stat_result) -> None:
        self.seen.add(entry.path, status)
        self._writer.add(entry)

    def _write(self, row: _Row) -> None:
        """Add the entry of a complete row to the manifest, or say why there is none."""
        if row.link_to:
            self._write_link(row)
        elif self.previous is not None and row.before >= 0:
            self._add(self.previous.entry(row.before), row.found.status)
        elif row.results:
            self._write_file(row)
        else:
            self._write_special(row.found)

    def _write_file(self, row: _Row) -> None:
        found, path = row.found, row.found.path
        results = sorted(row.results, key=lambda one: one.begin)
        first = results[0]
        problem = next((one.problem for one in results if one.problem), "")
        if first.gone:
            self._skip(path, "went away while the tree was read")
        elif problem:
            if not self._options.skip_unreadable:
                raise PathUnreadable(
                    f"cannot read {self._shown(path)}: {problem}",
                    hint="run as root, leave it out with --exclude, or use --skip-unreadable",
                )
            self._leave_out(path, f"could not be read ({problem})")
        elif first.changed:
            if not self._options.skip_changing:
                raise FileChanged(
                    f"{self._shown(path)} changed each time it was read",
                    hint="stop what writes it, leave it out with --exclude, or use --skip-changing",
                )
            self._leave_out(path, "changed each time it was read")
        else:
            status = first.status or found.status
            self._add(_file_entry(path, status, results), status)
            return
        self._forget_link(found)

    def _write_link(self, row: _Row) -> None:
        found = row.found
        if row.link_to in self._lost_links:
            self._skip(found.path, "is a hard link to a file that was left out")
            return
        self._add(Entry(path=found.path, kind=Kind.LINK, target=row.link_to), found.status)

    def _write_special(self, found: Found) -> None:
        path, status = found
        absolute = self._walk.absolute(path)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._skip(path, "is a socket, which only its program can make")
            return
        target = b""
        try:
            if kind == Kind.SYMLINK:
                target = os.readlink(absolute)  # noqa: PTH115 - bytes, which Path does not take
            xattrs = read_xattrs(absolute)
        except OSError:
            self._skip(path, "went away while the tree was read")
            return
        entry = _entry(path, kind, status)
        device = status.st_rdev if kind in (Kind.CHAR, Kind.BLOCK) else 0
        self._add(entry._replace(size=device, target=target, xattrs=xattrs), status)

    def _leave_out(self, path: bytes, why: str) -> None:
        """Leave out what is there: a restore in place must not take it for extra."""
        self._left_out.append(path)
        if len(self._left_out) > _LEFT_OUT_MAX:
            raise PathUnreadable(
                f"more than {_LEFT_OUT_MAX} files below {self._shown(b'')} cannot be captured",
                hint="run as root, or leave out their directories with --exclude",
            )
        self._skip(path, why)

    def _skip(self, path: bytes, why: str) -> None:
        self._skipped.append(path)
        self._observer.on(Note(text=f"left out: {self._shown(path)} {why}"))

    def _forget_link(self, found: Found) -> None:
        """Later links to a file that was left out have nothing to link to."""
        if found.status.st_nlink > 1:
            self._lost_links.add(found.path)

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(self._walk.absolute(path))

    # ------------------------------------------------------------ to the store

    def _put_meta(self, frame: StoredFrame) -> None:
        self._meta.append(frame)
        self._meta_bytes += len(frame.sealed)
        if self._meta_bytes >= _META_BATCH:
            self._store.put_many(self._meta)
            self._meta.clear()
            self._meta_bytes = 0

    def finish(self, excludes: Excludes) -> CaptureReport:
        """Store the manifest, its root block last."""
        left_out = tuple(self._walk.left_out)
        for path in self._walk.unreadable:
            self._skip(path, "could not be listed: only the directory itself is in the image")
        # What stands below a directory that could not be listed is as unknown as another mount.
        below = (*self._walk.mounts_left_out, *self._walk.unreadable)
        head = {
            "excludes": list(excludes.patterns),
            "mounts_left_out": [os.fsdecode(path) for path in below],
            "files_left_out": [os.fsdecode(path) for path in self._left_out],
        }
        self.seen.parts = self._writer.parts
        root, block, root_frame = self._writer.finish(head)
        self._store.put_many(self._meta)
        self._store.put_many([root_frame])
        return CaptureReport(
            root=root,
            block=block,
            excludes=excludes.patterns,
            left_out=left_out,
            skipped=tuple(self._skipped),
            new_frames=self._new_frames,
            new_bytes=self._new_bytes,
        )


_KINDS = {
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}


def _file_jobs(number: int, found: Found) -> Iterator[FileJob]:
    """Yield one job, or one for each range of a large file without holes."""
    expected = Signature.of(found.status)
    size = expected.size
    if size < _RANGES_FROM or found.status.st_blocks * 512 < size:
        yield FileJob(number, found.path, expected)
        return
    for begin in range(0, size, _RANGE):
        yield FileJob(number, found.path, expected, begin, min(_RANGE, size - begin))


def _entry(path: bytes, kind: Kind, status: os.stat_result) -> Entry:
    if not -_TIME_MAX <= status.st_mtime_ns < _TIME_MAX:
        raise PathUnreadable(
            f"the time of {os.fsdecode(path)!r} lies outside of the years 1678 to 2262",
            hint="give it another with touch, or leave it out with --exclude",
        )
    return Entry(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
    )


def _file_entry(path: bytes, status: os.stat_result, results: list[FileResult]) -> Entry:
    chunks: tuple[FrameRef, ...] = results[0].chunks
    if len(results) > 1:
        chunks = tuple(ref for result in results for ref in result.chunks)
    return _entry(path, Kind.FILE, status)._replace(
        size=status.st_size,
        xattrs=results[0].xattrs,
        extents=results[0].extents,
        chunks=chunks,
    )
