"""Writing file data for a restore: frames in, checked bytes into files. Runs in workers.

A file of one chunk is made, filled and completed at once. A file of several chunks has been made by
`restore.py` under a temporary name; here its chunks go to their offsets, in any order.
"""

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest

from nodectl.content.beneath import Beneath
from nodectl.content.columns import Columns
from nodectl.content.frame import CHUNK_MAX, FrameCodec, FrameRef
from nodectl.content.manifest import Entry, Kind, record_places, split_path
from nodectl.content.metadata import Powers, set_on_descriptor
from nodectl.content.reading import read_xattrs
from nodectl.content.tree import TreeManifest
from nodectl.content.uses import FillJob
from nodectl.errors import NoSpace
from nodectl.store.model import Store

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS_KEPT = 6
_FILES_OPEN = 32
_PERMISSIONS = 0o777
PRIVATE = 0o600  # until the entry's own mode is set


class FillResult(NamedTuple):
    """What a job wrote."""

    plain_bytes: int
    files: int  # small files, complete


def temporary_path(path: bytes) -> bytes:
    """Return the name under which a file is written before it takes the place of `path`."""
    parent, _ = split_path(path)
    name = b".nodectl-" + xxh3_64_hexdigest(path).encode() + b".part"
    return parent + b"/" + name if parent else name


def no_space(exc: OSError, target: Path) -> Exception:
    """Return the error for the user if a file system was full, else `exc`."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace(
            f"no space left in {target}",
            hint="free space or take a larger file system; the restore goes on where it stopped",
        )
    return exc


def create(beneath: Beneath, path: bytes) -> tuple[int, bool]:
    """Make a new file for `path`; return its descriptor and whether it must be renamed to it.

    Where something stands at `path`, the file is made under its temporary name.
    """
    directory, name = beneath.place(path)
    try:
        return os.open(name, _CREATE, PRIVATE, dir_fd=directory), False
    except FileExistsError:
        return create_temporary(beneath, path), True


def create_temporary(beneath: Beneath, path: bytes) -> int:
    """Make a new file under the temporary name of `path`; what an earlier run left is removed."""
    directory, name = beneath.place(temporary_path(path))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    return os.open(name, _CREATE, PRIVATE, dir_fd=directory)


def move_into_place(beneath: Beneath, path: bytes) -> None:
    """Rename what stands under the temporary name of `path` to `path`."""
    directory, name = beneath.place(path)
    _, temporary = split_path(temporary_path(path))
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)


def write_whole(beneath: Beneath, entry: Entry, plain: bytes, powers: Powers) -> None:
    """Make a file of at most one chunk, complete."""
    fd, temporary = create(beneath, entry.path)
    try:
        if plain:
            offset = entry.extents[0][0] if entry.extents else 0
            write_at(fd, plain, offset)
        if entry.size != len(plain):
            os.ftruncate(fd, entry.size)
        set_on_descriptor(fd, entry, powers)
    finally:
        os.close(fd)
    if temporary:
        move_into_place(beneath, entry.path)


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


class _Place(NamedTuple):
    """Where a chunk belongs."""

    ref: FrameRef
    columns: Columns
    row: int
    chunk: int  # of the row


_ref_of = itemgetter(0)


class Births:
    """What a new file is by itself, in directories that do not differ in what decides on that.

    Where it is known to be what is wanted, it need not be set on every file.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.owner = _NOBODY  # until the first file is made
        # Mode and owner of files that were made with that mode, and had no extended attributes.
        self.known: set[tuple[int, tuple[int, int]]] = set()

    def learn(self, fd: int, mode: int) -> None:
        """Look at a file that was made with `mode` just now."""
        status = os.fstat(fd)
        self.owner = (status.st_uid, status.st_gid)
        if stat.S_IMODE(status.st_mode) == mode and not read_xattrs(fd):
            self.known.add((mode, self.owner))


_NOBODY = (-1, -1)


class _Nursery(NamedTuple):
    """A directory in which small files are made."""

    path: bytes
    fd: int
    births: Births


class RestoreHandler:
    """A worker of a restore."""

    def __init__(
        self, manifest: TreeManifest, open_store: Callable[[], Store], target: Path
    ) -> None:
        """Open store and target anew: connections and caches are not shared with the parent."""
        os.umask(0)  # of this worker: the mode that a file is made with is its own
        self._store = open_store()
        self._manifest = manifest.through(self._store)
        self._codec: FrameCodec = manifest.codec
        self._target = target
        self._beneath = Beneath(target)
        self._powers = Powers.of_this_process()
        self._parts: OrderedDict[int, Columns] = OrderedDict()
        self._files: OrderedDict[bytes, int] = OrderedDict()
        self._nursery: _Nursery | None = None  # where the last small file was made
        self._births: dict[tuple[int, int, int], Births] = {}
        self._sparse: Entry | None = None  # the sparse record written last, and
        self._offsets: list[int] = []  # where its chunks stand

    def handle(self, job: FillJob) -> FillResult:
        """Write the frames of one job to all their places."""
        try:
            return self._fill(job)
        except OSError as exc:
            raise no_space(exc, self._target) from exc

    def finish(self) -> FillResult:
        """Close the files; what was written is seen by everybody."""
        while self._files:
            os.close(self._files.popitem()[1])
        return FillResult(0, 0)

    def _fill(self, job: FillJob) -> FillResult:
        places = list(self._places(job))
        wanted = [ref for ref, _ in groupby(place.ref for place in places)]
        frames = self._store.get_many([ref.frame_id for ref in wanted])
        plain_bytes = files = 0
        for ref, group in groupby(places, _ref_of):
            plain = self._codec.open(next(frames), ref)
            for place in group:
                files += self._write(place, plain)
                plain_bytes += len(plain)
        return FillResult(plain_bytes, files)

    def _places(self, job: FillJob) -> Iterator[_Place]:
        last, columns = -1, None
        for part, row, chunk in zip(job.parts, job.rows, job.chunks, strict=True):
            if columns is None or part != last:
                last, columns = part, self._columns(part)
            yield _Place(columns.ref(columns.chunk_starts[row] + chunk), columns, row, chunk)

    def _write(self, place: _Place, plain: bytes) -> bool:
        """Write one chunk; say whether it completed a file."""
        columns, row = place.columns, place.row
        if columns.small[row] and not columns.xattr_numbers[row]:
            self._write_small(columns, row, plain)
            return True
        self._nursery = None  # its descriptor may be closed for another
        entry = columns.entry(row)
        if is_small(entry):
            write_whole(self._beneath, entry, plain, self._powers)
            return True
        write_at(self._large(entry.path), plain, self._offset(entry, place.chunk))
        return False

    def _write_small(self, columns: Columns, row: int, plain: bytes) -> None:
        """Make a file of one chunk and no attributes, complete."""
        parent, _, name = columns.paths[row].rpartition(b"/")
        nursery = self._nursery
        if nursery is None or nursery.path != parent:
            nursery = self._nursery = self._enter(parent)
        births = nursery.births
        owner = (columns.uids[row], columns.gids[row]) if self._powers.owner else births.owner
        mode = columns.modes[row]
        born_so = (mode, owner) in births.known
        # Nobody may read it who may not read it in the end; writing takes set-id bits away.
        made = mode if owner == births.owner and mode <= _PERMISSIONS else PRIVATE
        try:
            fd = os.open(name, _CREATE, made, dir_fd=nursery.fd)
        except FileExistsError:
            write_whole(self._beneath, columns.entry(row), plain, self._powers)
            return
        try:
            if not born_so:
                births.learn(fd, made)
            written = os.write(fd, plain)
            if written < len(plain):
                write_at(fd, plain[written:], written)
            if born_so:
                time_ns = columns.mtimes_ns[row]
                os.utime(fd, ns=(time_ns, time_ns))
            else:
                set_on_descriptor(fd, columns.entry(row), self._powers)
        finally:
            os.close(fd)

    def _enter(self, path: bytes) -> _Nursery:
        """Begin to make files in a directory.

        What they are by themselves is up to the file system and the security modules, and to what
        the directory has: its group, the set-gid bit, a default ACL or a label.
        """
        fd = self._beneath.directory(path)
        if read_xattrs(fd):
            return _Nursery(path, fd, Births())
        status = os.fstat(fd)
        key = (status.st_dev, status.st_gid, status.st_mode & stat.S_ISGID)
        return _Nursery(path, fd, self._births.setdefault(key, Births()))

    def _offset(self, entry: Entry, chunk: int) -> int:
        """Return where a chunk of a FILE or MORE record stands in the file."""
        if not entry.extents:
            return (entry.size if entry.kind == Kind.MORE else 0) + chunk * CHUNK_MAX
        if self._sparse is not entry:
            self._sparse = entry
            self._offsets = [offset for offset, _ in record_places(entry)]
        return self._offsets[chunk]

    def _large(self, path: bytes) -> int:
        fd = self._files.get(path)
        if fd is None:
            directory, name = self._beneath.place(temporary_path(path))
            fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            self._files[path] = fd
            if len(self._files) > _FILES_OPEN:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(path)
        return fd

    def _columns(self, part: int) -> Columns:
        columns = self._parts.get(part)
        if columns is None:
            columns = self._parts[part] = self._manifest.columns(part, checked=True)
            if len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)
        else:
            self._parts.move_to_end(part)
        return columns


def is_small(entry: Entry) -> bool:
    """Say whether a file is written at once (only a full FILE record is followed by MORE)."""
    return entry.kind == Kind.FILE and len(entry.chunks) <= 1
