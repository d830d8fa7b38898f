"""Manifests as values: what an entry may be, and in what order entries stand."""

import pytest
from strategies import reference

from nodectl.content.frame import CHUNK_MAX, FrameRef
from nodectl.content.manifest import (
    PATH_MAX,
    RECORD_CHUNKS_MAX,
    TARGET_MAX,
    Entry,
    Kind,
    TreeOrder,
    check_entry,
    chunk_places,
    directory_key,
    ends_part,
    is_safe_path,
    is_sparse,
    record_places,
    split_path,
)
from nodectl.errors import ContentInvalid

MIB = CHUNK_MAX
ROOT = Entry(b"", Kind.DIRECTORY)


def file(path: bytes, *lengths: int, **fields: object) -> Entry:
    """Return a FILE entry with chunks of these lengths."""
    entry = Entry(path, Kind.FILE, size=sum(lengths), chunks=chunks(*lengths))
    return entry._replace(**fields)


def chunks(*lengths: int) -> tuple[FrameRef, ...]:
    return tuple(reference(number, length) for number, length in enumerate(lengths))


def directory(path: bytes) -> Entry:
    return Entry(path, Kind.DIRECTORY)


@pytest.mark.parametrize(
    "path",
    [
        b"a", b"a/b", b"...", b"..a", b"a..", b".a", b"a.", b"a/...", b" ", b"\n", b".\n", b"a/\n",
        b"a/..\n", b"\\", b"\xff\xfe", b"n" * 255, b"n" * 255 + b"/" + b"n" * 255,
        b"a/" * 16383 + b"a",
    ],
)  # fmt: skip
def test_paths_below_the_root_are_safe(path: bytes) -> None:
    assert is_safe_path(path)
    check_entry(directory(path))


@pytest.mark.parametrize(
    "path",
    [
        b"/", b"/a", b"a/", b"a//b", b".", b"..", b"./a", b"../a", b"a/.", b"a/..", b"a/./b",
        b"a/../b", b"//", b"a\0b", b"\0", b"n" * 256, b"a/" + b"n" * 256 + b"/b", b"a/" * PATH_MAX,
    ],
)  # fmt: skip
def test_other_paths_are_not(path: bytes) -> None:
    assert not is_safe_path(path)
    with pytest.raises(ContentInvalid, match="unsafe path"):
        check_entry(directory(path))
    with pytest.raises(ContentInvalid):
        check_entry(Entry(b"a", Kind.LINK, target=path))


def test_the_empty_path_is_the_root_directory_alone() -> None:
    check_entry(ROOT)
    assert not is_safe_path(b"")
    for kind in set(Kind) - {Kind.DIRECTORY}:
        with pytest.raises(ContentInvalid):
            check_entry(Entry(b"", kind, target=b"a"))


GOOD = [
    file(b"f"),
    file(b"f", 1),
    file(b"f", MIB),
    file(b"f", MIB, 1),
    file(b"f", *[MIB] * RECORD_CHUNKS_MAX),
    file(b"f", size=1 << 62),  # all hole
    file(b"f", 4096, size=9 * MIB, extents=((4096, 4096),)),
    file(b"f", 4096, 4096, size=9 * MIB, extents=((MIB - 4096, 8192),)),
    Entry(b"f", Kind.MORE, size=MIB, chunks=chunks(MIB, 5)),
    Entry(b"f", Kind.SYMLINK, target=b"t" * TARGET_MAX),
    Entry(b"f", Kind.SYMLINK, target=b"/"),
    Entry(b"f", Kind.LINK, target=b"a/b"),
    Entry(b"f", Kind.CHAR, 0o7777, size=0xFFFFFFFF),
    Entry(b"f", Kind.BLOCK),
    Entry(b"f", Kind.FIFO),
]


@pytest.mark.parametrize("entry", GOOD, ids=range(len(GOOD)))
def test_possible_entries_pass(entry: Entry) -> None:
    check_entry(entry)


BAD = [
    Entry(b"f", Kind.FILE, 0o10000),
    Entry(b"f", 0),
    Entry(b"f", 9),
    directory(b"d")._replace(chunks=chunks(1)),
    Entry(b"f", Kind.FIFO, extents=((0, 4096),)),
    Entry(b"f", Kind.SYMLINK),
    Entry(b"f", Kind.SYMLINK, target=b"t" * (TARGET_MAX + 1)),
    Entry(b"f", Kind.LINK),
    Entry(b"f", Kind.LINK, target=b"../../etc/passwd"),
    Entry(b"a/.nodectl-0123456789abcdef.part", Kind.FIFO),
    Entry(b"f", Kind.CHAR, size=1 << 32),
    Entry(b"f", Kind.BLOCK, size=(1 << 64) - 1),
    file(b"f", size=(1 << 62) + 1),
    file(b"f", 1, size=2),
    file(b"f", 2, size=1),
    file(b"f", 1, size=0),
    file(b"f", 1, MIB),
    file(b"f", MIB - 1, MIB),
    file(b"f", *[MIB] * (RECORD_CHUNKS_MAX + 1)),
    Entry(b"f", Kind.MORE),
    Entry(b"f", Kind.MORE, chunks=chunks(1, MIB)),
    file(b"f", 4096, extents=((0, 4096), (8192, 4096))),
    file(b"f", 4096, 4096, extents=((0, 4096),)),
    file(b"f", 4096, extents=((0, 1 << 61),)),
    file(b"f", 4096, extents=((1 << 62, 4096),)),
    file(b"f", 4096, 4096, extents=((4096, 4096), (0, 4096))),
    file(b"f", 4096, 4096, extents=((0, 8192), (4096, 4096))),
    file(b"f", 4096, extents=((0, 4096), (8192, 0))),
    file(b"f", extents=((0, 4096),)),
]


@pytest.mark.parametrize("entry", BAD, ids=range(len(BAD)))
def test_impossible_entries_are_refused(entry: Entry) -> None:
    with pytest.raises(ContentInvalid):
        check_entry(entry)


def accepts(*entries: Entry) -> bool:
    """Say whether these records may stand so."""
    order = TreeOrder()
    try:
        for entry in entries:
            order.add(entry)
        order.end_file()
    except ContentInvalid:
        return False
    return True


def test_tree_order_is_by_directory_then_name() -> None:
    assert accepts(
        ROOT, directory(b"a"), directory(b"a-b"), file(b"z"), file(b"a/x"), file(b"a-b/x")
    )
    assert not accepts(ROOT, directory(b"a"), file(b"a/x"), directory(b"a-b"))
    assert not accepts(
        ROOT, directory(b"a"), directory(b"a-b"), file(b"a-b/x"), file(b"a/x")
    )  # a/... stands before a-b/..., though "-" is less than "/"


def test_the_root_comes_first_and_once() -> None:
    assert accepts(ROOT)
    assert not accepts(file(b"a"))
    assert not accepts(directory(b"a"))
    assert not accepts(ROOT, ROOT)
    assert not accepts(ROOT, directory(b"a"), file(b"a/b"), ROOT)


@pytest.mark.parametrize("kind", [Kind.FILE, Kind.SYMLINK, Kind.LINK, Kind.FIFO])
def test_what_is_below_something_that_is_no_directory_is_refused(kind: Kind) -> None:
    assert not accepts(ROOT, Entry(b"a", kind, target=b"/etc"), file(b"a/b"))
    assert not accepts(ROOT, directory(b"a"), Entry(b"a/b", kind, target=b"/etc"), file(b"a/b/c"))
    assert not accepts(ROOT, file(b"never/seen"))


def test_a_path_stands_once() -> None:
    assert not accepts(ROOT, file(b"a"), file(b"a"))
    assert not accepts(ROOT, directory(b"a"), Entry(b"a", Kind.SYMLINK, target=b"/"))
    assert not accepts(
        ROOT, directory(b"a"), directory(b"b"), file(b"a/x"), file(b"b/x"), file(b"a/x")
    )


def test_a_link_leads_to_an_earlier_entry_that_is_no_directory() -> None:
    def hard(path: bytes, target: bytes) -> Entry:
        return Entry(path, Kind.LINK, target=target)

    a = directory(b"a")
    assert accepts(ROOT, a, file(b"f"), hard(b"g", b"f"), hard(b"a/x", b"f"), hard(b"a/y", b"a/x"))
    for link in (hard(b"g", b"g"), hard(b"g", b"h"), hard(b"g", b"a"), hard(b"g", b"f/x")):
        assert not accepts(ROOT, a, file(b"f"), link, file(b"h"))
    assert not accepts(ROOT, a, hard(b"g", b"a/x"), file(b"a/x"))


FULL = file(b"f", *[MIB] * RECORD_CHUNKS_MAX, size=(RECORD_CHUNKS_MAX + 1) * MIB)
MORE = Entry(b"f", Kind.MORE, size=RECORD_CHUNKS_MAX * MIB, chunks=chunks(MIB))


def test_a_large_file_goes_on_in_more_records() -> None:
    assert accepts(ROOT, FULL, MORE)
    assert accepts(ROOT, FULL, MORE, file(b"g"))


@pytest.mark.parametrize(
    "records",
    [
        [MORE],
        [ROOT, MORE],
        [ROOT, FULL],  # not complete
        [ROOT, FULL, file(b"g")],
        [ROOT, FULL, MORE._replace(path=b"g")],
        [ROOT, FULL, MORE, MORE],  # MORE is not full itself
        [ROOT, FULL, MORE._replace(size=MORE.size + MIB)],
        [ROOT, FULL, MORE._replace(size=0)],
        [ROOT, FULL, MORE._replace(chunks=chunks(1))],  # too short
        [ROOT, FULL, MORE._replace(chunks=chunks(MIB, 1))],  # too long
        [ROOT, FULL, MORE._replace(extents=((MORE.size, MIB),))],  # sparse after dense
        [ROOT, file(b"f", 1), MORE],
        [ROOT, file(b"f", size=RECORD_CHUNKS_MAX * MIB), MORE],
        [ROOT, FULL, Entry(b"f", Kind.FIFO), MORE],
        [ROOT, file(b"f", MIB, MIB, size=1 << 61)],
        [ROOT, file(b"f", 4096, size=100, extents=((0, 4096),))],
    ],
)
def test_chunks_that_do_not_fit_their_file_are_refused(records: list[Entry]) -> None:
    assert not accepts(*records)


def test_extents_of_more_records_follow_each_other() -> None:
    step = 2 * MIB
    extents = tuple((number * step, 4096) for number in range(RECORD_CHUNKS_MAX + 1))
    full = file(
        b"f",
        *[4096] * RECORD_CHUNKS_MAX,
        size=extents[-1][0] + 4096,
        extents=extents[:-1],
    )
    more = Entry(b"f", Kind.MORE, extents=extents[-1:], chunks=chunks(4096))
    assert accepts(ROOT, full, more)
    assert not accepts(ROOT, full, more._replace(extents=((4096, 4096),)))
    assert not accepts(ROOT, full._replace(size=5), more)


def test_profile_1_cuts_at_multiples_of_a_mib() -> None:
    assert list(chunk_places((), 0)) == []
    assert list(chunk_places((), 5)) == [(0, 5)]
    assert list(chunk_places((), 2 * MIB)) == [(0, MIB), (MIB, MIB)]
    assert list(chunk_places((), 2 * MIB + 1))[-1] == (2 * MIB, 1)
    assert list(chunk_places((), 5 * MIB, sparse=True)) == []
    extents = ((4096, MIB), (3 * MIB, 4096))
    assert list(chunk_places(extents, 0, sparse=True)) == [
        (4096, MIB - 4096),
        (MIB, 4096),
        (3 * MIB, 4096),
    ]


def test_places_of_a_record() -> None:
    assert [at for at, _ in record_places(file(b"f", MIB, 3))] == [0, MIB]
    assert [at for at, _ in record_places(MORE)] == [RECORD_CHUNKS_MAX * MIB]
    sparse = file(b"f", 4096, size=MIB, extents=((8192, 4096),))
    assert [at for at, _ in record_places(sparse)] == [8192]
    assert [is_sparse(one) for one in (sparse, file(b"f", size=5), file(b"f"), file(b"f", 5))] == [
        True, True, False, False,
    ]  # fmt: skip


def test_where_a_part_ends() -> None:
    cut = next(b"%d" % n for n in range(10_000) if ends_part(b"%d" % n, 256, 0))
    assert not ends_part(cut, 255, 0)
    assert not ends_part(b"no cut", 4095, 409_599)
    assert ends_part(b"no cut", 4096, 0)
    assert ends_part(b"no cut", 1, 409_600)
    many = sum(ends_part(b"%d" % n, 256, 0) for n in range(20_000))
    assert 8 <= many <= 40  # one in 1024


def test_paths_are_taken_apart() -> None:
    assert split_path(b"") == (b"", b"")
    assert split_path(b"a") == (b"", b"a")
    assert split_path(b"a/b/c") == (b"a/b", b"c")
    assert directory_key(b"a/b") < directory_key(b"a-b") < directory_key(b"aa")
