"""Writing file data for a restore: frames in, checked bytes into files. Runs in workers.

A file of one chunk is made, filled and completed at once. A file of several chunks has been made by
`restore.py` under a temporary name; here its chunks go to their offsets, in any order.
"""

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_hexdigest

from nodectl.content.beneath import Beneath
from nodectl.content.frame import CHUNK_MAX, FrameCodec
from nodectl.content.manifest import Entry, Kind, record_places, split_path
from nodectl.content.metadata import Powers, set_on_descriptor
from nodectl.content.tree import TreeManifest
from nodectl.content.uses import FillJob, Use
from nodectl.errors import NoSpace
from nodectl.store.model import Store

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS_KEPT = 6
_FILES_OPEN = 32
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


class RestoreHandler:
    """A worker of a restore."""

    def __init__(
        self, manifest: TreeManifest, open_store: Callable[[], Store], target: Path
    ) -> None:
        """Open store and target anew: connections and caches are not shared with the parent."""
        self._store = open_store()
        self._manifest = manifest.through(self._store)
        self._codec: FrameCodec = manifest.codec
        self._target = target
        self._beneath = Beneath(target)
        self._powers = Powers.of_this_process()
        self._parts: OrderedDict[int, list[Entry]] = OrderedDict()
        self._files: OrderedDict[bytes, int] = OrderedDict()
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
        uses = [(self._entry(use), use.chunk) for use in job]
        groups = [
            (ref, [(entry, chunk) for entry, chunk in group])
            for ref, group in groupby(uses, key=lambda use: use[0].chunks[use[1]])
        ]
        plain_bytes = files = 0
        sealed = self._store.get_many([ref.frame_id for ref, _ in groups])
        for (ref, places), frame in zip(groups, sealed, strict=True):
            plain = self._codec.open(frame, ref)
            for entry, chunk in places:
                files += self._write(entry, chunk, plain)
                plain_bytes += len(plain)
        return FillResult(plain_bytes, files)

    def _write(self, entry: Entry, chunk: int, plain: bytes) -> bool:
        """Write one chunk; say whether it completed a file."""
        if is_small(entry):
            write_whole(self._beneath, entry, plain, self._powers)
            return True
        write_at(self._large(entry.path), plain, self._offset(entry, chunk))
        return False

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

    def _entry(self, use: Use) -> Entry:
        rows = self._parts.get(use.part)
        if rows is None:
            rows = self._parts[use.part] = self._manifest.part(use.part, checked=True)
            if len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)
        else:
            self._parts.move_to_end(use.part)
        return rows[use.row]


def is_small(entry: Entry) -> bool:
    """Say whether a file is written at once (only a full FILE record is followed by MORE)."""
    return entry.kind == Kind.FILE and len(entry.chunks) <= 1
