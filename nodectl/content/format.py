"""The exact bytes of manifests. Pure. What they mean is in manifest.py.

Root block (little-endian):

    magic b"NCRT" | version u8 = 1 | kind u8 (1 tree, 2 block image) | profile u16 = kind
    | realm tag 16
    | entries u64 | plain bytes u64 | sealed bytes u64 | part count u32
    | parts: chunk_id 32, frame_id 32, plain_len u32, sealed_len u32 each

Part, plain (little-endian, each column complete before the next):

    magic b"NCPT" | counts u32 * 6: entries n, chunks, extents, xattr sets, bytes of paths,
    bytes of targets
    | kind u8 * n | mode u16 * n | uid u32 * n | gid u32 * n | mtime_ns i64 * n | size u64 * n
    | chunk count u32 * n | extent count u32 * n | xattr set u32 * n (0: none, k: the k-th)
    | extents: offset u64, length u64 each | chunk_id 32 * chunks | frame_id 32 * chunks
    | plain_len u32 * chunks | sealed_len u32 * chunks
    | paths, each ended by NUL | targets of SYMLINK and LINK entries, each ended by NUL
    | xattr sets: count u16, then name length u16, name, value length u32, value each

The head (part 0) is canonical JSON: UTF-8, keys sorted, no spaces. Names that are not UTF-8 stand
in it with surrogate escapes.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, cast

from nodectl.content.columns import Columns
from nodectl.content.frame import CHUNK_MAX, FRAME_MAX, FrameRef
from nodectl.content.manifest import (
    KIND_BLOCK,
    KIND_TREE,
    PARTS_MAX,
    Entry,
    Kind,
    RootBlock,
    XAttrs,
)
from nodectl.errors import ContentInvalid
from nodectl.ids import ID_BYTES, ChunkId, FrameId

ROOT_VERSION = 1
_PROFILES = {KIND_TREE: 1, KIND_BLOCK: 2}  # of each kind there is one so far
HEAD_VERSION = 1

_ROOT = struct.Struct("<4sBBH16sQQQI")
_ROOT_MAGIC = b"NCRT"
_REF = struct.Struct("<32s32sII")
_PART = struct.Struct("<4s6I")
_PART_MAGIC = b"NCPT"

# ---------------------------------------------------------------- bytes of the root block


def encode_root_block(block: RootBlock) -> bytes:
    """Return the exact bytes of a root block."""
    head = _ROOT.pack(
        _ROOT_MAGIC,
        ROOT_VERSION,
        block.kind,
        _PROFILES[block.kind],
        block.realm_tag,
        block.entries,
        block.plain_bytes,
        block.sealed_bytes,
        len(block.parts),
    )
    return head + b"".join(_REF.pack(*ref) for ref in block.parts)


def decode_root_block(data: bytes) -> RootBlock:
    """Return what a root block says.

    Raises:
        ContentInvalid: it is no root block of a version and profile known here.
    """
    if len(data) < _ROOT.size:
        raise ContentInvalid("a root block is too short")
    magic, version, kind, profile, tag, entries, plain, sealed, count = _ROOT.unpack_from(data)
    if magic != _ROOT_MAGIC:
        raise ContentInvalid("this is no root block")
    if version != ROOT_VERSION or _PROFILES.get(kind) != profile:
        raise ContentInvalid(
            f"root block of version {version}, profile {profile}, kind {kind}: "
            "a newer nodectl is needed"
        )
    if not 1 <= count <= PARTS_MAX or len(data) != _ROOT.size + count * _REF.size:
        raise ContentInvalid("a root block has a wrong length")
    parts = tuple(
        _checked_ref(FrameRef(ChunkId(chunk), FrameId(frame), plain_len, sealed_len))
        for chunk, frame, plain_len, sealed_len in _REF.iter_unpack(data[_ROOT.size :])
    )
    return RootBlock(kind, tag, entries, plain, sealed, parts)


def _checked_ref(ref: FrameRef) -> FrameRef:
    if not 0 < ref.plain_len <= CHUNK_MAX or not 0 < ref.sealed_len <= FRAME_MAX:
        raise ContentInvalid(f"frame {ref.frame_id.hex()} has an impossible length")
    return ref


# ---------------------------------------------------------------- bytes of a part


def record_bytes(entry: Entry) -> int:
    """Return how many plain bytes a record takes in its part (an xattr set counted in full)."""
    size = 39 + len(entry.path) + 1 + 16 * len(entry.extents) + 72 * len(entry.chunks)
    size += len(entry.target) + 1
    return size + sum(6 + len(name) + len(value) for name, value in entry.xattrs)


def encode_part(entries: Iterable[Entry]) -> bytes:
    """Return the plain bytes of a part that holds these entries, which stand in tree order."""
    rows = list(entries)
    sets: dict[XAttrs, int] = {}
    numbers = [sets.setdefault(row.xattrs, len(sets) + 1) if row.xattrs else 0 for row in rows]
    chunks = [ref for row in rows for ref in row.chunks]
    extents = [number for row in rows for extent in row.extents for number in extent]
    paths = b"".join(row.path + b"\0" for row in rows)
    targets = b"".join(row.target + b"\0" for row in rows if row.kind in _WITH_TARGET)
    counts = (len(rows), len(chunks), len(extents) // 2, len(sets), len(paths), len(targets))
    n, c = len(rows), len(chunks)
    return b"".join(
        (
            _PART.pack(_PART_MAGIC, *counts),
            bytes(row.kind for row in rows),
            struct.pack(f"<{n}H", *(row.mode for row in rows)),
            struct.pack(f"<{n}I", *(row.uid for row in rows)),
            struct.pack(f"<{n}I", *(row.gid for row in rows)),
            struct.pack(f"<{n}q", *(row.mtime_ns for row in rows)),
            struct.pack(f"<{n}Q", *(row.size for row in rows)),
            struct.pack(f"<{n}I", *(len(row.chunks) for row in rows)),
            struct.pack(f"<{n}I", *(len(row.extents) for row in rows)),
            struct.pack(f"<{n}I", *numbers),
            struct.pack(f"<{len(extents)}Q", *extents),
            b"".join(ref.chunk_id for ref in chunks),
            b"".join(ref.frame_id for ref in chunks),
            struct.pack(f"<{c}I", *(ref.plain_len for ref in chunks)),
            struct.pack(f"<{c}I", *(ref.sealed_len for ref in chunks)),
            paths,
            targets,
            b"".join(_encode_xattrs(one) for one in sets),
        )
    )


_NO_ID = 0xFFFFFFFF  # to chown(2) it means: leave the owner as it is
_WITH_TARGET = frozenset({Kind.SYMLINK, Kind.LINK})


def _encode_xattrs(xattrs: XAttrs) -> bytes:
    pairs = (
        struct.pack("<H", len(name)) + name + struct.pack("<I", len(value)) + value
        for name, value in xattrs
    )
    return struct.pack("<H", len(xattrs)) + b"".join(pairs)


class _Cursor:
    """Takes columns from the front of a part's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, size: int) -> bytes:
        if self._at + size > len(self._data):
            raise ContentInvalid("a part of a manifest is too short")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def column(self, code: str, count: int) -> tuple[int, ...]:
        layout = struct.Struct(f"<{count}{code}")
        return layout.unpack(self.take(layout.size))

    def ids(self, count: int) -> list[bytes]:
        data = self.take(count * ID_BYTES)
        return [data[at : at + ID_BYTES] for at in range(0, len(data), ID_BYTES)]

    def names(self, size: int) -> list[bytes]:
        data = self.take(size)
        if data and not data.endswith(b"\0"):
            raise ContentInvalid("a column of names in a manifest does not end")
        return data.split(b"\0")[:-1]

    def end(self) -> None:
        if self._at != len(self._data):
            raise ContentInvalid("a part of a manifest is too long")


def decode_columns(data: bytes, *, checked: bool = False) -> Columns:
    """Return the rows of a part; each is checked by itself, their order by `TreeOrder`.

    A worker whose parent has `checked` the very same bytes need not do it again.

    Raises:
        ContentInvalid: anything that `encode_part` would not have written.
    """
    cursor = _Cursor(data)
    magic, n, c, e, s, path_bytes, target_bytes = _PART.unpack(cursor.take(_PART.size))
    if magic != _PART_MAGIC:
        raise ContentInvalid("this is no part of a manifest")
    kinds = cursor.take(n)
    modes, uids, gids = cursor.column("H", n), cursor.column("I", n), cursor.column("I", n)
    mtimes, sizes = cursor.column("q", n), cursor.column("Q", n)
    chunk_counts, extent_counts = cursor.column("I", n), cursor.column("I", n)
    xattr_numbers = cursor.column("I", n)
    numbers = cursor.column("Q", 2 * e)
    chunk_ids, frame_ids = cursor.ids(c), cursor.ids(c)
    plain_lens, sealed_lens = cursor.column("I", c), cursor.column("I", c)
    paths, targets = cursor.names(path_bytes), cursor.names(target_bytes)
    sets: list[XAttrs] = [(), *(_decode_xattrs(cursor) for _ in range(s))]
    cursor.end()
    rows_with_target = [row for row, kind in enumerate(kinds) if kind in _WITH_TARGET]
    if (
        len(paths) != n
        or len(targets) != len(rows_with_target)
        or sum(chunk_counts) != c
        or sum(extent_counts) != e
        or max(xattr_numbers, default=0) > s
    ):
        raise ContentInvalid("the columns of a part of a manifest do not fit each other")
    if _NO_ID in uids or _NO_ID in gids:
        raise ContentInvalid("a part of a manifest holds an owner that cannot be")
    if c and not _are_possible(plain_lens, sealed_lens):
        raise ContentInvalid("a part of a manifest holds a frame of an impossible length")
    columns = Columns(
        paths=paths,
        kinds=kinds,
        modes=modes,
        uids=uids,
        gids=gids,
        mtimes_ns=mtimes,
        sizes=sizes,
        small=_small_rows(zip(kinds, sizes, chunk_counts, extent_counts, strict=True), plain_lens),
        xattr_numbers=xattr_numbers,
        extent_starts=tuple(accumulate(extent_counts, initial=0)),
        chunk_starts=tuple(accumulate(chunk_counts, initial=0)),
        targets=dict(zip(rows_with_target, targets, strict=True)),
        xattr_sets=sets,
        extents=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
        chunk_ids=cast("list[ChunkId]", chunk_ids),
        frame_ids=cast("list[FrameId]", frame_ids),
        plain_lens=plain_lens,
        sealed_lens=sealed_lens,
    )
    if not checked:
        columns.check()
    return columns


def _small_rows(rows: Iterable[tuple[int, int, int, int]], plain_lens: Sequence[int]) -> bytes:
    """Return `Columns.small` for rows of kind, size, number of chunks and number of extents."""
    first = 0
    small = bytearray()
    for kind, size, chunks, extents in rows:
        whole = kind == Kind.FILE and chunks == 1 and not extents and plain_lens[first] == size
        small.append(whole)
        first += chunks
    return bytes(small)


def _are_possible(plain_lens: Sequence[int], sealed_lens: Sequence[int]) -> bool:
    """Say whether all frames have lengths that frames can have; there is at least one."""
    fit = max(plain_lens) <= CHUNK_MAX and max(sealed_lens) <= FRAME_MAX
    return fit and min(plain_lens) > 0 and min(sealed_lens) > 0


def _decode_xattrs(cursor: _Cursor) -> XAttrs:
    (count,) = struct.unpack("<H", cursor.take(2))
    pairs = []
    for _ in range(count):
        (name_len,) = struct.unpack("<H", cursor.take(2))
        name = cursor.take(name_len)
        (value_len,) = struct.unpack("<I", cursor.take(4))
        pairs.append((name, cursor.take(value_len)))
    names = [name for name, _ in pairs]
    if not pairs or names != sorted(set(names)) or any(b"\0" in n or not n for n in names):
        raise ContentInvalid("a set of extended attributes in a manifest is not in order")
    return tuple(pairs)


# ---------------------------------------------------------------- the head


def encode_head(document: dict[str, Any]) -> bytes:
    """Return the bytes of a head; `document` holds what JSON can, "version" is added."""
    text = json.dumps({"version": HEAD_VERSION, **document}, sort_keys=True, separators=(",", ":"))
    return text.encode()


def decode_head(data: bytes) -> dict[str, Any]:
    """Return what a head says.

    Raises:
        ContentInvalid: it is no head of a version known here.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ContentInvalid("the head of a manifest is not JSON") from exc
    if not isinstance(document, dict) or document.get("version") != HEAD_VERSION:
        raise ContentInvalid("the head of a manifest is of an unknown version")
    for key in _HEAD_LISTS:
        names = document.get(key, [])
        if not isinstance(names, list) or not all(map(_is_head_name, names)):
            raise ContentInvalid(f"{key!r} in the head of a manifest is no list of names")
    return document


_HEAD_LISTS = ("excludes", "mounts_left_out", "files_left_out")


def _is_head_name(name: object) -> bool:
    """Say whether a value can be a pattern or path: text that stands for bytes, not empty."""
    if not isinstance(name, str) or "\0" in name or not name.strip("/"):
        return False
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
