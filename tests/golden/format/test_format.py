"""The format does not change by accident: a committed store is read by us and by a stranger.

`reader.py` is the stranger: it was written from docs/format.md. `make.py` writes the store again.
"""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from golden.format import make
from golden.format.reader import Reader, read_pack

from nodectl.content.frame import FrameRef
from nodectl.content.manifest import Entry, Kind, record_places
from nodectl.content.tree import TreeManifest
from nodectl.ids import FrameId, Root, id_from_hex
from nodectl.store.disk import DiskStore

GOLDEN: dict[str, Any] = json.loads(make.LISTING.read_text())
ROOT = Root(id_from_hex(GOLDEN["root"]))


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    packs = tmp_path / "packs"
    packs.mkdir()
    (packs / "golden.pack").write_bytes(make.PACK.read_bytes())
    return DiskStore(tmp_path)


def _ours(manifest: TreeManifest, store: DiskStore, entry: Entry) -> dict[str, Any]:
    known: dict[FrameId, bytes] = {}

    def opened(ref: FrameRef) -> bytes:
        if ref.frame_id not in known:
            known[ref.frame_id] = manifest.codec.open(store.get(ref.frame_id), ref)
        return known[ref.frame_id]

    places = ((offset, opened(ref)) for offset, ref in record_places(entry))
    record = entry._asdict()
    record.update(
        kind=Kind(entry.kind).name.lower(),
        xattrs=dict(entry.xattrs),
        refs=entry.chunks,
        content=make.digest(places),
    )
    return make.listing_line(record)


def test_todays_reader_reads_it(store: DiskStore) -> None:
    with store:
        manifest = TreeManifest.open(ROOT, store, make.CODEC)
        assert manifest.head == GOLDEN["head"]
        listing = [_ours(manifest, store, entry) for entry in manifest.entries()]
    assert listing == GOLDEN["records"]


def test_a_reader_written_from_the_documentation_reads_it() -> None:
    reader = Reader(bytes.fromhex(GOLDEN["realm_secret"]), read_pack(make.PACK.read_bytes()))
    assert reader.head(ROOT) == GOLDEN["head"]
    listing = [
        make.listing_line({**record, "content": make.digest(reader.chunk_places(record))})
        for record in reader.records(ROOT)
    ]
    assert listing == GOLDEN["records"]
    refs = [ref for record in reader.records(ROOT) for ref in record["refs"]]
    assert reader.totals == (
        sum(record["kind"] != "more" for record in listing),
        sum(plain_len for _, _, plain_len, _ in refs),
        sum(sealed_len for _, _, _, sealed_len in refs),
    )


def test_that_reader_shares_nothing_with_ours() -> None:
    tree = ast.parse((make.HERE / "reader.py").read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported == {
        "json", "struct", "collections.abc", "typing", "zstandard", "blake3",
        "cryptography.hazmat.primitives.ciphers.aead",
    }  # fmt: skip


def test_the_tree_has_everything() -> None:
    """So that a new kind of entry does not stay out of the golden store."""
    assert {record["kind"] for record in GOLDEN["records"]} == {kind.name.lower() for kind in Kind}
    assert any(record["extents"] for record in GOLDEN["records"])
    assert any(record["xattrs"] for record in GOLDEN["records"])


def test_writing_the_same_tree_gives_the_same_bytes() -> None:
    """The plain bytes of parts always; the ids of frames too where zstd is of the same version.

    zstd promises that every version reads what any version wrote, not that it writes the same.
    """
    root, block, frames = make.make()
    today = Reader(make.SECRET, {frame.frame_id: frame.sealed for frame in frames})
    golden = Reader(make.SECRET, read_pack(make.PACK.read_bytes()))
    if tuple(GOLDEN["zstd"]) == zstandard.ZSTD_VERSION:
        assert today.parts(root) == golden.parts(ROOT)
        assert root == ROOT
    # FrameIds stand in the parts: with another zstd, those of compressed chunks differ.
    kept = [_without_frame_ids(record) for record in today.records(root)]
    assert kept == [_without_frame_ids(record) for record in golden.records(ROOT)]
    assert today.head(root) == golden.head(ROOT)
    assert block.entries == sum(record["kind"] != "more" for record in GOLDEN["records"])


def _without_frame_ids(record: dict[str, Any]) -> dict[str, Any]:
    refs = [(chunk_id, plain_len) for chunk_id, _, plain_len, _ in record["refs"]]
    return {**record, "refs": refs}
