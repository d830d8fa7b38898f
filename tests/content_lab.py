"""A store and the three verbs of content, for tests; and manifests that no capture would write."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from blake3 import blake3

from nodectl.content.capture import CaptureOptions, CaptureReport, capture_tree
from nodectl.content.format import encode_head, encode_part, encode_root_block
from nodectl.content.frame import Frame, FrameCodec, FrameRef
from nodectl.content.manifest import KIND_TREE, Entry, Kind, RootBlock
from nodectl.content.restore import RestoreOptions, RestoreReport, restore_tree
from nodectl.content.stored_manifest import stored
from nodectl.content.tree import TreeManifest
from nodectl.content.verify import VerifyReport, verify_tree
from nodectl.events import Event, Note
from nodectl.ids import FrameId, Root
from nodectl.store.disk import DiskStore
from nodectl.store.model import NO_CHUNK, StoredFrame
from nodectl.trust.keys import RealmKey

CODEC = FrameCodec(RealmKey(secret=b"k" * 32).content_keys())


class Notes:
    """Keeps the notes that it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


class ContentLab:
    """One store in `folder`/store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DiskStore(folder / "store")
        self.notes = Notes()

    def capture(self, tree: Path, **options: Any) -> CaptureReport:  # noqa: ANN401
        return capture_tree(tree, self.store, CODEC, CaptureOptions(**options), self.notes)

    def open_store(self) -> DiskStore:
        return DiskStore(self.folder / "store", catch_up=False)

    def restore(self, root: Root, target: Path, **options: Any) -> RestoreReport:  # noqa: ANN401
        target.mkdir(exist_ok=True)
        manifest = TreeManifest.open(root, self.store, CODEC)
        how = RestoreOptions(**options)
        return restore_tree(manifest, target, self.open_store, how, self.notes)

    def verify(self, root: Root, tree: Path) -> VerifyReport:
        manifest = TreeManifest.open(root, self.store, CODEC)
        return verify_tree(manifest, tree, self.open_store, self.notes)

    # ------------------------------------------------------------ without any check

    def seal(self, plain: bytes) -> FrameRef:
        """Store a chunk; return its reference."""
        return self._put(CODEC.seal(plain, CODEC.chunk_id(plain)))

    def forge(
        self,
        parts: Sequence[Iterable[Entry] | bytes],
        *,
        head: bytes | None = None,
        count: int | None = None,
    ) -> Root:
        """Store a manifest of these parts (bytes are taken as they are); return its root."""
        plain = [one if isinstance(one, bytes) else encode_part(one) for one in parts]
        rows = [row for part in parts if not isinstance(part, bytes) for row in part]
        entries = sum(row.kind != Kind.MORE for row in rows) if count is None else count
        refs = tuple(self.seal(one) for one in (head or encode_head({"excludes": []}), *plain))
        data = encode_root_block(RootBlock(KIND_TREE, CODEC.realm_tag(), entries, 0, 0, refs))
        root = Root(blake3(data).digest())
        self.store.put_many([StoredFrame(FrameId(root), NO_CHUNK, len(data), data)])
        return root

    def _put(self, frame: Frame) -> FrameRef:
        self.store.put_many([stored(frame)])
        return frame.ref


def listing(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Return all that stands below a folder, links not followed: what it is and what is in it."""
    found: dict[bytes, tuple[object, ...]] = {}
    for top, directories, files in os.walk(os.fsencode(folder)):
        for name in (b".", *directories, *files):
            path = os.path.join(top, name)  # noqa: PTH118 - names need not be UTF-8
            status = os.lstat(path)
            content: object = None
            if os.path.islink(path):  # noqa: PTH114
                content = os.readlink(path)  # noqa: PTH115
            elif os.path.isfile(path):  # noqa: PTH113
                content = Path(os.fsdecode(path)).read_bytes()
            found[path] = (
                status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns,
                status.st_nlink, content,
            )  # fmt: skip
    return found
