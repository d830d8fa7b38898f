"""Manifests: what a tree is, as a value. Pure. The bytes are in format.py.

A manifest is a small *root block* and *parts*. The root block is plain bytes, its BLAKE3 is the
`Root` that a release signs; it holds no names, only totals and the references of the parts. Parts
are ordinary sealed frames, so that a manifest travels and is stored as everything else does. Part 0
is the *head* (what was left out, where it came from), the others hold entries.

Entries stand in *tree order*: the root directory first, then directory by directory in depth-first
order of their names, in each one all its entries by name (bytes). A part ends behind an entry whose
path hashes so (see `ends_part`), not behind a fixed number: a file that comes or goes changes one
part, and an update sends few of them. The same tree gives the same bytes.

Profile 1: a file's data is cut at every multiple of 1 MiB from its start; a sparse file has
extents (data ranges, whole 4 KiB blocks but for the end of the file), and each is cut at the same
multiples.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from nodectl.content.frame import CHUNK_MAX, FrameRef
from nodectl.errors import ContentInvalid

KIND_TREE = 1
KIND_BLOCK = 2  # see block_format.py

PARTS_MAX = 1 << 16
PATH_MAX = 1 << 15  # bytes; the kernel stops at 4096 for one call, a tree may be deeper
NAME_MAX = 255  # bytes; no Linux file system has longer names
TARGET_MAX = 1 << 15  # bytes
RECORD_CHUNKS_MAX = 4096  # of one record: a larger file goes on in MORE records
XATTRS_MAX = 512 << 10  # bytes of names and values of one entry
# Bytes of records in one part, which is one chunk; beside them it has a header of 28 bytes, and
# `record_bytes` says up to two bytes too little for a record with attributes.
PART_WEIGHT_MAX = CHUNK_MAX - (16 << 10)

_PART_ENTRIES_MIN = 256
_PART_ENTRIES_MAX = 4096
_PART_BYTES_AIM = 400 << 10  # plain bytes; one more record of nearly any size fits a chunk
_PART_CUT_MASK = 0x3FF  # one path in 1024 ends a part
MODE_MAX = 0o7777
_SIZE_MAX = 1 << 62
_DEVICE_MAX = (1 << 32) - 1  # Linux has 12 bits of major and 20 of minor
# An empty component, "." or "..", at either end or between two slashes.
_BAD_COMPONENT = re.compile(rb"(?:^|/)\.{0,2}(?:/|\Z)")  # not $: a name may end in a newline
_TEMPORARY = re.compile(rb"\.nodectl-[0-9a-f]{16}\.part")


class Kind(IntEnum):
    """What an entry is."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    LINK = 4  # a hard link to an earlier entry
    CHAR = 5
    BLOCK = 6
    FIFO = 7
    MORE = 8  # further chunks of the FILE record before it


XAttrs = tuple[tuple[bytes, bytes], ...]
Extent = tuple[int, int]  # offset and length in bytes


class Entry(NamedTuple):
    """One record of a tree.

    A NamedTuple, not a dataclass: a manifest of 70,000 entries must load in 0.3 s.
    """

    path: bytes  # relative, no "." or ".."; b"" is the root directory
    kind: int
    mode: int = 0  # permission bits, at most 0o7777
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0  # FILE: bytes; CHAR, BLOCK: the device number; MORE: offset of its first chunk
    target: bytes = b""  # SYMLINK: its text; LINK: the path of the entry that it is a link to
    xattrs: XAttrs = ()  # by name
    extents: tuple[Extent, ...] = ()  # sparse FILE, MORE: where its data stands; else empty
    chunks: tuple[FrameRef, ...] = ()  # FILE, MORE: at most RECORD_CHUNKS_MAX


class RootBlock(NamedTuple):
    """What a root block says."""

    kind: int
    realm_tag: bytes  # tells images of another realm apart before anything is opened
    entries: int
    plain_bytes: int  # of all files, holes not counted
    sealed_bytes: int  # of all their chunks; one used twice counts twice, so at most this travels
    parts: tuple[FrameRef, ...]


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory and the name of a path; both empty for the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def directory_key(directory: bytes) -> bytes:
    """Return the key by which directories stand in tree order."""
    return directory.replace(b"/", b"\0")


def chunk_places(
    extents: Iterable[Extent], size: int, *, sparse: bool = False
) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the chunks of a file: the cut of profile 1.

    `extents` counts for a sparse file (one all hole has none); else the file is one extent.
    """
    for begin, length in extents if sparse else (((0, size),) if size else ()):
        at, end = begin, begin + length
        while at < end:
            until = min(end, (at // CHUNK_MAX + 1) * CHUNK_MAX)
            yield at, until - at
            at = until


def record_places(entry: Entry) -> Iterator[tuple[int, FrameRef]]:
    """Yield the offset in the file and the chunk, for each chunk of a FILE or MORE record."""
    if not entry.extents:
        at = entry.size if entry.kind == Kind.MORE else 0
        for ref in entry.chunks:
            yield at, ref
            at += ref.plain_len
        return
    places = chunk_places(entry.extents, 0, sparse=True)
    for (offset, _), ref in zip(places, entry.chunks, strict=True):
        yield offset, ref


def is_sparse(entry: Entry) -> bool:
    """Say whether a FILE record has holes (an all-hole file has size but no chunk)."""
    return bool(entry.extents) or (entry.size > 0 and not entry.chunks)


def ends_part(path: bytes, entries: int, plain_bytes: int) -> bool:
    """Say whether a part of so many entries and bytes ends behind the entry `path`."""
    if entries >= _PART_ENTRIES_MAX or plain_bytes >= _PART_BYTES_AIM:
        return True
    return entries >= _PART_ENTRIES_MIN and xxh3_64_intdigest(path) & _PART_CUT_MASK == 0


def is_temporary(name: bytes) -> bool:
    """Say whether a name is one under which a restore writes: see writing.py."""
    return _TEMPORARY.fullmatch(name) is not None


def is_safe_path(path: bytes) -> bool:
    """Say whether a path names something below the root that an image may hold."""
    if not path or len(path) > PATH_MAX or b"\0" in path or _BAD_COMPONENT.search(path):
        return False
    if b".nodectl-" in path and is_temporary(split_path(path)[1]):
        return False
    return len(path) <= NAME_MAX or max(map(len, path.split(b"/"))) <= NAME_MAX


# What an unsafe path shows in a column of paths, each of which has a NUL before and behind it.
_UNSAFE = tuple(
    before + dots + behind
    for dots in (b"", b".", b"..")
    for before in (b"\0", b"/")
    for behind in (b"\0", b"/")
)


def are_safe_paths(paths: Sequence[bytes]) -> bool:
    """Say that all paths are safe but for their lengths; False: `is_safe_path` must tell."""
    column = b"\0" + b"\0".join(paths) + b"\0"
    if b".nodectl-" in column or column.count(b"\0") != len(paths) + 1:
        return False
    return not any(unsafe in column for unsafe in _UNSAFE)


def check_entry(entry: Entry) -> None:
    """Refuse a record that cannot be right by itself.

    Raises:
        ContentInvalid: naming the path and what is wrong.
    """
    path, kind = entry.path, entry.kind
    if not is_safe_path(path) and (path or kind != Kind.DIRECTORY):
        raise ContentInvalid(f"a manifest holds the unsafe path {path[:200]!r}")
    if entry.mode > MODE_MAX:
        raise ContentInvalid(f"the mode of {path!r} in a manifest is impossible")
    if kind in (Kind.FILE, Kind.MORE):
        _check_data(entry)
    elif entry.chunks or entry.extents or kind not in _KINDS:
        raise ContentInvalid(f"the entry {path!r} of a manifest is of no known kind")
    elif kind == Kind.LINK and not is_safe_path(entry.target):
        raise ContentInvalid(f"the link {path!r} of a manifest leads to an unsafe path")
    elif kind == Kind.SYMLINK and not 0 < len(entry.target) <= TARGET_MAX:
        raise ContentInvalid(f"the symbolic link {path!r} of a manifest has no usable target")
    elif kind in (Kind.CHAR, Kind.BLOCK) and entry.size > _DEVICE_MAX:
        raise ContentInvalid(f"the device number of {path!r} in a manifest is impossible")


_KINDS = frozenset(Kind)


def _check_data(entry: Entry) -> None:
    """Refuse a FILE or MORE record whose chunks do not lie as profile 1 cuts them."""
    chunks, size = entry.chunks, entry.size
    if size > _SIZE_MAX or len(chunks) > RECORD_CHUNKS_MAX:
        raise ContentInvalid(f"the record of {entry.path!r} in a manifest is too large")
    if entry.kind == Kind.MORE and not chunks:
        raise ContentInvalid(f"a record of {entry.path!r} in a manifest is empty")
    if entry.extents:
        _check_extents(entry)
        places = chunk_places(entry.extents, 0, sparse=True)
        # Extents may claim more than anyone could list: look one chunk further, no more.
        lengths = [length for _, length in itertools.islice(places, len(chunks) + 1)]
        right = lengths == [ref.plain_len for ref in chunks]
    elif len(chunks) > 1 or entry.kind == Kind.MORE:
        right = all(ref.plain_len == CHUNK_MAX for ref in chunks[:-1])
    else:  # by far the most: a small file, an empty one, or one that is all hole
        right = not chunks or chunks[0].plain_len == min(size, CHUNK_MAX)
    if not right:
        raise ContentInvalid(f"the chunks of {entry.path!r} in a manifest have wrong lengths")


def _check_extents(entry: Entry) -> None:
    end = 0
    for offset, length in entry.extents:
        if offset < end or length == 0 or offset + length > _SIZE_MAX:
            raise ContentInvalid(f"the extents of {entry.path!r} in a manifest are not in order")
        end = offset + length


class TreeOrder:
    """Checks that records stand in tree order and that each file is complete."""

    def __init__(self) -> None:
        """Expect the root directory first."""
        self._directories: set[bytes] = set()
        self._parent = b""
        self._name = b""
        self._file: Entry | None = None  # the file whose chunks are under way
        self._covered = 0  # where the chunks of `_file` have come to
        self._full = False  # its last record is full: only such a one is followed by MORE

    def add(self, entry: Entry) -> None:
        """Take the next record.

        Raises:
            ContentInvalid: it may not stand here.
        """
        if entry.kind == Kind.MORE:
            self._add_more(entry)
            return
        self.end_file()
        parent, name = split_path(entry.path)
        if not self._may_follow(parent, name):
            raise ContentInvalid(f"a manifest holds {entry.path!r} twice or out of order")
        if not self._directories and (entry.path or entry.kind != Kind.DIRECTORY):
            raise ContentInvalid("a manifest does not begin with its root directory")
        self._parent, self._name = parent, name
        if entry.kind == Kind.DIRECTORY:
            self._directories.add(entry.path)
        elif entry.kind == Kind.LINK:
            self._check_link(entry, parent, name)
        elif entry.kind == Kind.FILE and (entry.extents or entry.chunks):
            self._file = entry
            self._covered = _data_end(entry, 0)
            self._full = len(entry.chunks) == RECORD_CHUNKS_MAX
            if not self._full:
                self.end_file()

    def add_small(self, path: bytes) -> None:
        """Take a file that is known to be complete with its one chunk.

        Raises:
            ContentInvalid: it may not stand here.
        """
        if self._file is not None:
            self.end_file()
        parent, _, name = path.rpartition(b"/")
        if parent != self._parent or name <= self._name or not self._directories:
            if not self._directories or not self._may_follow(parent, name):
                raise ContentInvalid(f"a manifest holds {path!r} twice or out of order")
            self._parent = parent
        self._name = name

    def _check_link(self, entry: Entry, parent: bytes, name: bytes) -> None:
        """Refuse a hard link whose target cannot be an earlier entry, or is a directory."""
        target = entry.target
        above, last = split_path(target)
        earlier = (directory_key(above), last) < (directory_key(parent), name)
        if not earlier or above not in self._directories or target in self._directories:
            raise ContentInvalid(f"the link {entry.path!r} of a manifest leads to no earlier file")

    def pass_over(self, paths: Sequence[bytes], directories: Iterable[bytes]) -> None:
        """Take entries that are known to stand right: `directories` are those of `paths`."""
        self.end_file()
        self._directories.update(directories)
        self._parent, self._name = split_path(paths[-1])

    def _may_follow(self, parent: bytes, name: bytes) -> bool:
        if not self._directories:
            return True
        if parent == self._parent:
            return name > self._name
        later = directory_key(parent) > directory_key(self._parent)
        return later and parent in self._directories

    def _add_more(self, entry: Entry) -> None:
        file = self._file
        fits = file is not None and entry.path == file.path and self._full
        if file is None or not fits or bool(entry.extents) != bool(file.extents):
            raise ContentInvalid(f"a manifest holds chunks of {entry.path!r} without its file")
        begin = entry.extents[0][0] if entry.extents else entry.size
        if entry.extents:
            follows = begin >= self._covered
        else:
            follows = begin == self._covered and begin % CHUNK_MAX == 0
        if not follows:
            raise ContentInvalid(f"the chunks of {entry.path!r} in a manifest are not in order")
        self._covered = _data_end(entry, begin)
        self._full = len(entry.chunks) == RECORD_CHUNKS_MAX

    def end_file(self) -> None:
        """Refuse a file that is not complete; also to be called at the end of a manifest."""
        file, self._file = self._file, None
        if file is None:
            return
        complete = self._covered <= file.size if file.extents else self._covered == file.size
        if not complete:
            raise ContentInvalid(f"the chunks of {file.path!r} in a manifest are not complete")


def _data_end(entry: Entry, begin: int) -> int:
    if entry.extents:
        return entry.extents[-1][0] + entry.extents[-1][1]
    return begin + sum(ref.plain_len for ref in entry.chunks)
