"""Columns: what is checked of whole columns is what is checked of each row."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import reference, trees

from nodectl.content.format import decode_columns, encode_part
from nodectl.content.frame import CHUNK_MAX
from nodectl.content.manifest import (
    Entry,
    Kind,
    TreeOrder,
    are_safe_paths,
    check_entry,
    is_safe_path,
)
from nodectl.errors import ContentInvalid

# Paths of few different pieces, so that what must be refused is met often.
PIECES = st.sampled_from(
    [b"", b".", b"..", b"a", b"b", b"...", b".a", b"a.", b"n" * 255, b"n" * 256]
)
PATHS = st.lists(PIECES, min_size=1, max_size=4).map(b"/".join)
TEMPORARY = b".nodectl-0123456789abcdef.part"


def small(path: bytes, size: int = 3, **fields: object) -> Entry:
    entry = Entry(path, Kind.FILE, 0o644, size=size, chunks=(reference(1, min(size, CHUNK_MAX)),))
    return entry._replace(**fields)  # type: ignore[arg-type]


def row(path: bytes, kind: int, fields: dict[str, object]) -> Entry:
    return Entry(path, kind)._replace(**fields)  # type: ignore[arg-type]


OTHERS = st.sampled_from(
    [
        {},
        {"size": 1 << 33},
        {"chunks": (reference(1, 4),)},
        {"extents": ((0, 4),)},
        {"mode": 0o10000},
    ]
)
ROWS = st.one_of(
    st.builds(small, PATHS, st.sampled_from([1, 5, CHUNK_MAX + 1])),
    st.builds(small, PATHS, mode=st.sampled_from([0o7777, 0o10000, 0o177777])),
    st.builds(small, PATHS, chunks=st.sampled_from([(), (reference(1, 4),)])),
    st.builds(small, PATHS, extents=st.sampled_from([((0, 3),), ((3, 3), (0, 3))])),
    st.builds(row, PATHS, st.sampled_from([*Kind, 0, 9]), OTHERS),
    st.builds(row, PATHS, st.just(Kind.LINK), PATHS.map(lambda path: {"target": path})),
)


def _refused(rows: Sequence[Entry]) -> bool:
    try:
        for row in rows:
            check_entry(row)
    except ContentInvalid:
        return True
    return False


@settings(deadline=None, max_examples=400)
@given(st.lists(ROWS, max_size=6))
def test_columns_refuse_what_a_row_is_refused_for(rows: list[Entry]) -> None:
    data = encode_part(rows)
    if _refused(rows):
        with pytest.raises(ContentInvalid):
            decode_columns(data)
    else:
        assert decode_columns(data).entries() == rows
    assert decode_columns(data, checked=True).entries() == rows


@settings(deadline=None, max_examples=400)
@given(st.lists(PATHS, min_size=1, max_size=5))
def test_safe_paths_are_told_from_others_in_one_go(paths: list[bytes]) -> None:
    # Lengths are left to `is_safe_path`.
    short = [path.replace(b"n" * 255, b"n") for path in paths]
    assert are_safe_paths(short) == all(map(is_safe_path, short))


@pytest.mark.parametrize("path", [TEMPORARY, b"a/" + TEMPORARY, b"a\0b", b"/", b"a/", b"/a"])
def test_what_no_image_may_hold_is_seen_among_other_paths(path: bytes) -> None:
    assert are_safe_paths([b"a", b"b/c"])
    assert not are_safe_paths([b"a", path, b"b/c"])


@settings(deadline=None, max_examples=100)
@given(trees())
def test_small_files_are_those_of_one_chunk_that_is_all_of_them(entries: list[Entry]) -> None:
    columns = decode_columns(encode_part(entries))
    for number, entry in enumerate(entries):
        alone = entry.kind == Kind.FILE and not entry.extents
        is_all = [ref.plain_len for ref in entry.chunks] == [entry.size]
        assert bool(columns.small[number]) == (alone and is_all)
        assert columns.entry(number) == entry
    assert list(columns.refs()) == [ref for entry in entries for ref in entry.chunks]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(PATHS, st.booleans()), max_size=8), st.booleans())
def test_the_order_of_small_files_is_that_of_entries(
    rows: list[tuple[bytes, bool]],
    root: bool,  # noqa: FBT001
) -> None:
    """`add_small` takes what `add` takes, and leaves the order as that does."""
    plain, quick = TreeOrder(), TreeOrder()
    for order in (plain, quick) if root else ():
        order.add(Entry(b"", Kind.DIRECTORY))
    for path, is_file in rows:
        entry = small(path) if is_file else Entry(path, Kind.DIRECTORY)
        taken = _taken(lambda entry=entry: plain.add(entry))  # type: ignore[misc]
        if is_file:
            assert _taken(lambda path=path: quick.add_small(path)) == taken  # type: ignore[misc]
        else:
            assert _taken(lambda entry=entry: quick.add(entry)) == taken  # type: ignore[misc]
        if not taken:
            return


def _taken(add: Callable[[], None]) -> bool:
    try:
        add()
    except ContentInvalid:
        return False
    return True


def test_a_small_file_does_not_hide_that_the_one_before_is_cut_off() -> None:
    order = TreeOrder()
    order.add(Entry(b"", Kind.DIRECTORY))
    order._file = small(b"a", 2 * CHUNK_MAX)
    with pytest.raises(ContentInvalid, match="not complete"):
        order.add_small(b"b")
