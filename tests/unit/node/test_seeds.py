"""What a seed gives: only frames that the manifest names and the store lacks, whatever it is."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from content_lab import CODEC, ContentLab

from nodectl.content.block_capture import capture_block
from nodectl.content.block_source import SourceOptions, open_source
from nodectl.content.frame import LEVEL_BEST, LEVEL_FAST, FrameCodec
from nodectl.content.opening import Manifest, open_manifest
from nodectl.events import NullObserver
from nodectl.ids import FrameId, Root
from nodectl.node.seeds import take_seed
from nodectl.store.memory import MemoryStore
from nodectl.store.model import NO_CHUNK, Store, StoredFrame
from nodectl.trust.keys import RealmKey
from nodectl.units import MIB

KEYS = RealmKey(secret=b"k" * 32).content_keys()


def _text(rng: random.Random, size: int) -> bytes:
    """Make what both levels compress, and not to the same bytes."""
    words = [rng.randbytes(6).hex().encode() for _ in range(200)]
    return b" ".join(rng.choices(words, k=size // 12))


@pytest.fixture
def lab(tmp_path: Path) -> ContentLab:
    return ContentLab(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    rng = random.Random(1)
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "text").write_bytes(_text(rng, 200_000))
    (tree / "d" / "noise").write_bytes(rng.randbytes(50_000))
    (tree / "same").write_bytes((tree / "d" / "noise").read_bytes())
    (tree / "large").write_bytes(rng.randbytes(3 * MIB + 5))
    with (tree / "sparse").open("wb") as file:
        file.truncate(5 * MIB)
        file.seek(2 * MIB)
        file.write(rng.randbytes(20_000))
    return tree


def _bare(lab: ContentLab, root: Root) -> tuple[Manifest, MemoryStore]:
    """Return a manifest in a store that has nothing else."""
    store = MemoryStore()
    block = lab.store.get(FrameId(root))
    store.put_many([StoredFrame(FrameId(root), NO_CHUNK, len(block), block)])
    manifest = open_manifest(root, store, CODEC)
    for ref in manifest.block.parts:
        sealed = lab.store.get(ref.frame_id)
        store.put_many([StoredFrame(ref.frame_id, ref.chunk_id, ref.plain_len, sealed)])
    return manifest, store


def _lacking(manifest: Manifest, store: Store) -> int:
    """Return the sealed bytes of what a store lacks, each frame once."""
    refs = {ref.frame_id: ref.sealed_len for ref in manifest.payload()}
    return sum(refs[one] for one in store.missing(refs))


def _captured_disk(lab: ContentLab, path: Path, codec: FrameCodec = CODEC) -> Root:
    with open_source(path, SourceOptions()) as source:
        return capture_block(source, lab.store, codec, NullObserver()).root


def test_an_equal_tree_gives_all_and_each_frame_counts_once(lab: ContentLab, tree: Path) -> None:
    manifest, store = _bare(lab, lab.capture(tree).root)
    lacking = _lacking(manifest, store)
    assert take_seed(manifest, store, tree, KEYS) == lacking > 3 * MIB
    assert _lacking(manifest, store) == 0
    for ref in manifest.payload():
        assert CODEC.open(store.get(ref.frame_id), ref)  # raises if it is not
    assert take_seed(manifest, store, tree, KEYS) == 0


@pytest.mark.parametrize("level", [LEVEL_FAST, LEVEL_BEST])
def test_an_equal_disk_gives_all_whichever_level_it_was_captured_with(
    lab: ContentLab, tmp_path: Path, level: int
) -> None:
    rng = random.Random(2)
    disk = tmp_path / "disk"
    text = _text(rng, 500_000)
    disk.write_bytes(text + bytes(8 * MIB) + rng.randbytes(MIB) + text)
    manifest, store = _bare(lab, _captured_disk(lab, disk, FrameCodec(KEYS, level=level)))
    lacking = _lacking(manifest, store)
    assert take_seed(manifest, store, disk, KEYS) == lacking > 0
    assert _lacking(manifest, store) == 0


def test_an_image_from_before_the_keys_changed_is_found_with_the_keys_of_then(
    lab: ContentLab, tree: Path
) -> None:
    manifest, store = _bare(lab, lab.capture(tree).root)
    lacking = _lacking(manifest, store)
    today = replace(RealmKey(secret=b"n" * 32).content_keys(), older=(KEYS,))
    assert take_seed(manifest, store, tree, replace(today, older=())) == 0
    assert take_seed(manifest, store, tree, today) == lacking > 0


def test_what_changed_is_left_out(lab: ContentLab, tree: Path) -> None:
    manifest, store = _bare(lab, lab.capture(tree).root)
    lacking = _lacking(manifest, store)
    with (tree / "large").open("r+b") as file:
        file.seek(MIB + 7)
        file.write(b"changed")
    os.truncate(tree / "d" / "text", 1000)
    (tree / "sparse").unlink()
    taken = take_seed(manifest, store, tree, KEYS)
    assert taken == lacking - _lacking(manifest, store)
    assert MIB + 20_000 < _lacking(manifest, store) < 2 * MIB


def _links(tree: Path, elsewhere: Path) -> None:
    (tree / "d").rename(elsewhere)
    (tree / "d").symlink_to(elsewhere)
    (tree / "same").unlink()
    (tree / "same").symlink_to(elsewhere / "noise")


def _fifos(tree: Path, _: Path) -> None:
    for name in ("d/text", "d/noise", "same"):
        (tree / name).unlink()
        os.mkfifo(tree / name)


def _file_for_directory(tree: Path, elsewhere: Path) -> None:
    (tree / "d").rename(elsewhere)
    (tree / "d").write_bytes(b"not a directory")
    (tree / "same").unlink()


@pytest.mark.parametrize("spoil", [_links, _fifos, _file_for_directory])
def test_other_kinds_of_entries_are_no_seeds_and_links_are_not_followed(
    lab: ContentLab, tree: Path, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    manifest, store = _bare(lab, lab.capture(tree).root)
    spoil(tree, tmp_path / "elsewhere")
    assert take_seed(manifest, store, tree, KEYS) > 3 * MIB  # the large and the sparse file
    assert 50_000 < _lacking(manifest, store) < 200_000


def _nothing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize("make", [_nothing, Path.mkdir, os.mkfifo, Path.touch])
def test_a_seed_of_another_kind_gives_nothing(
    lab: ContentLab, tree: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    disk, seed = tmp_path / "disk", tmp_path / "seed"
    disk.write_bytes(random.Random(3).randbytes(MIB))
    make(seed)
    for root in (lab.capture(tree).root, _captured_disk(lab, disk)):
        manifest, store = _bare(lab, root)
        assert take_seed(manifest, store, seed, KEYS) == 0


def test_it_ends_when_it_is_told_to(lab: ContentLab, tree: Path) -> None:
    manifest, store = _bare(lab, lab.capture(tree).root)
    asked = iter([False, False])
    taken = take_seed(manifest, store, tree, KEYS, stopped=lambda: next(asked, True))
    assert taken > 0
    assert _lacking(manifest, store) > 0
