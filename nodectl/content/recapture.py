"""What a node remembers of its last capture of a tree, so that the next one reads only changes.

For each entry: inode, ctime, mtime and size. An entry that has all four as before is as before, its
extended attributes, owner and mode included (each change of them moves the ctime), and is taken
over from the last manifest; where all entries of a part are, the part's frame is taken over as it
is.

A change within the clock's granularity of the last capture could keep the ctime, so entries that
changed shortly before that capture began, or later, count as changed.

The record is a cache, `FOLDER/<hash of the tree's path>.seen`: one JSON line and then columns,

    inode u64 * n | ctime_ns i64 * n | mtime_ns i64 * n | size u64 * n | paths, each ended by NUL

in native byte order, since it never leaves the node. One that does not fit its manifest or the
store is not used.
"""

import json
import os
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import Entry, Kind
from nodectl.content.tree import PartTotals, TreeManifest
from nodectl.content.walk import Found
from nodectl.errors import NodectlError
from nodectl.fsio import make_private_folder, write_private
from nodectl.ids import Root, id_from_hex
from nodectl.store.disk import DiskStore

_VERSION = 1
_GRANULARITY_NS = 20_000_000  # of ctime: a tick of the slowest kernel clock, twice
_PARTS_KEPT = 4


class Reusable(NamedTuple):
    """A part that may be taken over whole."""

    ref: FrameRef
    totals: PartTotals
    entries: int


class Seen:
    """The columns of one capture."""

    def __init__(self) -> None:
        """Begin empty."""
        self.inodes = array("Q")
        self.ctimes = array("q")
        self.mtimes = array("q")
        self.sizes = array("Q")
        self.paths: list[bytes] = []
        self.parts: list[PartTotals] = []

    def add(self, path: bytes, status: os.stat_result) -> None:
        """Remember one entry, in tree order."""
        self.inodes.append(status.st_ino)
        self.ctimes.append(status.st_ctime_ns)
        self.mtimes.append(status.st_mtime_ns)
        self.sizes.append(status.st_size)
        self.paths.append(path)

    def is_same(self, number: int, status: os.stat_result) -> bool:
        """Say whether an entry is as it was."""
        return (
            self.ctimes[number] == status.st_ctime_ns
            and self.inodes[number] == status.st_ino
            and self.mtimes[number] == status.st_mtime_ns
            and self.sizes[number] == status.st_size
        )


def record_path(folder: Path, tree: Path) -> Path:
    """Return where the record of a tree is kept."""
    return folder / f"{blake3(os.fsencode(tree.resolve())).hexdigest(16)}.seen"


def save(path: Path, seen: Seen, root: Root, *, began_ns: int, removals: int, key: str) -> None:
    """Write a record; `key` stands for the options that the capture had."""
    head = {
        "version": _VERSION,
        "root": root.hex(),
        "began_ns": began_ns,
        "removals": removals,
        "key": key,
        "entries": len(seen.paths),
        "parts": [[p.first, p.whole, p.plain_bytes, p.sealed_bytes] for p in seen.parts],
    }
    columns = (seen.inodes, seen.ctimes, seen.mtimes, seen.sizes)
    make_private_folder(path.parent)
    data = [json.dumps(head).encode(), b"\n", *(column.tobytes() for column in columns)]
    write_private(path, b"".join([*data, *(name + b"\0" for name in seen.paths)]))


def load(path: Path, key: str, store: DiskStore, codec: FrameCodec) -> "Previous | None":
    """Return the last capture that had these options, if all that it stored is still here."""
    try:
        line, _, data = path.read_bytes().partition(b"\n")
        head = json.loads(line)
        if (head["version"], head["key"]) != (_VERSION, key):
            return None
        seen = _columns(head, data)
        manifest = TreeManifest.open(Root(id_from_hex(head["root"])), store, codec)
        if len(seen.parts) != manifest.part_count or not _is_stored(head, manifest, store):
            return None
        return Previous(seen, manifest, began_ns=int(head["began_ns"]))
    except (OSError, ValueError, KeyError, TypeError, NodectlError):
        return None


def _columns(head: dict[str, Any], data: bytes) -> Seen:
    seen = Seen()
    count, at = int(head["entries"]), 0
    for column in (seen.inodes, seen.ctimes, seen.mtimes, seen.sizes):
        size = count * column.itemsize
        column.frombytes(data[at : at + size])
        at += size
    seen.paths = data[at:].split(b"\0")[:-1]
    seen.parts = [
        PartTotals(first=first, whole=whole, plain_bytes=plain, sealed_bytes=sealed)
        for first, whole, plain, sealed in head["parts"]
    ]
    if len(seen.paths) != count or len(seen.sizes) != count:
        raise ValueError("a record of a capture is cut off")
    return seen


def _is_stored(head: dict[str, Any], manifest: TreeManifest, store: DiskStore) -> bool:
    """Say whether every frame of the manifest is in the store."""
    if store.index.removals() == head["removals"]:
        return True  # nothing was taken out since: no need to look for each
    refs = [ref.frame_id for ref in manifest.block.parts]
    return not store.missing(refs) and not store.missing(
        ref.frame_id for entry in manifest.entries() for ref in entry.chunks
    )


class Previous:
    """The last capture of a tree: what is as it was, and its entries."""

    def __init__(self, seen: Seen, manifest: TreeManifest, *, began_ns: int) -> None:
        """Use `load`."""
        self._seen = seen
        self._manifest = manifest
        self._newest_ns = began_ns - _GRANULARITY_NS
        self._numbers = {path: number for number, path in enumerate(seen.paths)}
        self._firsts = [part.first for part in seen.parts]
        self._parts: OrderedDict[int, list[Entry]] = OrderedDict()

    def number_of(self, found: Found) -> int:
        """Return the number of an entry that is as it was, -1 for any other."""
        number = self._numbers.get(found.path, -1)
        if number < 0 or found.status.st_ctime_ns >= self._newest_ns:
            return -1
        return number if self._seen.is_same(number, found.status) else -1

    def part_at(self, number: int) -> Reusable | None:
        """Return the part whose first entry has this number, if it may be taken over whole.

        Not the last one: that ends where the tree ended, not where its own bytes say.
        """
        part = bisect_right(self._firsts, number) - 1
        if part < 0 or part + 1 >= len(self._firsts):
            return None
        this, following = self._seen.parts[part], self._seen.parts[part + 1]
        if this.first != number or not this.whole or not following.whole:
            return None
        ref = self._manifest.block.parts[part + 1]
        return Reusable(ref=ref, totals=this, entries=following.first - number)

    def entry(self, number: int) -> Entry:
        """Return an entry of the last capture, a file with all its chunks."""
        part = bisect_right(self._firsts, number) - 1
        rows = self._parts.get(part)
        if rows is None:
            rows = self._parts[part] = list(self._whole_entries(part))
            if len(self._parts) > _PARTS_KEPT:
                self._parts.popitem(last=False)
        return rows[number - self._firsts[part]]

    def _whole_entries(self, part: int) -> Iterator[Entry]:
        """Yield the entries that begin in a part, MORE records joined to their files."""
        current: Entry | None = None
        for row in self._rows_from(part):
            if row.kind == Kind.MORE and current is not None:
                chunks, extents = current.chunks + row.chunks, current.extents + row.extents
                current = current._replace(chunks=chunks, extents=extents)
            elif row.kind != Kind.MORE:
                if current is not None:
                    yield current
                current = row
        if current is not None:
            yield current

    def _rows_from(self, part: int) -> Iterator[Entry]:
        """Yield the rows of a part, and the MORE records that its last file goes on with."""
        yield from self._manifest.columns(part).entries()
        for number in range(part + 1, self._manifest.part_count):
            for row in self._manifest.columns(number).entries():
                if row.kind != Kind.MORE:
                    return
                yield row
