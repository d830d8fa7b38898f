"""The bytes of manifests: what is refused. What is read and written is in the golden store and in
tests/property/test_manifest.py.
"""

import struct

import pytest
from strategies import reference

from nodectl.content.format import (
    decode_columns,
    decode_head,
    decode_root_block,
    encode_head,
    encode_part,
    encode_root_block,
)
from nodectl.content.frame import CHUNK_MAX, FRAME_MAX, FrameRef
from nodectl.content.manifest import KIND_TREE, PARTS_MAX, Entry, Kind, RootBlock
from nodectl.errors import ContentInvalid

BLOCK = RootBlock(KIND_TREE, b"t" * 16, 3, 4, 5, (reference(1, 10), reference(2, CHUNK_MAX)))


def test_the_root_block_is_laid_out_as_documented() -> None:
    data = encode_root_block(BLOCK)
    assert data[:8] == b"NCRT\x01\x01\x01\x00"
    assert data[8:24] == b"t" * 16
    assert struct.unpack_from("<QQQI", data, 24) == (3, 4, 5, 2)
    assert data[52:84] == BLOCK.parts[0].chunk_id
    assert len(data) == 52 + 2 * 72


@pytest.mark.parametrize(("at", "value"), [(0, 0), (4, 2), (4, 0), (5, 2), (6, 2), (7, 1)])
def test_what_another_version_wrote_is_refused(at: int, value: int) -> None:
    data = bytearray(encode_root_block(BLOCK))
    data[at] = value
    with pytest.raises(ContentInvalid):
        decode_root_block(bytes(data))


@pytest.mark.parametrize("count", [0, 1, 3, PARTS_MAX + 1, 0xFFFFFFFF])
def test_a_wrong_number_of_parts_is_refused(count: int) -> None:
    data = bytearray(encode_root_block(BLOCK))
    struct.pack_into("<I", data, 48, count)
    with pytest.raises(ContentInvalid, match="wrong length"):
        decode_root_block(bytes(data))


def test_no_part_and_too_many_parts_are_refused() -> None:
    for parts in ((), (BLOCK.parts[0],) * (PARTS_MAX + 1)):
        with pytest.raises(ContentInvalid):
            decode_root_block(encode_root_block(BLOCK._replace(parts=parts)))


BAD_LENGTHS = [(0, 5), (5, 0), (CHUNK_MAX + 1, 5), (5, FRAME_MAX + 1), (0xFFFFFFFF, 0xFFFFFFFF)]


@pytest.mark.parametrize(("plain_len", "sealed_len"), BAD_LENGTHS)
def test_impossible_lengths_of_frames_are_refused(plain_len: int, sealed_len: int) -> None:
    ref = FrameRef(*reference(1, 1)[:2], plain_len, sealed_len)
    with pytest.raises(ContentInvalid, match="impossible length"):
        decode_root_block(encode_root_block(BLOCK._replace(parts=(ref,))))
    with pytest.raises(ContentInvalid, match="impossible length"):
        decode_columns(encode_part([Entry(b"f", Kind.FILE, size=plain_len, chunks=(ref,))]))


def part(entries: list[Entry], **counts: int) -> bytearray:
    """Return a part whose header says other counts."""
    data = bytearray(encode_part(entries))
    for name, value in counts.items():
        place = ("n", "chunks", "extents", "sets", "paths", "targets").index(name)
        struct.pack_into("<I", data, 4 + 4 * place, value)
    return data


ONE = [Entry(b"a", Kind.SYMLINK, target=b"t", xattrs=((b"user.x", b"1"), (b"user.y", b"2")))]


@pytest.mark.parametrize("name", ["n", "chunks", "extents", "sets", "paths", "targets"])
@pytest.mark.parametrize("value", [2, 3, 1000, 1 << 20, 1 << 31, 0xFFFFFFFF])
def test_counts_that_lie_are_refused(name: str, value: int) -> None:
    if encode_part(ONE) == part(ONE, **{name: value}):
        value += 5
    with pytest.raises(ContentInvalid):
        decode_columns(bytes(part(ONE, **{name: value})))


def test_the_columns_must_fit_each_other() -> None:
    good = encode_part(ONE)
    for old, new in (
        (b"a\0t\0", b"\0\0t\0"),  # two paths
        (b"a\0t\0", b"a\0\0\0"),  # two targets
        (b"a\0t\0", b"abt\0"),  # a column that does not end
        (b"user.y", b"user.x"),  # one name twice
        (b"user.x", b"user.z"),  # out of order
        (b"user.x", b"user.\0"),
    ):
        assert old in good
        with pytest.raises(ContentInvalid):
            decode_columns(good.replace(old, new))
    kind = good.index(bytes([Kind.SYMLINK]), 28)
    with pytest.raises(ContentInvalid):
        decode_columns(good[:kind] + bytes([Kind.FIFO]) + good[kind + 1 :])
    with pytest.raises(ContentInvalid):
        decode_columns(b"XXXX" + good[4:])


def test_a_set_of_attributes_that_is_not_there_is_refused() -> None:
    data = encode_part(ONE)
    number = 28 + 1 + 2 + 4 + 4 + 8 + 8 + 4 + 4
    assert data[number : number + 4] == b"\1\0\0\0"
    with pytest.raises(ContentInvalid, match="fit"):
        decode_columns(data[:number] + b"\2\0\0\0" + data[number + 4 :])


def test_an_empty_set_and_an_empty_name_are_refused() -> None:
    head = part([Entry(b"a", Kind.FIFO)], sets=1)
    for tail in (b"\0\0", b"\1\0" + b"\0\0" + b"\0\0\0\0"):
        with pytest.raises(ContentInvalid, match="attributes"):
            decode_columns(bytes(head) + tail)


@pytest.mark.parametrize("field", ["uid", "gid"])
def test_the_owner_that_means_no_owner_is_refused(field: str) -> None:
    entry = Entry(b"a", Kind.FIFO)
    assert decode_columns(encode_part([entry._replace(**{field: 0xFFFFFFFE})])).entries()
    with pytest.raises(ContentInvalid, match="owner"):
        decode_columns(encode_part([entry._replace(**{field: 0xFFFFFFFF})]))


def test_equal_attributes_stand_once() -> None:
    xattrs = ((b"user.x", b"v" * 1000),)
    entries = [Entry(b"%03d" % n, Kind.FIFO, xattrs=xattrs) for n in range(100)]
    data = encode_part(entries)
    assert len(data) < 10_000
    assert decode_columns(data).entries() == entries


HEADS = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"7",
    b"{}",
    b'{"version":2}',
    b'{"version":"1"}',
    b"\xff\xfe\xff",
    b"[" * 200_000,
    b'{"version":1,"excludes":"*.o"}',
    b'{"version":1,"excludes":[1]}',
    b'{"version":1,"excludes":[""]}',
    b'{"version":1,"excludes":["/"]}',
    b'{"version":1,"excludes":["a\\u0000b"]}',
    b'{"version":1,"excludes":["\\ud800"]}',
    b'{"version":1,"mounts_left_out":{"a":"b"}}',
    b'{"version":1,"mounts_left_out":[null]}',
    b'{"version":1,"mounts_left_out":null}',
    b'{"version":' + b"1" * 10_000 + b"}",
]


@pytest.mark.parametrize("data", HEADS, ids=range(len(HEADS)))
def test_heads_that_no_capture_wrote_are_refused(data: bytes) -> None:
    with pytest.raises(ContentInvalid):
        decode_head(data)


def test_a_head_is_canonical() -> None:
    assert (
        encode_head({"mounts_left_out": ["\udcff"], "excludes": []})
        == b'{"excludes":[],"mounts_left_out":["\\udcff"],"version":1}'
    )
    assert decode_head(b'{"version":1,"later":7}') == {"version": 1, "later": 7}
