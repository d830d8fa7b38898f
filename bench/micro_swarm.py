"""One process serves, others fetch, over loopback, from memory to memory: MB/s and CPU seconds.

    python bench/micro_swarm.py --mib 512 --frame-kib 64 --peers 1 --json

With `--peers 1` this is one seeder and one node that forgets what it stored, so that RSS is that of
the swarm; with more, each keeps what it got, to pass it on. On two cores all ends share them.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from aiohttp import web
from blake3 import blake3

from nodectl.content.frame import FrameRef
from nodectl.ids import ChunkId, FrameId, Root
from nodectl.listen import Address, listening
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame
from nodectl.swarm.client import FetchOptions, fetch
from nodectl.swarm.keys import SwarmKeys
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.server import SwarmServer
from nodectl.swarm.share import SwarmTask

MIB = 1 << 20


class Made(MemoryStore):
    """Has frames that are made when they are asked for: any size, and no memory for it."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self._noise = os.urandom(size - 8)
        self._numbers = {FrameId(blake3(self.frame(i)).digest()): i for i in range(count)}

    def frame(self, number: int) -> bytes:
        return number.to_bytes(8, "big") + self._noise

    def refs(self) -> list[FrameRef]:
        size = 8 + len(self._noise)
        return [FrameRef(ChunkId(one), one, size, size) for one in self._numbers]

    def missing(self, frame_ids: Iterable[FrameId]) -> list[FrameId]:
        return [one for one in frame_ids if one not in self._numbers]

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        return (self.frame(self._numbers[one]) for one in frame_ids)


class Forgetful(MemoryStore):
    """Stores nothing of what comes, so that memory is not what is measured."""

    def put_many(self, frames: Sequence[StoredFrame]) -> None:
        del frames


class Fixed:
    """A tracker that always says the same."""

    def __init__(self, peers: Sequence[PeerInfo]) -> None:
        self._peers = peers

    async def peers(self) -> Sequence[PeerInfo]:
        return self._peers


def make(mib: int, frame_kib: int) -> tuple[SwarmTask, Made]:
    store = Made(mib * 1024 // frame_kib, frame_kib * 1024)
    refs = store.refs()
    aim = min(max(mib * MIB // 256, MIB), 4 * MIB) // (frame_kib * 1024) or 1
    spans = [tuple(refs[i : i + aim]) for i in range(0, len(refs), aim)]
    keys = SwarmKeys(bytes(32))
    return SwarmTask(root=Root(bytes(32)), phase=Phase.DATA, keys=keys, spans=spans), store


def usage() -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": used.ru_utime + used.ru_stime, "max_rss_bytes": used.ru_maxrss * 1024}


async def node(
    pipe: Connection, name: str, task: SwarmTask, store: MemoryStore, *, seeder: bool
) -> None:
    loop = asyncio.get_running_loop()
    server = SwarmServer()
    app = web.Application()
    server.mount(app)
    stack = contextlib.AsyncExitStack()
    bound = await stack.enter_async_context(listening(app, Address("127.0.0.1", 0), what=name))
    me = PeerInfo(name=name, url=bound.url("http"))
    share = await server.add_swarm(task, store)
    pipe.send(me)
    before = usage()
    began = time.monotonic()
    report = None
    if not seeder:
        peers = await loop.run_in_executor(None, pipe.recv)
        began = time.monotonic()
        report = await fetch(share, FetchOptions(me=me, source=Fixed(peers)))
    seconds = time.monotonic() - began
    if not seeder:
        pipe.send(None)
    await loop.run_in_executor(None, pipe.recv)
    after = usage()
    pipe.send(
        {
            "node": name,
            "seconds": seconds,
            "cpu_s": after["cpu_s"] - before["cpu_s"],
            "max_rss_bytes": after["max_rss_bytes"],
            "sent_bytes": server.statistics().bytes_sent,
            "busy": server.statistics().busy,
            "refused": server.statistics().refused,
            "from": report.bytes_from if report else {},
            "failures": report.failures if report else {},
        }
    )
    await stack.aclose()


def run_node(
    pipe: Connection, name: str, made: tuple[SwarmTask, MemoryStore], *, seeder: bool, keep: bool
) -> None:
    task, store = made
    if not seeder:
        store = MemoryStore() if keep else Forgetful()
    asyncio.run(node(pipe, name, task, store, seeder=seeder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--frame-kib", type=int, default=64)
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    made = make(args.mib, args.frame_kib)
    fork = multiprocessing.get_context("fork")
    pipes, processes = [], []
    for i in range(args.peers + 1):
        here, there = fork.Pipe()
        name = f"n{i}" if i else "seeder"
        process = fork.Process(
            target=run_node,
            args=(there, name, made),
            kwargs={"seeder": not i, "keep": args.peers > 1},
        )
        process.start()
        pipes.append(here)
        processes.append(process)
    infos = [pipe.recv() for pipe in pipes]
    for pipe in pipes[1:]:
        pipe.send(infos)
    began = time.monotonic()
    for pipe in pipes[1:]:
        pipe.recv()
    seconds = time.monotonic() - began
    results = []
    for pipe in pipes:
        pipe.send(None)
        results.append(pipe.recv())
    for process in processes:
        process.join()
    size = args.mib * MIB
    line = {
        "work": "swarm-loopback",
        "tool": "nodectl",
        "peers": args.peers,
        "frame_kib": args.frame_kib,
        "sealed_bytes": size,
        "seconds": round(seconds, 3),
        "mb_per_s_all": round(args.peers * size / seconds / 1e6),
        "seeder_copies": round(results[0]["sent_bytes"] / size, 3),
        "cpu_s": [round(result["cpu_s"], 2) for result in results],
        "max_rss_bytes": max(result["max_rss_bytes"] for result in results),
        "busy": sum(result["busy"] for result in results),
        "refused": sum(result["refused"] for result in results),
        "failures": [result["failures"] for result in results[1:]],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
