"""Manifests through a store: parts end where they should, and each can be read."""

import pytest
from strategies import reference

from nodectl.content.frame import CHUNK_MAX, FrameCodec
from nodectl.content.manifest import RECORD_CHUNKS_MAX, XATTRS_MAX, Entry, Kind
from nodectl.content.tree import ManifestWriter, TreeManifest
from nodectl.errors import ContentInvalid, FrameMissing
from nodectl.ids import FrameId, Root
from nodectl.store.memory import MemoryStore
from nodectl.store.model import NO_CHUNK, StoredFrame
from nodectl.trust.keys import ContentKeys

ROOT = Entry(b"", Kind.DIRECTORY)


def write(
    codec: FrameCodec, entries: list[Entry], head: dict[str, object] | None = None
) -> tuple[TreeManifest, MemoryStore]:
    """Write a manifest into a new store and open it."""
    store = MemoryStore()
    writer = ManifestWriter(codec, lambda frame: store.put_many([frame]))
    for entry in entries:
        writer.add(entry)
    root, _, frame = writer.finish(head or {})
    store.put_many([frame])
    return TreeManifest.open(root, store, codec), store


def test_the_largest_records_still_make_parts_that_fit_a_chunk(codec: FrameCodec) -> None:
    """A part just below its aim, and behind it one record with the most of everything."""
    value = bytes(XATTRS_MAX - 10)
    small = [
        Entry(b"%05d" % n, Kind.FILE, size=CHUNK_MAX * 50, chunks=(reference(n, CHUNK_MAX),) * 50)
        for n in range(110)
    ]
    large = Entry(
        b"n" * 200,
        Kind.FILE,
        size=3 * CHUNK_MAX * RECORD_CHUNKS_MAX,
        extents=tuple((2 * CHUNK_MAX * n, 4096) for n in range(RECORD_CHUNKS_MAX)),
        chunks=(reference(1, 4096),) * RECORD_CHUNKS_MAX,
        xattrs=((b"user.large", value),),
    )
    entries = [ROOT, *small, large, Entry(b"o", Kind.FIFO)]
    manifest, _ = write(codec, entries)
    assert list(manifest.entries()) == entries
    assert max(ref.plain_len for ref in manifest.block.parts) <= CHUNK_MAX


def test_a_head_that_would_not_fit_is_refused_at_once(codec: FrameCodec) -> None:
    with pytest.raises(ContentInvalid, match="too much"):
        write(codec, [ROOT], {"excludes": ["*.o" * 10] * 40_000})


def test_a_small_change_changes_few_parts(codec: FrameCodec) -> None:
    entries = [ROOT, *(Entry(b"%06d" % n, Kind.FIFO) for n in range(20_000))]
    one, _ = write(codec, entries)
    two, _ = write(codec, [*entries[:9_000], *entries[9_001:]])
    assert len(one.block.parts) > 10
    assert len(set(two.block.parts) - set(one.block.parts)) <= 2


def test_a_manifest_of_another_realm_is_refused(codec: FrameCodec) -> None:
    manifest, store = write(codec, [ROOT])
    other = FrameCodec(ContentKeys(chunk_id=b"o" * 32, seal=b"s" * 32, nonce=b"n" * 32))
    with pytest.raises(ContentInvalid, match="another realm"):
        TreeManifest.open(manifest.root, store, other)


def test_a_damaged_root_block_is_refused(codec: FrameCodec) -> None:
    manifest, store = write(codec, [ROOT])
    data = bytearray(store.get(FrameId(manifest.root)))
    data[30] ^= 1
    damaged = MemoryStore()
    damaged.put_many([StoredFrame(FrameId(manifest.root), NO_CHUNK, len(data), bytes(data))])
    with pytest.raises(ContentInvalid, match="damaged"):
        TreeManifest.open(manifest.root, damaged, codec)
    with pytest.raises(FrameMissing):
        TreeManifest.open(Root(bytes(32)), store, codec)


def test_a_manifest_that_lacks_entries_is_refused(codec: FrameCodec) -> None:
    manifest, store = write(codec, [ROOT, Entry(b"a", Kind.FIFO)])
    short = TreeManifest(manifest.root, manifest.block._replace(entries=3), store, codec)
    with pytest.raises(ContentInvalid, match="not complete"):
        list(short.entries())
    without = manifest.block._replace(parts=manifest.block.parts[:1])
    with pytest.raises(ContentInvalid, match="not complete"):
        list(TreeManifest(manifest.root, without, store, codec).entries())


def test_a_part_that_is_another_chunk_is_refused(codec: FrameCodec) -> None:
    manifest, store = write(codec, [ROOT])
    head, part = manifest.block.parts
    for parts in ((head, head), (head, part._replace(chunk_id=head.chunk_id))):
        with pytest.raises(ContentInvalid):
            list(
                TreeManifest(
                    manifest.root, manifest.block._replace(parts=parts), store, codec
                ).entries()
            )


def test_spans_of_the_manifest_and_of_its_files(codec: FrameCodec) -> None:
    ref = reference(7, 5)
    manifest, store = write(codec, [ROOT, Entry(b"a", Kind.FILE, size=5, chunks=(ref,))])
    assert list(manifest.span_table()) == [(ref,)]
    assert list(manifest.meta_table()) == [manifest.block.parts]
    assert list(manifest.through(store).entries()) == list(manifest.entries())
