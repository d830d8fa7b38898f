"""Opening a manifest of whatever kind."""

from nodectl.content.block import BlockManifest
from nodectl.content.frame import FrameCodec
from nodectl.content.manifest import KIND_BLOCK
from nodectl.content.stored_manifest import read_root_block
from nodectl.content.tree import TreeManifest
from nodectl.ids import Root
from nodectl.store.model import Store

Manifest = TreeManifest | BlockManifest


def open_manifest(root: Root, store: Store, codec: FrameCodec) -> Manifest:
    """Read and check a root block, and return the manifest of its kind.

    Raises:
        FrameMissing: it is not in the store.
        ContentInvalid: it is damaged, of an unknown version or kind, or of another realm.
    """
    block = read_root_block(root, store, codec)
    kind = BlockManifest if block.kind == KIND_BLOCK else TreeManifest
    return kind(root, block, store, codec)
