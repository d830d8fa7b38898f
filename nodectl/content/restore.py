"""Restoring a tree: streaming, in any order, and in place.

Three phases. *Prepare* goes through the manifest once, in tree order: it makes directories, links
and special files, compares what stands there, and notes for each span where its frames belong.
*Fill* gives spans to workers as they become available, from the store or straight from the swarm;
each frame is opened, checked and written to every place that wants it. *Finish* completes files of
several chunks, hard links and directories, whose times come last.

A file is complete when its mtime is that of the manifest: a restore that was killed is resumed by a
restore in place, which trusts size and mtime of what it finds (`deep` reads everything instead).
A file that is replaced is written beside the old one and renamed: programs that run from it, and
readers, see the old or the new one, never a part.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nodectl.content.beneath import Beneath
from nodectl.content.columns import Columns
from nodectl.content.manifest import Entry, Kind
from nodectl.content.metadata import Powers, differences, same_type, set_on_descriptor, set_on_name
from nodectl.content.mounts import mount_points_below
from nodectl.content.own_files import read_own_files
from nodectl.content.reading import read_xattrs
from nodectl.content.spans import FrameRow, SpanTable
from nodectl.content.tree import TreeManifest
from nodectl.content.uses import FillJob, Uses
from nodectl.content.verify import extra_entries, first_wrong_byte, listings, protected_paths
from nodectl.content.workers import WorkerPool
from nodectl.content.writing import (
    FillResult,
    RestoreHandler,
    create_temporary,
    is_small,
    move_into_place,
    no_space,
    temporary_path,
    write_whole,
)
from nodectl.errors import ContentInvalid, UnsafePath
from nodectl.events import Note, Observer, StepProgress
from nodectl.run import run
from nodectl.store.model import Store

STEP = "restore"
_LOST_FOUND = b"lost+found"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SYNC_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """How to treat what stands in the target already."""

    keep_extra: bool = False  # leave entries that the image does not have
    deep: bool = False  # read every file that seems right, do not trust size and mtime
    protected: tuple[str, ...] = ()  # patterns of what is neither written nor removed
    fresh: bool = False  # the target is known to hold nothing but nodectl's own store


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """What a restore did."""

    entries: int  # in the manifest
    written_bytes: int  # plain bytes of file data
    written_files: int
    kept_files: int  # found complete
    removed: int  # extra entries
    not_permitted: int  # device nodes that a plain user cannot make
    owners_set: bool  # false: a plain user restored, all belongs to him


def restore_tree(
    manifest: TreeManifest,
    target: Path,
    open_store: Callable[[], Store],
    options: RestoreOptions,
    observer: Observer,
) -> RestoreReport:
    """Restore a manifest whose frames are all in one store; `open_store` opens it in a worker.

    Raises:
        FrameMissing, ContentInvalid, NoSpace, UnsafePath: as the words say.
    """
    with (
        Restore(manifest, target, options, observer) as restore,
        WorkerPool(lambda: RestoreHandler(manifest, open_store, target)) as pool,
    ):
        if restore.fresh:
            restore.fill(pool, restore.jobs_while_preparing())
        else:
            table = restore.prepare()
            restore.fill(pool, restore.jobs(range(len(table))))
        return restore.finish()


class Restore:
    """One restore of one manifest into one directory: prepare, fill, finish."""

    def __init__(
        self, manifest: TreeManifest, target: Path, options: RestoreOptions, observer: Observer
    ) -> None:
        """Open the target, which exists."""
        self._manifest = manifest
        self._options = options
        self._observer = observer
        self._powers = Powers.of_this_process()
        self._target = target
        self._beneath = Beneath(target)
        self._protected = protected_paths(manifest.head, options.protected)
        self._own = read_own_files(self._beneath.root_fd)
        self.fresh = options.fresh or set(self._beneath.names(b"")) <= {_LOST_FOUND}
        # The manifest's frames, of which spans are cut; not wanted where all frames are here.
        self._row: FrameRow | None = FrameRow()
        self._uses = Uses()
        self._table: SpanTable | None = None
        self._total = 0  # plain bytes that will be written, for progress
        self._writing = b""  # the file of several chunks whose records are being prepared
        self._kept_inodes: set[tuple[int, int]] = set()
        self._large: list[Entry] = []  # files of several chunks, without their chunks
        self._links: list[Entry] = []
        self._directories: list[Entry] = []
        self._written_bytes = self._written_files = self._kept = 0
        self._removed = self._not_permitted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._beneath.close()

    # ------------------------------------------------------------ prepare

    def prepare(self) -> SpanTable:
        """Make everything but file data; return the spans of the manifest's frames."""
        with self._full_is_told():
            for part, columns in enumerate(self._manifest.parts()):
                self._prepare_odd(part, columns)
                self._prepare_small(part, columns)
            if not self.fresh and not self._options.keep_extra:
                self._remove_extra()
        self._table = SpanTable(self._row or FrameRow())
        self._total = self._uses.plain_bytes
        return self._table

    def _prepare_odd(self, part: int, columns: Columns) -> None:
        """Prepare all rows of a part but the small files: also what those stand in."""
        if self._row is not None:
            for ref in columns.refs():
                self._row.add(ref)
        for row, small in enumerate(columns.small):
            if not small:
                self._prepare(part, row, columns.entry(row))

    def _prepare_small(self, part: int, columns: Columns) -> None:
        """Prepare the small files of a part."""
        rows = [row for row, small in enumerate(columns.small) if small]
        if self._own.files or not self.fresh:
            for row in rows:
                self._prepare(part, row, columns.entry(row))
            return
        chunks = [columns.chunk_starts[row] for row in rows]
        self._uses.add_small(part, rows, sum(columns.plain_lens[chunk] for chunk in chunks))
        if self._row is not None:
            self._uses.add_frames(self._row.add(columns.ref(chunk)) for chunk in chunks)

    def _prepare(self, part: int, row: int, entry: Entry) -> None:
        if entry.path in self._own.files:
            self._writing = b""  # this node has its own
        else:
            self._prepare_entry(part, row, entry)

    def _prepare_entry(self, part: int, row: int, entry: Entry) -> None:
        match entry.kind:
            case Kind.MORE if entry.path == self._writing:
                self._want(part, row, entry)
            case Kind.MORE:
                pass  # its file is complete already
            case Kind.DIRECTORY:
                self._prepare_directory(entry)
            case Kind.LINK:
                self._links.append(entry)
            case Kind.FILE:
                self._prepare_file(part, row, entry)
            case _ if entry.kind in (Kind.CHAR, Kind.BLOCK) and not self._powers.devices:
                self._not_permitted += 1
            case _:
                self._prepare_special(entry)

    def _want(self, part: int, row: int, entry: Entry) -> None:
        self._uses.add_row(part, row, [ref.plain_len for ref in entry.chunks])
        if self._row is not None:
            self._uses.add_frames(map(self._row.add, entry.chunks))

    def _prepare_directory(self, entry: Entry) -> None:
        self._directories.append(entry)
        if not entry.path or self._stands(entry):
            return
        directory, name = self._beneath.place(entry.path)
        # Also in a fresh target it may be there: a mount point, or the way to the store.
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)

    def _stands(self, entry: Entry) -> bool:
        """Say whether the entry's kind stands there; what stands in its way is removed."""
        if self.fresh:
            return False
        status = self._beneath.status(entry.path)
        if status is None:
            return False
        if same_type(entry, status):
            return True
        if not self._remove(entry.path):
            raise UnsafePath(
                f"{os.fsdecode(entry.path)} cannot be replaced: something is mounted there, or it "
                "holds what the image leaves alone",
                hint="unmount or move it and restore again",
            )
        return False

    def _is_complete(self, entry: Entry) -> bool:
        """Say whether a file stands there as it should be; its metadata is put right."""
        if not self._stands(entry):
            return False
        status = self._beneath.status(entry.path)
        if status is None or (status.st_size, status.st_mtime_ns) != (entry.size, entry.mtime_ns):
            return False
        if status.st_nlink > 1:
            # Two files of the image may be one on the node: the second is written anew.
            if (status.st_dev, status.st_ino) in self._kept_inodes:
                return False
            self._kept_inodes.add((status.st_dev, status.st_ino))
        directory, name = self._beneath.place(entry.path)
        try:
            fd = os.open(name, _OPEN, dir_fd=directory)
        except PermissionError:
            return False
        try:
            if self._options.deep and self._is_damaged(fd, entry):
                return False
            if differences(entry, status, read_xattrs(fd), self._powers):
                set_on_descriptor(fd, entry, self._powers)
        finally:
            os.close(fd)
        return True

    def _is_damaged(self, fd: int, entry: Entry) -> bool:
        codec = self._manifest.codec
        return first_wrong_byte(fd, entry, codec, entry.size) is not None

    def _prepare_file(self, part: int, row: int, entry: Entry) -> None:
        self._writing = b""
        if self._is_complete(entry):
            self._kept += 1
        elif not is_small(entry):
            self._begin_large(entry)
            self._want(part, row, entry)
        elif entry.chunks:
            self._want(part, row, entry)
        else:
            write_whole(self._beneath, entry, b"", self._powers)
            self._written_files += 1

    def _begin_large(self, entry: Entry) -> None:
        fd = create_temporary(self._beneath, entry.path)
        try:
            os.ftruncate(fd, entry.size)
        finally:
            os.close(fd)
        self._writing = entry.path
        self._large.append(entry._replace(chunks=(), extents=()))

    def _prepare_special(self, entry: Entry) -> None:
        """Make a symbolic link, device or fifo, unless it stands there."""
        if self._stands(entry) and self._is_right_special(entry):
            return
        exists = not self.fresh and self._beneath.status(entry.path) is not None
        made = entry._replace(path=temporary_path(entry.path)) if exists else entry
        if exists and self._beneath.status(made.path) is not None:
            self._remove(made.path)
        directory, name = self._beneath.place(made.path)
        match entry.kind:
            case Kind.SYMLINK:
                os.symlink(entry.target, name, dir_fd=directory)
            case Kind.FIFO:
                os.mkfifo(name, 0o600, dir_fd=directory)
            case _:
                form = stat.S_IFCHR if entry.kind == Kind.CHAR else stat.S_IFBLK
                os.mknod(name, form | 0o600, entry.size, dir_fd=directory)
        set_on_name(self._beneath, made, self._powers)
        if exists:
            move_into_place(self._beneath, entry.path)

    def _is_right_special(self, entry: Entry) -> bool:
        status = self._beneath.status(entry.path)
        if status is None:
            return False
        directory, name = self._beneath.place(entry.path)
        if entry.kind == Kind.SYMLINK and os.readlink(name, dir_fd=directory) != entry.target:
            return False
        xattrs = read_xattrs(self._beneath.by_descriptor(entry.path))
        if differences(entry, status, xattrs, self._powers):
            set_on_name(self._beneath, entry, self._powers)
        return True

    # ------------------------------------------------------------ what is extra

    def _remove_extra(self) -> None:
        own = {temporary_path(entry.path) for entry in self._large}
        own |= self._own.files | self._own.folders
        for directory, names in listings(self._manifest.entries()):
            for path in extra_entries(self._beneath, directory, names, self._protected):
                if path not in own and self._remove(path):
                    self._removed += 1

    def _remove(self, path: bytes) -> bool:
        """Remove an entry and all below it, unless something is mounted or protected there."""
        mounts = mount_points_below(self._target, path)
        if mounts:
            self._observer.on(
                Note(text=f"left: {os.fsdecode(path)}, because {mounts[0]} is mounted there")
            )
            return False
        whole = self._beneath.remove(path, self._protected.match)
        if not whole:
            self._observer.on(
                Note(text=f"left: {os.fsdecode(path)}, which holds what the image leaves alone")
            )
        return whole

    # ------------------------------------------------------------ fill

    def fill(self, pool: "WorkerPool[FillJob, FillResult]", jobs: Iterable[FillJob]) -> None:
        """Do the jobs as they come."""
        for result in pool.run(jobs):
            self._written_bytes += result.plain_bytes
            self._written_files += result.files
            self._observer.on(StepProgress(step=STEP, done=self._written_bytes, total=self._total))
        for _ in pool.finish():
            pass

    def jobs_while_preparing(self) -> Iterator[FillJob]:
        """Prepare a fresh target and yield jobs for it at the same time: all frames are here."""
        self._row = None
        self._total = self._manifest.block.plain_bytes
        with self._full_is_told():
            for part, columns in enumerate(self._manifest.parts()):
                self._prepare_odd(part, columns)
                yield from self._uses.new_jobs()
                self._prepare_small(part, columns)
                yield from self._uses.new_jobs()
        yield from self._uses.new_jobs(last=True)

    def jobs(self, spans: Iterable[int]) -> Iterator[FillJob]:
        """Yield the jobs of each span as `spans` yields it; every span once, in any order."""
        if self._table is None:
            raise RuntimeError("prepare comes before fill")
        return self._uses.jobs(self._table, spans)

    @contextlib.contextmanager
    def _full_is_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise no_space(exc, self._target) from exc

    # ------------------------------------------------------------ finish

    def finish(self) -> RestoreReport:
        """Complete large files, links and directories, and make all of it durable."""
        with self._full_is_told():
            for entry in self._large:
                self._finish_large(entry)
            for entry in self._links:
                self._finish_link(entry)
            for entry in reversed(self._directories):
                self._finish_directory(entry)
        run(["sync", "-f", self._target], timeout=_SYNC_TIMEOUT_S)
        return RestoreReport(
            entries=self._manifest.block.entries,
            written_bytes=self._written_bytes,
            written_files=self._written_files + len(self._large),
            kept_files=self._kept,
            removed=self._removed,
            not_permitted=self._not_permitted,
            owners_set=self._powers.owner,
        )

    def _finish_large(self, entry: Entry) -> None:
        directory, name = self._beneath.place(temporary_path(entry.path))
        fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            set_on_descriptor(fd, entry, self._powers)
        finally:
            os.close(fd)
        move_into_place(self._beneath, entry.path)

    def _finish_link(self, entry: Entry) -> None:
        first = self._beneath.status(entry.target)
        status = self._beneath.status(entry.path)
        if first is None:
            if self._powers.devices:
                raise ContentInvalid(
                    f"the image links {entry.path!r} to something it does not have"
                )
            self._not_permitted += 1
            return
        if status is not None and (status.st_dev, status.st_ino) == (first.st_dev, first.st_ino):
            return
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._remove(entry.path)
        path = entry.path if status is None else temporary_path(entry.path)
        if status is not None and self._beneath.status(path) is not None:
            self._remove(path)
        from_directory, from_name = self._beneath.place(entry.target)
        directory, name = self._beneath.place(path)
        os.link(
            from_name,
            name,
            src_dir_fd=from_directory,
            dst_dir_fd=directory,
            follow_symlinks=False,
        )
        if path != entry.path:
            move_into_place(self._beneath, entry.path)

    def _finish_directory(self, entry: Entry) -> None:
        fd = self._beneath.directory(entry.path)
        if self.fresh or differences(entry, os.fstat(fd), read_xattrs(fd), self._powers):
            set_on_descriptor(fd, entry, self._powers)
