"""Block images on a node: restored from what is here or from the swarm, and compared.

What the target holds is used before the network (see seeds.py).
"""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from nodectl.content.block import BlockManifest
from nodectl.content.block_compare import differences
from nodectl.content.block_restore import (
    BlockRestoreOptions,
    BlockRestoreReport,
    restore_block,
)
from nodectl.content.frame import FrameCodec
from nodectl.errors import FrameMissing
from nodectl.events import Observer
from nodectl.ids import FrameId
from nodectl.node.state import HeldRoot, StateFolder
from nodectl.store.disk import DiskStore
from nodectl.store.lease import reading_lease
from nodectl.store.model import NO_CHUNK, StoredFrame

VERIFY_STEP = "verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRestored:
    """What a restore did, and what the swarm gave for it."""

    report: BlockRestoreReport
    fetched_bytes: int
    seeded_bytes: int  # sealed bytes of what the target had, and the store had not


class BlockImage:
    """One release of a block image that this machine may have."""

    def __init__(self, state: StateFolder, held: HeldRoot) -> None:
        """Take a root whose release was checked."""
        self._state = state
        self._membership = state.membership()
        self._held = held
        self._codec = FrameCodec(self._membership.content_keys)
        self._fetched = self._seeded = 0

    def restore(
        self, target: Path, options: BlockRestoreOptions, observer: Observer
    ) -> BlockRestored:
        """Bring a file or a device to the image.

        Raises:
            NodectlError: what content/block_restore.py and the swarm raise.
        """
        with reading_lease(self._state.store), DiskStore(self._state.store) as store:
            manifest = self._open(store)
            if not self._is_here(manifest, store):
                asyncio.run(self._fetch(store, options.seed or target, observer))
                self._state.hold_root(replace(self._held, complete=True))
            report = restore_block(manifest, target, self._open_store, options, observer)
        return BlockRestored(report=report, fetched_bytes=self._fetched, seeded_bytes=self._seeded)

    def compare(self, target: Path, observer: Observer) -> list[tuple[int, int]]:
        """Return offset and length of what differs between a target and the image.

        Raises:
            FrameMissing: the manifest is not here.
            PathUnreadable: the target cannot be read.
        """
        with reading_lease(self._state.store), DiskStore(self._state.store) as store:
            return differences(self._open(store), target, observer, step=VERIFY_STEP)

    def _open(self, store: DiskStore) -> BlockManifest:
        block = self._held.root_block
        store.put_many([StoredFrame(FrameId(self._held.root), NO_CHUNK, len(block), block)])
        return BlockManifest.open(self._held.root, store, self._codec)

    def _open_store(self) -> DiskStore:
        return DiskStore(self._state.store, catch_up=False)

    @staticmethod
    def _is_here(manifest: BlockManifest, store: DiskStore) -> bool:
        try:
            return not any(
                store.missing(chunk.ref.frame_id for chunk in chunks)
                for chunks in manifest.ranges()
            )
        except FrameMissing:
            return False

    async def _fetch(self, store: DiskStore, seed: Path, observer: Observer) -> None:
        # A restore of what is here is done before all of the swarm would be imported.
        from nodectl.listen import Address, own_address  # noqa: PLC0415
        from nodectl.node.client import ControlClient  # noqa: PLC0415
        from nodectl.node.swarming import NodeSwarm, listening_swarm  # noqa: PLC0415

        any_port = Address("0.0.0.0", 0)  # noqa: S104 - other nodes fetch from here
        controllers = self._membership.controllers
        towards = controllers[0].partition("://")[2].rpartition(":")[0] if controllers else ""
        async with ControlClient(self._membership) as client:
            swarm = NodeSwarm(client, self._membership, store)
            async with listening_swarm(
                swarm, any_port, lambda bound: own_address(bound, towards=towards)
            ):
                meta = await swarm.fetch_meta(self._held, observer)
                self._seeded = await swarm.take_seed(self._held.root, seed)
                await swarm.open_table(self._held.root)
                data = await swarm.fetch_data(self._held.root, observer, lambda _: None)
        self._fetched = sum(meta.bytes_from.values()) + sum(data.bytes_from.values())
