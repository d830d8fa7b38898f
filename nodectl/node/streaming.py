"""Restoring straight from the swarm: what arrives is stored, served on, and written at once.

The swarm runs in a thread of its own; spans that are durable go through a queue to the workers of
the restore. The store stands on the target, so that RAM need not hold the image, and while it fills
this process is a peer like any other.
"""

import asyncio
import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from nodectl.content.frame import FrameCodec
from nodectl.content.restore import Restore, RestoreOptions, RestoreReport
from nodectl.content.tree import TreeManifest
from nodectl.content.workers import WorkerPool
from nodectl.content.writing import RestoreHandler
from nodectl.errors import ControllerUnreachable, NodectlError
from nodectl.events import Note, NullObserver, Observer
from nodectl.ids import FrameId
from nodectl.listen import Address, own_address
from nodectl.node.client import ControlClient
from nodectl.node.state import HeldRoot, Membership
from nodectl.node.swarming import NodeSwarm, listening_swarm
from nodectl.store.chain import ChainStore
from nodectl.store.disk import DiskStore
from nodectl.store.model import NO_CHUNK, Store, StoredFrame

_ANNOUNCE_S = 2.0
_END: None = None
_ANY_PORT = Address("0.0.0.0", 0)  # noqa: S104 - other nodes fetch from here


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Where things go."""

    restore: RestoreOptions
    store: Path  # made on the target; frames that come are kept here
    local: Path  # this machine's store, which may have some of them
    seed: Path | None = None  # the target, where it may have some of the content already
    listen: Address = _ANY_PORT


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamResult:
    """What the swarm gave."""

    fetched_bytes: int
    seeded_bytes: int  # sealed bytes of what the target had, and no store had
    bytes_from: dict[str, int]  # node: sealed bytes


def restore_from_swarm(
    membership: Membership,
    held: HeldRoot,
    target: Path,
    options: StreamOptions,
    observer: Observer,
) -> tuple[RestoreReport, StreamResult]:
    """Fetch and restore at the same time.

    Raises:
        NodectlError: what the swarm, the store and the restore raise.
    """
    folders = dict.fromkeys((options.local, options.store))  # may be one and the same

    def open_stores() -> Store:
        return ChainStore(*(DiskStore(folder, catch_up=False) for folder in folders))

    codec = FrameCodec(membership.content_keys)
    with contextlib.ExitStack() as stack:
        stores = ChainStore(*(stack.enter_context(DiskStore(folder)) for folder in folders))
        block = held.root_block
        stores.put_many([StoredFrame(FrameId(held.root), NO_CHUNK, len(block), block)])
        manifest = TreeManifest.open(held.root, stores, codec)
        # The workers are forked before the thread of the swarm begins: see workers.py.
        with (
            WorkerPool(lambda: RestoreHandler(manifest, open_stores, target)) as pool,
            _Feed(membership, held, stores, options, observer) as feed,
        ):
            feed.wait_for_manifest()
            with Restore(manifest, target, options.restore, observer) as restore:
                restore.prepare()
                restore.fill(pool, restore.jobs(feed.spans()))
                return restore.finish(), feed.result()


def fetch_manifest(membership: Membership, held: HeldRoot, store: Store) -> None:
    """Fetch the manifest alone into `store`, so that it can be looked at before any disk is.

    Raises:
        NodectlError: what the swarm and the store raise.
    """
    block = held.root_block
    store.put_many([StoredFrame(FrameId(held.root), NO_CHUNK, len(block), block)])

    async def fetch() -> None:
        async with ControlClient(membership) as client:
            swarm = NodeSwarm(client, membership, store)
            async with listening_swarm(swarm, _ANY_PORT, _host_towards(membership)):
                await swarm.seed(held)
                await swarm.fetch_meta(held, NullObserver())

    asyncio.run(fetch())


def _host_towards(membership: Membership) -> Callable[[Address], str]:
    """Return what says under which host a listening address is reached from the controller."""
    controllers = membership.controllers
    towards = controllers[0].partition("://")[2].rpartition(":")[0] if controllers else ""
    return partial(own_address, towards=towards)


class _Feed:
    """The thread in which the swarm runs, seen from the restore."""

    def __init__(
        self,
        membership: Membership,
        held: HeldRoot,
        stores: Store,
        options: StreamOptions,
        observer: Observer,
    ) -> None:
        self._membership = membership
        self._held = held
        self._stores = stores
        self._options = options
        self._observer = observer
        self._manifest_here: Future[None] = Future()
        self._result: Future[StreamResult] = Future()
        self._spans: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[StreamResult] | None = None
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the swarm; also in the middle of it, when the restore failed."""
        if self._loop is not None and self._task is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def wait_for_manifest(self) -> None:
        """Return when all parts of the manifest are in the store."""
        self._manifest_here.result()

    def spans(self) -> Iterator[int]:
        """Yield each span as soon as it is here; raises what ended the swarm too early."""
        while (span := self._spans.get()) is not _END:
            yield span
        if self._result.done() and self._result.exception() is not None:
            self._result.result()

    def result(self) -> StreamResult:
        """Return what the swarm gave."""
        return self._result.result()

    def _run(self) -> None:
        try:
            self._result.set_result(asyncio.run(self._main()))
        except BaseException as exc:  # noqa: BLE001 - raised again where the result is wanted
            self._result.set_exception(exc)
            if not self._manifest_here.done():
                self._manifest_here.set_exception(exc)
        finally:
            self._spans.put(_END)

    async def _main(self) -> StreamResult:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        async with ControlClient(self._membership) as client, asyncio.TaskGroup() as group:
            swarm = NodeSwarm(client, self._membership, self._stores)
            host_of = _host_towards(self._membership)
            async with listening_swarm(swarm, self._options.listen, host_of):
                await swarm.seed(self._held)
                announcing = group.create_task(self._announce(swarm))
                result = await self._fetch(swarm)
                announcing.cancel()
                return result

    async def _fetch(self, swarm: NodeSwarm) -> StreamResult:
        meta = await swarm.fetch_meta(self._held, self._observer)
        seed = self._options.seed
        seeded = 0 if seed is None else await swarm.take_seed(self._held.root, seed)
        table = await swarm.open_table(self._held.root)
        here = swarm.here(self._held.root)
        self._manifest_here.set_result(None)
        for span in range(len(table)):
            if here >> span & 1:
                self._spans.put(span)
        data = await swarm.fetch_data(self._held.root, self._observer, self._spans.put)
        bytes_from = Counter(meta.bytes_from) + Counter(data.bytes_from)
        return StreamResult(
            fetched_bytes=bytes_from.total(),
            seeded_bytes=seeded,
            bytes_from=dict(bytes_from),
        )

    async def _announce(self, swarm: NodeSwarm) -> None:
        """Tell the tracker of this peer again and again; without it the known peers do."""
        while True:
            try:
                await swarm.announce(self._held.root)
            except ControllerUnreachable:
                pass
            except NodectlError as exc:
                self._observer.on(Note(text=f"the controller refused an announcement: {exc}"))
            await asyncio.sleep(_ANNOUNCE_S)
