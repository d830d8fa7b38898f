"""A swarm in one process for tests: real aiohttp servers on loopback, stores in memory."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler
from blake3 import blake3

from nodectl.content.frame import FrameRef
from nodectl.door import Door, DoorLimits, Guards, Strangers
from nodectl.errors import ControllerUnreachable
from nodectl.ids import ChunkId, FrameId, Root
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame
from nodectl.swarm.client import FetchOptions, FetchReport, fetch
from nodectl.swarm.keys import SwarmKeys
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.server import SwarmServer
from nodectl.swarm.share import Share, SwarmTask

ROOT = Root(bytes([7]) * 32)
KEY = bytes(range(32))
QUICK = Limits(
    store_gap_s=0.01,
    have_gap_s=0.02,
    hedge_min_s=0.5,
    dead_first_s=0.1,
    ask_first_s=0.1,
    progress_s=2.0,
    stall_s=20.0,
)


def make_frames(count: int, size: int, *, seed: int = 1) -> list[StoredFrame]:
    """Return frames of `size` bytes each; their content is noise, as sealed bytes are."""
    rng = random.Random(seed)
    frames = []
    for i in range(count):
        sealed = rng.randbytes(size)
        frame_id = FrameId(blake3(sealed).digest())
        frames.append(StoredFrame(frame_id, ChunkId(i.to_bytes(32, "big")), size, sealed))
    return frames


def make_task(frames: Sequence[StoredFrame], per_span: int) -> SwarmTask:
    """Return a swarm over these frames."""
    refs = [FrameRef(f.chunk_id, f.frame_id, f.plain_len, len(f.sealed)) for f in frames]
    spans = [tuple(refs[i : i + per_span]) for i in range(0, len(refs), per_span)]
    return SwarmTask(root=ROOT, phase=Phase.DATA, keys=SwarmKeys(KEY), spans=spans)


async def _nothing(_: web.Request) -> web.StreamResponse:  # noqa: RUF029 - aiohttp wants it
    raise web.HTTPNotFound


@dataclass(slots=True, eq=False)
class Tracker:
    """A tracker in memory that can be switched off."""

    known: dict[str, PeerInfo] = field(default_factory=dict)
    dead: bool = False
    asked: int = 0

    async def peers(self) -> Sequence[PeerInfo]:
        self.asked += 1
        if self.dead:
            raise ControllerUnreachable("the controller does not answer")
        return tuple(self.known.values())


@dataclass(slots=True, eq=False)
class Peer:
    """One node of the lab."""

    info: PeerInfo
    store: MemoryStore
    server: SwarmServer
    share: Share
    runner: web.AppRunner
    tracker: Tracker
    limits: Limits

    async def fetch(self, **changes: object) -> FetchReport:
        options = {"me": self.info, "source": self.tracker, "rng": random.Random(self.info.name)}
        return await fetch(self.share, FetchOptions(**{**options, **changes}))  # type: ignore[arg-type]

    async def stop(self) -> None:
        """Pull the plug."""
        await self.runner.cleanup()


class Lab:
    """Peers that know each other through one tracker."""

    def __init__(self, task: SwarmTask, *, limits: Limits = QUICK) -> None:
        self.task = task
        self.tracker = Tracker()
        self.peers: dict[str, Peer] = {}
        self._limits = limits

    async def add(
        self,
        name: str,
        frames: Sequence[StoredFrame] = (),
        *,
        limits: Limits | None = None,
        store: MemoryStore | None = None,
        on_span: Handler | None = None,
        door: DoorLimits | None = None,
    ) -> Peer:
        limits = limits or self._limits
        store = store or MemoryStore()
        store.put_many(frames)
        server = SwarmServer(limits=limits)
        if on_span is not None:
            server._on_span = on_span  # type: ignore[assignment,method-assign]
            server._on_any = _nothing  # type: ignore[method-assign]  # it is asked by name then
        app = web.Application()
        server.mount(app)
        door = door or DoorLimits()
        guards = Guards(door, Strangers(door.strangers))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = Door(runner, "127.0.0.1", 0, tls=None, guards=guards)
        await site.start()
        host, port = runner.addresses[0][:2]
        info = PeerInfo(name=name, url=f"http://{host}:{port}")
        share = await server.add_swarm(self.task, store)
        peer = Peer(info, store, server, share, runner, self.tracker, limits)
        self.peers[name] = peer
        self.tracker.known[name] = info
        return peer

    async def close(self) -> None:
        for peer in self.peers.values():
            await peer.stop()


@contextlib.asynccontextmanager
async def lab(task: SwarmTask, *, limits: Limits = QUICK) -> AsyncIterator[Lab]:
    """Open a lab, close all its servers at the end, and never hang."""
    async with asyncio.timeout(60):
        made = Lab(task, limits=limits)
        try:
            yield made
        finally:
            await made.close()
