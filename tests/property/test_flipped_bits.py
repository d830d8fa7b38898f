"""A flipped bit anywhere in an index or in a stored manifest: found or harmless, never a loss.

`NODECTL_FLIPS_EVERY=1` tries every byte of the index, without it a sample of them is tried.
"""

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from content_lab import CODEC
from small_frames import frame

from nodectl.content.manifest import Entry, Kind
from nodectl.content.tree import ManifestWriter, TreeManifest
from nodectl.errors import ContentInvalid, FrameMissing, StoreInvalid
from nodectl.ids import FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.gc import GcOptions, collect
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame
from nodectl.store.scrub import Pacing, scrub

EVERY = int(os.environ.get("NODECTL_FLIPS_EVERY", "41"))
FAST = Pacing(rate=0, now=lambda: 5.0, monotonic=lambda: 0.0, pause=lambda _: None)
FRAMES = [frame(number, 40) for number in range(1, 9)]
IDS = [one.frame_id for one in FRAMES]
DEAD = [frame(number, 40) for number in range(20, 32)]  # so that gc rewrites the pack


def make_store(folder: Path) -> Path:
    """Make a store of a few frames with small pages, so that the index is a few KiB."""
    folder.mkdir()
    with sqlite3.connect(folder / "index.sqlite") as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute("VACUUM")
    connection.close()
    with DiskStore(folder) as store:
        store.put_many([*FRAMES, *DEAD])
    return folder / "index.sqlite"


def places(data: bytes) -> Iterator[int]:
    """Yield offsets to try: a sample, and of zeros, which mean nothing mostly, few."""
    for at in range(EVERY // 2, len(data), EVERY):
        if EVERY == 1 or data[at] or at % 4 == 0:
            yield at


def use(folder: Path) -> None:
    """Ask for all, then let gc and scrub work; whatever is refused is refused by name."""
    with DiskStore(folder) as store:
        for one in FRAMES:
            try:
                found = store.get(one.frame_id)
            except FrameMissing:
                continue
            # What comes is the frame, or something that no reader takes for it.
            assert found == one.sealed or blake3(found).digest() != one.frame_id
        collect(store, lambda: IDS, GcOptions(grace_s=-10.0))
        scrub(store, FAST, restart=True)


def test_a_flipped_bit_in_the_index_loses_no_frame(tmp_path: Path) -> None:
    index = make_store(tmp_path / "whole")
    data = index.read_bytes()
    told = 0
    for at in places(data):
        folder = tmp_path / "damaged"
        shutil.copytree(tmp_path / "whole", folder)
        changed = bytearray(data)
        changed[at] ^= 1 << random.Random(at).randrange(8)
        (folder / "index.sqlite").write_bytes(changed)
        for _ in range(3):  # a refusal leads to an index that is made again
            try:
                use(folder)
            except StoreInvalid:
                told += 1
            else:
                break
        else:
            pytest.fail(f"byte {at}: the store is refused again and again")
        with DiskStore(folder) as store:
            assert store.missing(IDS) == [], at
            state = scrub(store, FAST, restart=True)
            assert state.damaged == (), at
            assert [store.get(one) for one in IDS] == [one.sealed for one in FRAMES], at
        shutil.rmtree(folder)
    assert told > 0


def test_an_index_that_forgets_what_is_needed_does_not_let_gc_delete_it(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    with DiskStore(tmp_path / "s") as store:
        with store.index.transaction() as connection:
            connection.execute("DELETE FROM frames WHERE frame_id = ?", (IDS[0],))
        assert store.missing(IDS) == [IDS[0]]
        report = collect(store, lambda: IDS, GcOptions(grace_s=-10.0))
        assert report.deleted_packs == 1
        assert store.missing(IDS) == []
        assert store.get(IDS[0]) == FRAMES[0].sealed


def test_a_wrong_end_of_a_pack_in_the_index_cuts_nothing(tmp_path: Path) -> None:
    make_store(tmp_path / "s")
    (pack,) = (tmp_path / "s" / "packs").iterdir()
    whole = pack.read_bytes()
    for end in range(1, len(whole), 37):
        with (
            DiskStore(tmp_path / "s", catch_up=False) as store,
            store.index.transaction() as connection,
        ):
            connection.execute("UPDATE packs SET indexed = ?", (end,))
        with DiskStore(tmp_path / "s") as store:
            assert store.missing(IDS) == []
        assert pack.read_bytes() == whole


def test_every_flipped_bit_in_a_stored_manifest_is_refused() -> None:
    """Root block and parts: each bit, one at a time; nothing of what they say is believed."""
    whole = MemoryStore()
    writer = ManifestWriter(CODEC, lambda one: whole.put_many([one]))
    entries = [
        Entry(b"", Kind.DIRECTORY),
        Entry(b"etc", Kind.DIRECTORY),
        *(Entry(b"etc/%d" % number, Kind.FIFO) for number in range(3)),
    ]
    for entry in entries:
        writer.add(entry)
    root, block, root_frame = writer.finish({"excludes": []})
    whole.put_many([root_frame])
    manifest = TreeManifest.open(root, whole, CODEC)
    assert list(manifest.entries()) == entries
    tried = 0
    for frame_id in (FrameId(root), *(part.frame_id for part in block.parts)):
        sealed = whole.get(frame_id)
        for bit in range(len(sealed) * 8):
            changed = bytearray(sealed)
            changed[bit // 8] ^= 1 << bit % 8
            store = MemoryStore()
            for other in (FrameId(root), *(part.frame_id for part in block.parts)):
                data = bytes(changed) if other == frame_id else whole.get(other)
                store.put_many([StoredFrame(other, root_frame.chunk_id, len(data), data)])
            with pytest.raises(ContentInvalid):
                read_all(TreeManifest.open(root, store, CODEC))
            tried += 1
    assert tried > 2000


def read_all(manifest: TreeManifest) -> None:
    list(manifest.entries())
    assert manifest.head == {"excludes": []}
