"""Make the golden store again: `python -m golden.format.make`, in tests/, with the repository on
PYTHONPATH. Only for a new version of the format: what stands here was written by released code.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3

from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import Entry, Kind, RootBlock, chunk_places
from nodectl.content.stored_manifest import stored
from nodectl.content.tree import ManifestWriter
from nodectl.ids import Root
from nodectl.store.disk import DiskStore
from nodectl.store.model import StoredFrame
from nodectl.trust.keys import RealmKey

HERE = Path(__file__).parent
PACK, LISTING = HERE / "golden.pack", HERE / "golden.json"
SECRET = bytes(range(32))
CODEC = FrameCodec(RealmKey(secret=SECRET).content_keys())
HEAD: dict[str, Any] = {
    "excludes": ["/proc/*", "*.o", "/odd\udcff"],
    "mounts_left_out": ["srv/data"],
}
MIB = 1 << 20
NS = 1_700_000_000_123_456_789
ACL = bytes.fromhex("0200000001000600ffffffff04000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


class Writer:
    """Gathers frames in the order in which they are made."""

    def __init__(self) -> None:
        self.frames: dict[bytes, StoredFrame] = {}

    def put(self, frame: StoredFrame) -> None:
        self.frames.setdefault(frame.frame_id, frame)

    def file(self, path: bytes, data: "bytes | Repeated", **other: Any) -> Entry:  # noqa: ANN401 - fields of Entry
        """Return a FILE entry with the chunks of `data`, sparse where extents are given."""
        extents = other.get("extents", ())
        refs: list[FrameRef] = []
        last: bytes | None = None
        for offset, length in chunk_places(extents, len(data), sparse=bool(extents)):
            plain = data[offset : offset + length]
            if refs and plain is last:  # the piece of a repeated file: sealed once
                refs.append(refs[-1])
                continue
            last = plain
            frame = CODEC.seal(plain, CODEC.chunk_id(plain))
            self.put(stored(frame))
            refs.append(frame.ref)
        return Entry(
            path, Kind.FILE, **{"mode": 0o644, "mtime_ns": NS, "size": len(data), **other}
        )._replace(chunks=tuple(refs))


class Repeated:
    """A file of the same MiB again and again, never whole in memory."""

    def __init__(self, piece: bytes, size: int) -> None:
        self._piece, self._size = piece, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, cut: slice) -> bytes:
        return self._piece[: cut.stop - cut.start]


def entries(writer: Writer) -> Iterator[Entry]:
    """Yield a tree with every kind of entry, in tree order."""
    text = b"".join(b"line %d\n" % number for number in range(300))
    directory = {"kind": Kind.DIRECTORY, "mode": 0o755, "mtime_ns": NS}
    yield Entry(b"", **directory)
    yield Entry(b"a", **{**directory, "mode": 0o1777, "uid": 1000, "gid": 4_000_000_000})
    yield Entry(b"a-b", **{**directory, "xattrs": ((b"user.dir", b""),)})
    yield Entry(b"block", Kind.BLOCK, 0o660, 0, 6, NS, 0x0010_3702)
    yield Entry(b"char", Kind.CHAR, 0o666, 0, 0, NS, 0x0103)
    yield Entry(b"fifo", Kind.FIFO, 0o600, 1, 2, -1)
    yield writer.file(b"new\nline \xff\xfe", b"odd name", mtime_ns=-5_000_000_001)
    yield writer.file(
        b"ping",
        bytes(range(200)),
        mode=0o4755,
        xattrs=((b"security.capability", CAPABILITY), (b"system.posix_acl_access", ACL)),
    )
    yield writer.file(b"text", text, uid=1, gid=2, mtime_ns=(1 << 63) - 1)
    # In tree order all below "a" stands before all below "a-b".
    yield Entry(b"a/dangling", Kind.SYMLINK, 0o777, 5, 6, NS, target=b"/no/such/\xffplace")
    yield writer.file(b"a/empty", b"", mode=0)
    yield Entry(b"a/hard", Kind.LINK, target=b"ping")
    yield Entry(b"a/x", **directory)
    yield writer.file(b"a/x/two-chunks", bytes(MIB) + b"tail")
    yield Entry(b"a-b/all-hole", Kind.FILE, 0o644, size=5 * MIB)
    # More chunks than one record takes: goes on in a MORE record.
    yield writer.file(b"a-b/large", Repeated(bytes(MIB), 4098 * MIB + 3))
    yield writer.file(b"a-b/same-as-ping", bytes(range(200)), xattrs=((b"user.dir", b""),))
    sparse = bytearray(3 * MIB + 5000)
    sparse[MIB - 4096 : MIB + 4096] = b"across a MiB" * 600 + bytes(992)
    sparse[3 * MIB :] = b"to the end" * 500
    extents = ((MIB - 4096, 8192), (3 * MIB, 5000))
    yield writer.file(b"a-b/sparse", bytes(sparse), extents=extents)


def make() -> tuple[Root, RootBlock, list[StoredFrame]]:
    """Return root, root block, and all frames with the root block last."""
    writer = Writer()
    manifest = ManifestWriter(CODEC, writer.put)
    for entry in entries(writer):
        manifest.add(entry)
    root, block, frame = manifest.finish(HEAD)
    return root, block, [*writer.frames.values(), frame]


def digest(places: Iterable[tuple[int, bytes]]) -> str:
    """Return one digest over where each chunk stands and what is in it."""
    total, known = blake3(), {}
    for offset, plain in places:
        if plain not in known:  # the large file repeats one chunk 4,098 times
            known[plain] = blake3(plain).digest()
        total.update(offset.to_bytes(8, "little") + len(plain).to_bytes(8, "little"))
        total.update(known[plain])
    return total.hexdigest()


def listing_line(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON holds it: names with surrogate escapes, values in hexadecimal."""
    return {
        "path": os.fsdecode(record["path"]),
        "kind": record["kind"],
        "mode": f"{record['mode']:04o}",
        "owner": f"{record['uid']}:{record['gid']}",
        "mtime_ns": record["mtime_ns"],
        "size": record["size"],
        "target": os.fsdecode(record["target"]),
        "xattrs": {os.fsdecode(name): value.hex() for name, value in record["xattrs"].items()},
        "extents": [list(extent) for extent in record["extents"]],
        "chunks": len(record["refs"]),
        "content": record["content"],
    }


def main() -> None:
    root, _, frames = make()
    with tempfile.TemporaryDirectory() as folder, DiskStore(Path(folder)) as store:
        store.put_many(frames)
        (pack,) = (Path(folder) / "packs").iterdir()
        PACK.write_bytes(pack.read_bytes())
    from golden.format.reader import Reader, read_pack  # noqa: PLC0415 - only made here

    reader = Reader(SECRET, read_pack(PACK.read_bytes()))
    lines = [
        listing_line({**record, "content": digest(reader.chunk_places(record))})
        for record in reader.records(root)
    ]
    document = {
        "realm_secret": SECRET.hex(),
        "root": root.hex(),
        "zstd": zstandard.ZSTD_VERSION,
        "head": {**HEAD, "version": 1},
        "records": lines,
    }
    LISTING.write_text(json.dumps(document, indent=1) + "\n")
    sys.stdout.write(f"{PACK.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
