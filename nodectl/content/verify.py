"""Comparing a tree with a manifest, entry by entry, every byte read.

The entries are compared by workers, part by part; what a directory holds beyond them is looked for
here. A plain user compares what a plain user could have restored.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from nodectl.content.beneath import Beneath
from nodectl.content.excludes import OWN, Excludes
from nodectl.content.frame import FrameCodec
from nodectl.content.manifest import (
    RECORD_CHUNKS_MAX,
    Entry,
    Kind,
    is_sparse,
    record_places,
    split_path,
)
from nodectl.content.metadata import Powers, differences, same_type
from nodectl.content.own_files import read_own_files
from nodectl.content.reading import read_xattrs
from nodectl.content.tree import TreeManifest
from nodectl.content.workers import WorkerPool
from nodectl.errors import UnsafePath
from nodectl.events import Observer, StepProgress
from nodectl.store.model import Store

STEP = "verify"
NOT_IN_IMAGE = "is not in the image"
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOST_FOUND = b"lost+found"


class Difference(NamedTuple):
    """One way in which a tree is not what the manifest says."""

    path: bytes
    what: str


class PartResult(NamedTuple):
    """What comparing one part found."""

    differences: list[Difference]
    plain_bytes: int  # of file data that was read


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Whether a tree is what a manifest says."""

    entries: int
    plain_bytes: int
    differences: tuple[Difference, ...]


def verify_tree(
    manifest: TreeManifest,
    tree: Path,
    open_store: Callable[[], Store],
    observer: Observer,
    *,
    passed_over: tuple[str, ...] = (),
) -> VerifyReport:
    """Compare `tree` with `manifest`; differences are a result, not an error.

    `open_store` opens, in a worker, the store that holds the manifest; `passed_over` are patterns
    of what may stand in the tree besides.

    Raises:
        PathMissing: there is no such tree.
    """
    with Beneath(tree) as beneath:
        found: list[Difference] = []
        plain_bytes = 0
        with WorkerPool(lambda: VerifyHandler(manifest, open_store, tree)) as pool:
            for result in pool.run(range(manifest.part_count)):
                found += result.differences
                plain_bytes += result.plain_bytes
                total = manifest.block.plain_bytes
                observer.on(StepProgress(step=STEP, done=plain_bytes, total=total))
        own = read_own_files(beneath.root_fd)
        protected = protected_paths(manifest.head, passed_over)
        for directory, names in listings(manifest.entries()):
            found += (
                Difference(path, NOT_IN_IMAGE)
                for path in extra_entries(beneath, directory, names, protected)
                if path not in own.files and path not in own.folders
            )
        found = [one for one in found if one.path not in own.files]
    return VerifyReport(
        entries=manifest.block.entries,
        plain_bytes=plain_bytes,
        differences=tuple(sorted(found)),
    )


def protected_paths(head: dict[str, Any], others: tuple[str, ...] = ()) -> Excludes:
    """Return what an image does not speak of: left as it is on a node, and not compared."""
    # A star in a name protects more than itself, never less.
    mounts = (f"/{path}/*" for path in head.get("mounts_left_out", ()))
    files = (f"/{path}" for path in head.get("files_left_out", ()))
    return Excludes((*head.get("excludes", ()), *OWN, *mounts, *files, *others))


def listings(entries: Iterator[Entry]) -> Iterator[tuple[bytes, frozenset[bytes]]]:
    """Yield each directory of a tree with all the names in it, the empty ones at the end."""
    empty: set[bytes] = set()
    current, names = b"", set[bytes]()
    for entry in entries:
        parent, name = split_path(entry.path)
        if parent != current:
            yield current, frozenset(names)
            empty.discard(parent)
            current, names = parent, set()
        if name:
            names.add(name)
        if entry.kind == Kind.DIRECTORY and name:
            empty.add(entry.path)
    yield current, frozenset(names)
    for directory in sorted(empty):
        yield directory, frozenset()


def extra_entries(
    beneath: Beneath, directory: bytes, names: frozenset[bytes], protected: Excludes
) -> list[bytes]:
    """Return what stands in a directory that is neither in `names`, protected nor a socket."""
    try:
        present = beneath.names(directory)
    except (FileNotFoundError, UnsafePath):
        return []  # reported as a difference of the directory itself
    prefix = directory + b"/" if directory else b""
    paths = (prefix + name for name in present if name not in names and name != _LOST_FOUND)
    return [one for one in paths if not protected.covers(one) and not _is_socket(beneath, one)]


def _is_socket(beneath: Beneath, path: bytes) -> bool:
    """Say whether a socket stands there: no image has one, and its program may be running."""
    status = beneath.status(path)
    return status is not None and stat.S_ISSOCK(status.st_mode)


class VerifyHandler:
    """A worker of a comparison: one part a job."""

    def __init__(self, manifest: TreeManifest, open_store: Callable[[], Store], tree: Path) -> None:
        """Open store and tree anew, for this process."""
        self._manifest = manifest.through(open_store())
        self._codec = manifest.codec
        self._beneath = Beneath(tree)
        self._powers = Powers.of_this_process()
        self._plain_bytes = 0

    def handle(self, job: int) -> PartResult:
        """Compare the entries of one part."""
        found: list[Difference] = []
        self._plain_bytes = 0
        for entry in self._manifest.columns(job).entries():
            try:
                what = self._compare(entry)
            except UnsafePath:
                what = ["is not where it should be: a directory above it is none"]
            except OSError as exc:
                what = [f"cannot be read: {exc.strerror}"]
            found += (Difference(entry.path, one) for one in what)
        return PartResult(found, self._plain_bytes)

    def finish(self) -> PartResult:
        """Nothing is left to do."""
        return PartResult([], 0)

    def _compare(self, entry: Entry) -> list[str]:
        status = self._beneath.status(entry.path)
        if entry.kind in (Kind.CHAR, Kind.BLOCK) and not self._powers.devices:
            return []  # a plain user cannot have made it
        if status is None:
            return ["is missing"]
        match entry.kind:
            case Kind.LINK:
                return self._compare_link(entry, status)
            case Kind.MORE:
                return self._compare_data(entry, status)
            case _:
                return self._compare_itself(entry, status)

    def _compare_itself(self, entry: Entry, status: os.stat_result) -> list[str]:
        if not same_type(entry, status):
            return ["is of another kind"]
        where = self._beneath.by_descriptor(entry.path) if entry.path else self._beneath.root_fd
        found = differences(entry, status, read_xattrs(where), self._powers)
        if entry.kind == Kind.FILE:
            found += self._compare_data(entry, status)
        elif entry.kind == Kind.SYMLINK:
            directory, name = self._beneath.place(entry.path)
            if os.readlink(name, dir_fd=directory) != entry.target:
                found.append("leads elsewhere")
        return found

    def _compare_link(self, entry: Entry, status: os.stat_result) -> list[str]:
        first = self._beneath.status(entry.target)
        if first is None or (first.st_dev, first.st_ino) != (status.st_dev, status.st_ino):
            return [f"is no hard link to {os.fsdecode(entry.target)}"]
        return []

    def _compare_data(self, entry: Entry, status: os.stat_result) -> list[str]:
        if entry.kind == Kind.FILE and status.st_size != entry.size:
            return [f"size {status.st_size}, not {entry.size}"]
        directory, name = self._beneath.place(entry.path)
        fd = os.open(name, _OPEN, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return ["is of another kind"]
            wrong = first_wrong_byte(fd, entry, self._codec, status.st_size)
        finally:
            os.close(fd)
        self._plain_bytes += sum(ref.plain_len for ref in entry.chunks)
        if wrong is not None:
            return [f"content differs from byte {wrong} on"]
        return ["was sparse and is not"] if _lost_holes(entry, status) else []


_ROUNDING = 64 << 10  # bytes; a file system may allocate a little more than the data


def _lost_holes(entry: Entry, status: os.stat_result) -> bool:
    """Say whether most of the holes of a sparse file are allocated."""
    if entry.kind != Kind.FILE or not is_sparse(entry) or not _is_last(entry):
        return False
    data = sum(ref.plain_len for ref in entry.chunks)
    return status.st_blocks * 512 > data + (entry.size - data) // 2 + _ROUNDING


def _is_last(entry: Entry) -> bool:
    return len(entry.chunks) < RECORD_CHUNKS_MAX  # only a full record is followed by MORE


def first_wrong_byte(fd: int, entry: Entry, codec: FrameCodec, file_size: int) -> int | None:
    """Return the offset of the first chunk or hole of a record that an open file does not have."""
    end = entry.size if entry.kind == Kind.MORE and not entry.extents else 0
    if entry.kind == Kind.MORE and entry.extents:
        end = entry.extents[0][0]
    for offset, ref in record_places(entry):
        if offset > end and not _is_zero(fd, end, offset):
            return end
        if codec.chunk_id(os.pread(fd, ref.plain_len, offset)) != ref.chunk_id:
            return offset
        end = offset + ref.plain_len
    if _is_last(entry) and end < file_size and not _is_zero(fd, end, file_size):
        return end
    return None


def _is_zero(fd: int, begin: int, end: int) -> bool:
    """Say whether a range that should be a hole reads as zeros; real holes are not read."""
    at = begin
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return True
        if at >= end:
            return True
        stop = min(end, os.lseek(fd, at, os.SEEK_HOLE), at + (1 << 20))
        if os.pread(fd, stop - at, at).strip(b"\0"):
            return False
        at = stop
    return True
