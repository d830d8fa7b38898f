"""Manifests, for all trees: what is written is read, and what is not is refused in time."""

import contextlib
import os
import struct
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import extents, reference, trees

from nodectl.content import manifest as manifest_module
from nodectl.content import tree as tree_module
from nodectl.content.format import (
    decode_columns,
    decode_head,
    decode_root_block,
    encode_head,
    encode_part,
    encode_root_block,
    record_bytes,
)
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import (
    KIND_TREE,
    Entry,
    Kind,
    RootBlock,
    TreeOrder,
    chunk_places,
    record_places,
)
from nodectl.content.tree import ManifestWriter, TreeManifest, split_records
from nodectl.errors import ContentInvalid
from nodectl.ids import Root
from nodectl.store.memory import MemoryStore
from nodectl.trust.keys import ContentKeys

CODEC = FrameCodec(ContentKeys(chunk_id=b"c" * 32, seal=b"s" * 32, nonce=b"n" * 32))
MEMORY_MAX = 64 << 20  # bytes that refusing a part of any content may take


@contextlib.contextmanager
def small_records(most: int) -> Iterator[None]:
    """Let a record have at most `most` chunks, so that files of a few chunks have MORE."""
    modules = (manifest_module, tree_module)
    kept = manifest_module.RECORD_CHUNKS_MAX
    for module in modules:
        module.RECORD_CHUNKS_MAX = most
    try:
        yield
    finally:
        for module in modules:
            module.RECORD_CHUNKS_MAX = kept


def _write(entries: list[Entry]) -> tuple[Root, MemoryStore]:
    store = MemoryStore()
    writer = ManifestWriter(CODEC, lambda frame: store.put_many([frame]))
    for entry in entries:
        writer.add(entry)
    root, _, frame = writer.finish({"excludes": []})
    store.put_many([frame])
    return root, store


def _in_order(entries: list[Entry]) -> bool:
    order = TreeOrder()
    try:
        for entry in entries:
            order.add(entry)
        order.end_file()
    except ContentInvalid:
        return False
    return True


@settings(deadline=None, max_examples=100)
@given(trees())
def test_a_part_holds_what_was_put_in(entries: list[Entry]) -> None:
    data = encode_part(entries)
    assert decode_columns(data).entries() == entries
    assert encode_part(decode_columns(data).entries()) == data
    assert len(data) <= 28 + sum(map(record_bytes, entries)) + 2 * len(
        entries
    )  # see PART_WEIGHT_MAX


@settings(deadline=None, max_examples=60)
@given(trees(), st.integers(1, 5))
def test_a_manifest_holds_what_was_put_in(entries: list[Entry], most: int) -> None:
    with small_records(most):
        root, store = _write(entries)
        manifest = TreeManifest.open(root, store, CODEC)
        records = list(manifest.entries())
        again, _ = _write(entries)
    whole: list[Entry] = []
    for record in records:
        if record.kind == Kind.MORE:
            whole[-1] = whole[-1]._replace(chunks=whole[-1].chunks + record.chunks)
        else:
            whole.append(record)
    assert [one._replace(extents=()) for one in whole] == [
        one._replace(extents=()) for one in entries
    ]
    assert manifest.block.entries == len(entries)
    assert manifest.block.plain_bytes == sum(ref.plain_len for e in entries for ref in e.chunks)
    assert manifest.block.sealed_bytes == sum(ref.sealed_len for e in entries for ref in e.chunks)
    assert again == root


@settings(deadline=None, max_examples=100)
@given(st.one_of(extents(12), st.integers(1, 40 << 20).map(lambda size: ((), size))), st.data())
def test_split_records_join_back(
    cut: tuple[tuple[tuple[int, int], ...], int], data: st.DataObject
) -> None:
    ranges, size = cut
    places = list(chunk_places(ranges, size, sparse=bool(ranges)))
    chunks = tuple(reference(number, length) for number, (_, length) in enumerate(places))
    file = Entry(b"f", Kind.FILE, size=size, extents=ranges, chunks=chunks)
    with small_records(data.draw(st.integers(1, 7))):
        records = list(split_records(file))
        assert _in_order([Entry(b"", Kind.DIRECTORY), *records])
        assert decode_columns(encode_part(records)).entries() == records
        if not ranges:  # where a sparse file lacks a record, a hole might stand
            for gone in range(len(records)):
                rest = [*records[:gone], *records[gone + 1 :]]
                assert _in_order([Entry(b"", Kind.DIRECTORY), *rest]) == (rest == [])
    joined = [place for record in records for place in record_places(record)]
    assert joined == [(offset, ref) for (offset, _), ref in zip(places, chunks, strict=True)]


@settings(deadline=None, max_examples=150)
@given(trees(), st.data())
def test_any_other_order_is_refused(entries: list[Entry], data: st.DataObject) -> None:
    assert _in_order(entries)
    shuffled = data.draw(st.permutations(entries))
    assert _in_order(shuffled) == (shuffled == entries)
    twice = data.draw(st.integers(0, len(entries) - 1))
    assert not _in_order([*entries[: twice + 1], *entries[twice:]])


@settings(deadline=None, max_examples=300)
@given(trees(most=8), st.data())
def test_a_changed_byte_of_a_part_changes_it_or_is_refused(
    entries: list[Entry], data: st.DataObject
) -> None:
    good = encode_part(entries)
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    with _little_memory():
        try:
            decoded = decode_columns(bytes(bad)).entries()
        except ContentInvalid:
            return
    assert decoded != entries


@pytest.mark.parametrize("entries", [[], [Entry(b"", Kind.DIRECTORY)]])
def test_every_cut_and_every_longer_part_is_refused(entries: list[Entry]) -> None:
    good = encode_part(entries)
    for length in range(len(good)):
        with pytest.raises(ContentInvalid):
            decode_columns(good[:length]).entries()
    with pytest.raises(ContentInvalid):
        decode_columns(good + b"\0").entries()


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_MAX


@settings(deadline=None, max_examples=200)
@given(trees(most=6), st.data())
def test_counts_that_lie_are_refused_before_anything_is_made(
    entries: list[Entry], data: st.DataObject
) -> None:
    """Each u32 of the header and of the columns of counts says 4 billion, or nearly that."""
    good = bytearray(encode_part(entries))
    n = len(entries)
    counts = [4 + 4 * number for number in range(6)]
    begin = 28 + n * (1 + 2 + 4 + 4 + 8 + 8)
    counts += [begin + 4 * number for number in range(3 * n)]
    lie = data.draw(st.sampled_from([0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 1 << 27, 1 << 20]))
    for at in data.draw(st.sets(st.sampled_from(counts), min_size=1, max_size=4)):
        struct.pack_into("<I", good, at, lie)
    with _little_memory(), pytest.raises(ContentInvalid):
        decode_columns(bytes(good)).entries()


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400))
def test_bytes_of_any_kind_are_refused(data: bytes) -> None:
    for read in (decode_columns, decode_root_block, decode_head):
        with contextlib.suppress(ContentInvalid):
            read(data)
    for magic, read in ((b"NCPT", decode_columns), (b"NCRT\x01\x01\x01\0", decode_root_block)):
        with contextlib.suppress(ContentInvalid):
            read(magic + data)


references = st.builds(reference, st.integers(0, 99), st.integers(1, 1 << 20))
blocks = st.builds(
    RootBlock,
    st.just(KIND_TREE),
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, (1 << 64) - 1),
    st.lists(references, min_size=1, max_size=6).map(tuple),
)


@settings(deadline=None, max_examples=200)
@given(blocks, st.data())
def test_a_changed_byte_of_a_root_block_changes_it_or_is_refused(
    block: RootBlock, data: st.DataObject
) -> None:
    good = encode_root_block(block)
    assert decode_root_block(good) == block
    bad = bytearray(good)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_root_block(bytes(bad))
    except ContentInvalid:
        return
    assert decoded != block
    assert encode_root_block(decoded) == bytes(bad)


def test_every_cut_and_every_longer_root_block_is_refused() -> None:
    part = FrameRef(*reference(1, 100))
    good = encode_root_block(RootBlock(KIND_TREE, bytes(16), 1, 1, 1, (part, part)))
    for bad in (*(good[:length] for length in range(len(good))), good + b"\0", good + good[-72:]):
        with pytest.raises(ContentInvalid):
            decode_root_block(bad)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.binary(min_size=1, max_size=6)
        .filter(lambda name: b"\0" not in name and name.strip(b"/"))
        .map(os.fsdecode)
    ),
    json_values,
)
def test_a_head_comes_back_and_no_other_is_taken(paths: list[str], value: object) -> None:
    document = {"excludes": ["*.o"], "mounts_left_out": paths}
    assert decode_head(encode_head(document)) == {**document, "version": 1}
    for name in ("excludes", "mounts_left_out"):
        try:
            decode_head(encode_head({name: value}))
        except ContentInvalid:
            continue
        assert isinstance(value, list)
        assert all(isinstance(one, str) and os.fsencode(one) for one in value)
