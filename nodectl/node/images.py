"""Images on a node: restore one from what is here or straight from the swarm, and compare.

What is restored must be in one place or come from one: `StoredImage` first asks this machine's
store. Where frames are missing, it takes part in the swarm itself while it restores (see
streaming.py), with a store on the target.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nodectl.content.excludes import beneath
from nodectl.content.frame import FrameCodec
from nodectl.content.restore import RestoreOptions, RestoreReport, restore_tree
from nodectl.content.tree import TreeManifest
from nodectl.content.verify import NOT_IN_IMAGE, VerifyReport, verify_tree
from nodectl.errors import FrameMissing
from nodectl.events import NullObserver, Observer
from nodectl.ids import FrameId, Root
from nodectl.node.state import HeldRoot, Membership, StateFolder
from nodectl.store.chain import ChainStore
from nodectl.store.disk import DiskStore
from nodectl.store.lease import reading_lease
from nodectl.store.memory import MemoryStore
from nodectl.store.model import NO_CHUNK, Store, StoredFrame

if TYPE_CHECKING:
    from nodectl.node.clone import FillResult
    from nodectl.node.streaming import StreamResult

TARGET_STORE = Path("var/lib/nodectl/store")


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore did, and what the swarm gave for it."""

    report: RestoreReport
    streamed: "StreamResult | None"  # None: all frames were here


class StoredImage:
    """One release that this machine may have; it is what `clone` takes as its source."""

    def __init__(self, state: StateFolder, held: HeldRoot) -> None:
        """Take a root whose release was checked."""
        self._state = state
        self._membership: Membership = state.membership()
        self._held = held
        self._codec = FrameCodec(self._membership.content_keys)
        # Root block and parts are kept at hand: the target may be unmounted when they are read.
        self._meta = MemoryStore()
        block = held.root_block
        self._meta.put_many([StoredFrame(FrameId(held.root), NO_CHUNK, len(block), block)])
        self._manifest = TreeManifest.open(held.root, self._meta, self._codec)

    @property
    def plain_bytes(self) -> int:
        """Bytes of file content."""
        return self._manifest.block.plain_bytes

    @property
    def kept_bytes(self) -> int:
        """Sealed bytes that a restore keeps on the target; none where all frames are here."""
        return 0 if self.is_here() else self._manifest.block.sealed_bytes

    @property
    def realm_id(self) -> str:
        """The realm that the image is of."""
        return self._membership.realm_id

    @property
    def node_name(self) -> str:
        """This machine's name in the realm."""
        return self._membership.node

    @property
    def release(self) -> tuple[str, int, Root]:
        """Name, generation and root."""
        return self._held.name, self._held.generation, self._held.root

    def is_here(self) -> bool:
        """Say whether this machine's store has every frame."""
        with DiskStore(self._state.store) as store:
            try:
                self._load_meta(store)
            except FrameMissing:
                return False
            return not any(store.missing(ids) for ids in self._manifest.frame_ids())

    def restore_into(
        self,
        target: Path,
        options: RestoreOptions,
        observer: Observer,
        *,
        store: Path | None = None,
    ) -> Restored:
        """Restore into a directory, which exists.

        Frames that the swarm gives are kept in `store`, by default in this machine's own.

        Raises:
            NodectlError: what content/restore.py and the swarm raise.
        """
        own = beneath(target, self._state.folder)
        options = replace(options, protected=options.protected + own)
        with reading_lease(self._state.store):
            return self._restore_into(target, options, observer, store or self._state.store)

    def _restore_into(
        self, target: Path, options: RestoreOptions, observer: Observer, kept: Path
    ) -> Restored:
        if self.is_here():
            report = restore_tree(self._manifest, target, self._open_local, options, observer)
            return Restored(report=report, streamed=None)
        # A restore of what is here is done before all of the swarm would be imported.
        from nodectl.node.streaming import StreamOptions, restore_from_swarm  # noqa: PLC0415

        seed = None if options.fresh else target
        stream = StreamOptions(restore=options, store=kept, local=self._state.store, seed=seed)
        report, streamed = restore_from_swarm(
            self._membership, self._held, target, stream, observer
        )
        with DiskStore(kept) as there, DiskStore(self._state.store) as local:
            self._load_meta(ChainStore(local, there))
        return Restored(report=report, streamed=streamed)

    def paths(self) -> Iterator[str]:
        """Return the path of every entry, without leading "/".

        Raises:
            FrameMissing: the manifest is not here.
            NodectlError: what the swarm raises.
        """
        if self._meta_missing():
            self._bring_meta()
        return (os.fsdecode(entry.path) for entry in self._manifest.entries())

    def _bring_meta(self) -> None:
        """Get the manifest into memory, from this machine's store or else from the swarm."""
        with reading_lease(self._state.store), DiskStore(self._state.store) as store:
            try:
                self._load_meta(store)
            except FrameMissing:
                from nodectl.node.streaming import fetch_manifest  # noqa: PLC0415 - the swarm

                fetch_manifest(self._membership, self._held, store)
                self._load_meta(store)

    def restore(self, target: Path, observer: Observer) -> "FillResult":
        """Put the tree into the empty, mounted `target`."""
        from nodectl.node.clone import FillResult  # noqa: PLC0415 - it needs what sets up disks

        done = self.restore_into(
            target, RestoreOptions(fresh=True), observer, store=target / TARGET_STORE
        )
        return FillResult(entries=done.report.entries, plain_bytes=done.report.written_bytes)

    def compare(self, tree: Path, observer: Observer) -> VerifyReport:
        """Compare a tree with the image, entry by entry, every byte.

        Raises:
            FrameMissing: the manifest is not here.
        """
        if self._meta_missing():
            with DiskStore(self._state.store) as store:
                self._load_meta(store)
        own = beneath(tree, self._state.folder)
        return verify_tree(self._manifest, tree, lambda: self._meta, observer, passed_over=own)

    def verify(
        self, target: Path, *, ignored: frozenset[str], extra: frozenset[str]
    ) -> Sequence[str]:
        """Compare `target` with the image; return a line for each difference that counts."""
        report = self.compare(target, NullObserver())
        allowed = extra | {str(parent) for parent in TARGET_STORE.parents}
        lines = []
        for one in report.differences:
            path = os.fsdecode(one.path)
            if path in ignored or (path in allowed and one.what == NOT_IN_IMAGE):
                continue
            lines.append(f"{path!r} {one.what}")
        return lines

    def _open_local(self) -> Store:
        return ChainStore(self._meta, DiskStore(self._state.store, catch_up=False))

    def _meta_missing(self) -> bool:
        return bool(self._meta.missing(ref.frame_id for ref in self._manifest.block.parts))

    def _load_meta(self, store: Store) -> None:
        refs = self._manifest.block.parts
        for ref, sealed in zip(refs, store.get_many([ref.frame_id for ref in refs]), strict=True):
            self._meta.put_many([StoredFrame(ref.frame_id, ref.chunk_id, ref.plain_len, sealed)])
