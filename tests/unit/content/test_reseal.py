"""An image sealed again: the same content under other keys, the old one beside it."""

import dataclasses
from pathlib import Path

import pytest
from controlling import Recorder

from nodectl.content.block import BlockManifest
from nodectl.content.block_capture import capture_block
from nodectl.content.block_source import SourceOptions, open_source
from nodectl.content.capture import CaptureOptions, capture_tree
from nodectl.content.frame import FrameCodec
from nodectl.content.opening import Manifest, open_manifest
from nodectl.content.reseal import reseal
from nodectl.content.tree import TreeManifest
from nodectl.errors import ContentInvalid
from nodectl.events import NullObserver, StepProgress
from nodectl.ids import FrameId, Root
from nodectl.store.disk import DiskStore
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame
from nodectl.trust.keys import RealmKey

OLD, NEW = RealmKey(secret=b"o" * 32).content_keys(), RealmKey(secret=b"n" * 32).content_keys()
BEFORE, AFTER = FrameCodec(OLD), FrameCodec(NEW)
BETWEEN = FrameCodec(dataclasses.replace(NEW, older=(OLD,)))


def _tree(folder: Path) -> Path:
    tree = folder / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "a").write_bytes(b"hello " * 1000)
    (tree / "d" / "large").write_bytes(bytes(range(256)) * 10_000)
    (tree / "same").write_bytes(b"hello " * 1000)
    (tree / "empty").touch()
    (tree / "l").symlink_to("a")
    with (tree / "hole").open("wb") as file:
        file.truncate(3 << 20)
        file.seek(1 << 20)
        file.write(b"x" * 5000)
    return tree


def _captured_tree(folder: Path, store: DiskStore, codec: FrameCodec) -> Root:
    return capture_tree(_tree(folder), store, codec, CaptureOptions(), NullObserver()).root


def _captured_disk(folder: Path, store: DiskStore, codec: FrameCodec) -> Root:
    raw = folder / "disk.raw"
    with raw.open("wb") as file:
        file.truncate(100 << 20)
        for at in (0, 70 << 20):
            file.seek(at)
            file.write(bytes(range(256)) * 2000)
    with open_source(raw, SourceOptions()) as source:
        return capture_block(source, store, codec, NullObserver()).root


def _plain(manifest: Manifest, store: DiskStore, codec: FrameCodec) -> list[bytes]:
    return [codec.open(store.get(ref.frame_id), ref) for ref in manifest.payload()]


@pytest.mark.parametrize("captured", [_captured_tree, _captured_disk])
def test_the_content_is_the_same_and_the_old_keys_open_nothing_of_it(
    tmp_path: Path, captured: "type[object]"
) -> None:
    with DiskStore(tmp_path / "store") as store:
        old_root = captured(tmp_path, store, BEFORE)  # type: ignore[call-arg]
        recorder = Recorder()
        done = reseal(old_root, store, BETWEEN, recorder)
        old = open_manifest(old_root, store, BEFORE)  # as good as it was
        new = open_manifest(done.root, store, AFTER)
        assert done.root != old_root
        assert _plain(old, store, BEFORE) == _plain(new, store, AFTER)
        assert new.head == old.head
        assert new.block == done.block
        assert (new.block.entries, new.block.sealed_bytes) == (
            old.block.entries,
            old.block.sealed_bytes,
        )
        if isinstance(old, TreeManifest) and isinstance(new, TreeManifest):
            bare = [[e._replace(chunks=()) for e in m.entries()] for m in (old, new)]
            assert bare[0] == bare[1]
        assert not {r.frame_id for r in old.payload()} & {r.frame_id for r in new.payload()}
        with pytest.raises(ContentInvalid, match="another realm"):
            open_manifest(done.root, store, BEFORE)
        for ref in new.payload():
            with pytest.raises(ContentInvalid):
                BEFORE.open(store.get(ref.frame_id), ref)
        progress = [event for event in recorder.events if isinstance(event, StepProgress)]
        assert progress[-1].done == progress[-1].total == old.block.plain_bytes
        assert isinstance(old, BlockManifest) == isinstance(new, BlockManifest)


def test_it_goes_on_where_it_was_cut_off_and_gives_the_same_root(tmp_path: Path) -> None:
    with DiskStore(tmp_path / "store") as store:
        old_root = _captured_tree(tmp_path, store, BEFORE)

        class Dies:
            def on(self, _: object) -> None:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            reseal(old_root, store, BETWEEN, Dies())
        first = reseal(old_root, store, BETWEEN, NullObserver())
        again = reseal(old_root, store, BETWEEN, NullObserver())
        assert again.root == first.root
        assert (again.new_frames, again.new_bytes) == (0, 0)


def test_the_root_block_goes_in_last(tmp_path: Path) -> None:
    class Fails(MemoryStore):
        def put_many(self, frames: "list[object]") -> None:  # type: ignore[override]
            if len(frames) == 1 and self.watched:
                raise OSError
            super().put_many(frames)  # type: ignore[arg-type]

        watched = False

    with DiskStore(tmp_path / "store") as store:
        old_root = _captured_tree(tmp_path, store, BEFORE)
        root = reseal(old_root, store, BETWEEN, NullObserver()).root
        fails = Fails()
        manifest = open_manifest(old_root, store, BEFORE)
        needed = [FrameId(old_root), *(r.frame_id for r in manifest.block.parts)]
        needed += [ref.frame_id for ref in manifest.payload()]
        for frame_id in dict.fromkeys(needed):
            place = store.index.find_many([frame_id])[frame_id]
            fails.put_many([_frame(store, place.frame_id, place.chunk_id, place.plain_len)])
        fails.watched = True
        with pytest.raises(OSError):  # noqa: PT011 - the one above
            reseal(old_root, fails, BETWEEN, NullObserver())
        assert fails.missing([FrameId(root)]) == [FrameId(root)]


def _frame(store: DiskStore, frame_id: FrameId, chunk_id: object, plain_len: int) -> object:
    return StoredFrame(frame_id, chunk_id, plain_len, store.get(frame_id))  # type: ignore[arg-type]
