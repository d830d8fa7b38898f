"""Random values for property tests: names, entries, trees of them in tree order."""

from typing import Any

from blake3 import blake3
from hypothesis import strategies as st

from nodectl.content.frame import CHUNK_MAX, OVERHEAD, FrameRef
from nodectl.content.manifest import Entry, Extent, Kind, chunk_places
from nodectl.ids import ChunkId, FrameId

BLOCK = 4096
MIB = 1 << 20
ID_MAX = (1 << 32) - 2  # the last uid and gid
_LINKS_TO = (Kind.FILE, Kind.FIFO, Kind.SYMLINK)

names = st.one_of(
    st.binary(min_size=1, max_size=6),
    st.sampled_from([b"a", b"a-b", b"a\x01", b"n" * 255, b"...", b".a", b" ", b"\xff\xfe", b"\n"]),
).filter(lambda name: name not in {b".", b".."} and not set(name) & set(b"\0/"))


def reference(number: int, plain_len: int) -> FrameRef:
    """Return the reference of a frame that exists nowhere."""
    seed = b"%d %d" % (number, plain_len)
    chunk_id, frame_id = ChunkId(blake3(b"c" + seed).digest()), FrameId(blake3(seed).digest())
    return FrameRef(chunk_id, frame_id, plain_len, plain_len + OVERHEAD)


@st.composite
def extents(draw: st.DrawFn, most: int = 6) -> tuple[tuple[Extent, ...], int]:
    """Return the extents of a sparse file and its size."""
    at, found = 0, []
    for _ in range(draw(st.integers(1, most))):
        begin = at + BLOCK * draw(st.sampled_from([0, 1, 3, 255, 256, 700]))
        length = BLOCK * draw(st.sampled_from([1, 2, 256, 257, 600]))
        found.append((begin, length))
        at = begin + length + BLOCK
    end = sum(found[-1])
    return tuple(found), end + draw(st.sampled_from([0, 1, 5 * MIB]))


xattrs = st.dictionaries(
    st.binary(min_size=1, max_size=8).filter(lambda name: b"\0" not in name),
    st.binary(max_size=20),
    max_size=3,
).map(lambda found: tuple(sorted(found.items())))

common = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, ID_MAX),
        "gid": st.integers(0, ID_MAX),
        "mtime_ns": st.integers(-(1 << 63), (1 << 63) - 1),
        "xattrs": xattrs,
    }
)


@st.composite
def file_data(draw: st.DrawFn) -> dict[str, Any]:
    """Return size, extents and chunks of a file; few numbers, so that files share chunks."""
    if draw(st.integers(0, 3)) == 0:
        cut, size = draw(extents())
    else:
        size = draw(st.sampled_from([0, 1, 4096, MIB - 1, MIB, MIB + 1, 3 * MIB, 9 * MIB + 5]))
        cut = ()
    places = chunk_places(cut, size, sparse=bool(cut))
    chunks = [reference(draw(st.integers(0, 5)), length) for _, length in places]
    if not cut and draw(st.integers(0, 9)) == 0:
        chunks = []  # one hole
    return {"size": size, "extents": cut, "chunks": tuple(chunks)}


@st.composite
def _leaf(draw: st.DrawFn, path: bytes, linkable: list[bytes]) -> Entry:
    kinds = [Kind.FILE, Kind.FILE, Kind.FILE, Kind.SYMLINK, Kind.CHAR, Kind.BLOCK, Kind.FIFO]
    kind = draw(st.sampled_from([*kinds, Kind.LINK] if linkable else kinds))
    if kind == Kind.LINK:
        return Entry(path, kind, target=draw(st.sampled_from(linkable)))
    entry = Entry(path, kind, **draw(common))
    match kind:
        case Kind.FILE:
            return entry._replace(**draw(file_data()))
        case Kind.SYMLINK:
            target = st.binary(min_size=1, max_size=20).filter(lambda text: b"\0" not in text)
            return entry._replace(target=draw(target))
        case Kind.CHAR | Kind.BLOCK:
            return entry._replace(size=draw(st.integers(0, (1 << 32) - 1)))
        case _:
            return entry


@st.composite
def trees(draw: st.DrawFn, most: int = 25) -> list[Entry]:
    """Return all entries of a tree in tree order."""
    found = [Entry(b"", Kind.DIRECTORY, **draw(common))]
    linkable: list[bytes] = []
    pending, left = [b""], draw(st.integers(0, most))
    while pending:
        directory = pending.pop()
        below = draw(st.sets(names, max_size=min(left, 6))) if left else set()
        left -= len(below)
        paths = [directory + b"/" + name if directory else name for name in sorted(below)]
        entries = [_entry(draw, path, linkable) for path in paths]
        found += entries
        pending += [one.path for one in reversed(entries) if one.kind == Kind.DIRECTORY]
    return found


def _entry(draw: st.DrawFn, path: bytes, linkable: list[bytes]) -> Entry:
    if draw(st.integers(0, 2)) == 0:
        return Entry(path, Kind.DIRECTORY, **draw(common))
    entry = draw(_leaf(path, linkable))
    if entry.kind in _LINKS_TO:
        linkable.append(path)
    return entry


frame_rows = st.lists(
    st.builds(reference, st.integers(0, 40), st.sampled_from([1, 5000, 300_000, CHUNK_MAX])),
    max_size=300,
)
