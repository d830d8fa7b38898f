"""The store of this machine over the years: what it must keep, and gc, repair and verify of that.

What must be kept: every root that this machine holds (roots.json) and, on the controller, every
root that has a release or a running job; of each root its block, its parts and all their frames.
"""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.opening import Manifest, open_manifest
from nodectl.content.tree import TreeManifest
from nodectl.errors import ContentInvalid, FrameMissing, NodectlError
from nodectl.events import Observer, StepProgress
from nodectl.ids import FrameId, Root
from nodectl.listen import Address, own_address
from nodectl.node.client import ControlClient
from nodectl.node.state import HeldRoot, Membership, StateFolder
from nodectl.node.swarming import NodeSwarm, listening_swarm
from nodectl.store.chain import ChainStore
from nodectl.store.disk import DiskStore
from nodectl.store.memory import MemoryStore
from nodectl.store.model import NO_CHUNK, Store, StoredFrame
from nodectl.store.scrub import Pacing, ScrubState, last_scrub, scrub

VERIFY_STEP = "verify store"
_ANY_PORT = Address("0.0.0.0", 0)  # noqa: S104 - other nodes may fetch from here
_SCRUB_EVERY_S = 7 * 24 * 3600.0
_SCRUB_LOOK_S = 60.0
_BATCH = 64  # frames read at once
_REPAIR_S = 60.0  # without one byte from anybody


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRoot:
    """A root that must stay whole."""

    root: Root
    root_block: bytes
    name: str
    generation: int
    complete: bool  # this machine had all of it; else what is here of it is kept


def held_roots(state: StateFolder) -> tuple[KnownRoot, ...]:
    """Return the roots that this machine holds."""
    return tuple(_known(held) for held in state.held_roots())


def _known(held: HeldRoot) -> KnownRoot:
    return KnownRoot(
        root=held.root,
        root_block=held.root_block,
        name=held.name,
        generation=held.generation,
        complete=held.complete,
    )


def _manifest(known: KnownRoot, store: Store, codec: FrameCodec) -> Manifest:
    """Open a manifest whose root block need not be in the store."""
    block = MemoryStore()
    frame = StoredFrame(FrameId(known.root), NO_CHUNK, len(known.root_block), known.root_block)
    block.put_many([frame])
    return open_manifest(known.root, ChainStore(store, block), codec)


def frames_needed(roots: Iterable[KnownRoot], store: Store, codec: FrameCodec) -> Iterator[FrameId]:
    """Yield every frame that the roots need.

    Raises:
        FrameMissing, ContentInvalid: of a complete root a part of the manifest is missing or
            damaged, so that nobody can say what it needs.
    """
    for known in roots:
        yield FrameId(known.root)
        manifest = _manifest(known, store, codec)
        yield from (ref.frame_id for ref in manifest.block.parts)
        try:
            yield from (ref.frame_id for ref in manifest.payload())
        except (FrameMissing, ContentInvalid) as exc:
            if known.complete:
                raise type(exc)(
                    f"what {known.name} generation {known.generation} needs cannot be told, so "
                    f"nothing was deleted: {exc}",
                    hint="nodectl store repair brings its manifest back",
                ) from exc


# ---------------------------------------------------------------- verify


@dataclass(frozen=True, slots=True, kw_only=True)
class RootCheck:
    """What is wrong with what the store has of one root."""

    name: str
    generation: int
    root: str
    frames: int
    missing: int
    damaged: tuple[str, ...]  # FrameIds

    @property
    def whole(self) -> bool:
        """Whether every frame is here and opens."""
        return not self.missing and not self.damaged


def verify_root(
    known: KnownRoot, store: DiskStore, codec: FrameCodec, observer: Observer
) -> RootCheck:
    """Open every frame of a root: identity, seal, and chunk."""
    manifest = _manifest(known, store, codec)
    frames = missing = done = 0
    damaged: list[str] = []
    seen: set[FrameId] = set()
    for batch in _batches(_refs_of(manifest)):
        new = [ref for ref in batch if ref.frame_id not in seen]
        seen.update(ref.frame_id for ref in new)
        absent = set(store.missing(ref.frame_id for ref in new))
        frames += len(new)
        missing += len(absent)
        here = [ref for ref in new if ref.frame_id not in absent]
        for ref, sealed in zip(here, store.get_many([r.frame_id for r in here]), strict=True):
            done += len(sealed)
            try:
                codec.open(sealed, ref)
            except ContentInvalid:
                damaged.append(ref.frame_id.hex())
        observer.on(StepProgress(step=VERIFY_STEP, done=done))
    return RootCheck(
        name=known.name,
        generation=known.generation,
        root=known.root.hex(),
        frames=frames,
        missing=missing,
        damaged=tuple(damaged),
    )


def _refs_of(manifest: Manifest) -> Iterator[FrameRef]:
    """Yield the parts and, as far as they can be read, the frames they name."""
    yield from manifest.block.parts
    try:
        yield from manifest.payload()
    except (FrameMissing, ContentInvalid):
        return  # the part itself is counted as missing or damaged


def _batches(refs: Iterator[FrameRef]) -> Iterator[list[FrameRef]]:
    batch: list[FrameRef] = []
    for ref in refs:
        batch.append(ref)
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


# ---------------------------------------------------------------- repair


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What repair did for one root."""

    name: str
    generation: int
    root: str
    fetched_bytes: int
    problem: str  # why it is still not whole, empty when it is
    frames: int = 0  # that the image is made of, as far as its manifest can be read
    missing: tuple[str, ...] = ()  # FrameIds of those that could not be brought back
    missing_bytes: int = 0  # of them, sealed
    missing_parts: int = 0  # of them, parts of the manifest: what they name is not counted
    hit: tuple[str, ...] = ()  # files, or ranges of a block image, that lack something

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


async def repair(
    state: StateFolder, store: DiskStore, roots: Sequence[HeldRoot], observer: Observer
) -> tuple[Repaired, ...]:
    """Fetch what the store lacks of complete roots from the swarm."""
    membership = state.membership()
    controllers = membership.controllers
    towards = controllers[0].partition("://")[2].rpartition(":")[0] if controllers else ""
    async with ControlClient(membership) as client:
        swarm = NodeSwarm(client, membership, store)
        async with listening_swarm(
            swarm, _ANY_PORT, lambda bound: own_address(bound, towards=towards)
        ):
            done = [await _repair_one(client, swarm, held, observer) for held in roots]
    return tuple(
        _with_missing(one, held, store, membership) for one, held in zip(done, roots, strict=True)
    )


def _with_missing(
    done: Repaired, held: HeldRoot, store: DiskStore, membership: Membership
) -> Repaired:
    """Say of a root that is not whole what is missing."""
    if not done.problem:
        return done
    codec = FrameCodec(membership.content_keys)
    manifest = _manifest(_known(held), store, codec)
    refs = {ref.frame_id: ref for ref in _refs_of(manifest)}
    missing = store.missing(refs)
    parts = {ref.frame_id for ref in manifest.block.parts}
    return replace(
        done,
        frames=len(refs),
        missing=tuple(frame_id.hex() for frame_id in missing),
        missing_bytes=sum(refs[frame_id].sealed_len for frame_id in missing),
        missing_parts=sum(frame_id in parts for frame_id in missing),
        hit=tuple(dict.fromkeys(_hit(manifest, set(missing)))),
    )


def _hit(manifest: Manifest, missing: AbstractSet[FrameId]) -> Iterator[str]:
    """Yield the files of a tree, or the ranges of a block image, that need what is missing."""
    # Where a part of the manifest is missing too, it ends there: that is counted.
    with contextlib.suppress(FrameMissing, ContentInvalid):
        if isinstance(manifest, TreeManifest):
            yield from (
                "/" + os.fsdecode(entry.path)
                for entry in manifest.entries()
                if any(ref.frame_id in missing for ref in entry.chunks)
            )
        else:
            yield from (
                f"bytes {chunk.offset} to {chunk.offset + chunk.ref.plain_len - 1}"
                for chunk in itertools.chain.from_iterable(manifest.ranges())
                if chunk.ref.frame_id in missing
            )


async def _repair_one(
    client: ControlClient, swarm: NodeSwarm, held: HeldRoot, observer: Observer
) -> Repaired:
    receipt: Mapping[str, Any] = {}
    problem = ""
    try:
        peers = (await client.ticket(held.root)).peers
        async with asyncio.timeout(None) as limit:
            patience = _Patience(observer, limit)
            patience.on(StepProgress(step="", done=0))
            receipt = await swarm.fetch(held, peers, patience)
    except TimeoutError:
        problem = f"nobody gave the missing frames within {_REPAIR_S:g} s"
    except NodectlError as exc:
        problem = str(exc)
    return Repaired(
        name=held.name,
        generation=held.generation,
        root=held.root.hex(),
        fetched_bytes=int(receipt.get("fetched_bytes", 0)),
        problem=problem,
    )


class _Patience:
    """Ends a fetch that does not get on; passes on what it hears."""

    def __init__(self, observer: Observer, limit: asyncio.Timeout) -> None:
        self._observer = observer
        self._limit = limit
        self._done = -1

    def on(self, event: Any) -> None:  # noqa: ANN401 - passed on as it is
        """Take one event."""
        if isinstance(event, StepProgress) and event.done != self._done:
            self._done = event.done
            self._limit.reschedule(asyncio.get_running_loop().time() + _REPAIR_S)
        if getattr(event, "step", "-"):
            self._observer.on(event)


# ---------------------------------------------------------------- scrub beside other work


class _Stopped(Exception):
    """The process ends; the scrub goes on after the next start."""


def pacing(rate: float, stop: threading.Event | None = None) -> Pacing:
    """Return the real clocks; a pass ends where it is when `stop` is set."""
    event = stop or threading.Event()

    def pause(seconds: float) -> None:
        if event.wait(seconds):
            raise _Stopped

    return Pacing(rate=rate, now=time.time, monotonic=time.monotonic, pause=pause)


async def scrub_forever(folder: Path, rate: float) -> None:
    """Scrub a store again and again, a pass a week, until cancelled."""
    while True:
        state = await asyncio.to_thread(last_scrub, folder)
        if state is None or not state.ended or time.time() - state.ended > _SCRUB_EVERY_S:
            await _scrub_once(folder, rate)
        await asyncio.sleep(_SCRUB_LOOK_S)


async def _scrub_once(folder: Path, rate: float) -> None:
    stop = threading.Event()

    def work() -> ScrubState | None:
        try:
            with DiskStore(folder, catch_up=False) as store:
                return scrub(store, pacing(rate, stop))
        except (_Stopped, NodectlError):
            return None

    working = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        await asyncio.shield(working)
    finally:
        stop.set()
        await working
