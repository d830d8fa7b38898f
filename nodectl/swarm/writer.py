"""From checked frames to durable spans: one write for all that came while the last one ran."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from nodectl.swarm.limits import Limits
from nodectl.swarm.share import Share
from nodectl.swarm.transfer import Good


class Writer:
    """The queue between the network and the store; belongs to one event loop."""

    def __init__(
        self, share: Share, limits: Limits, clock: Callable[[], float], threads: Executor
    ) -> None:
        """Begin with nothing to write."""
        self._share = share
        self._limits = limits
        self._clock = clock
        self._threads = threads
        self._good: list[Good] = []
        self._came = asyncio.Event()
        self._went = asyncio.Event()
        self._ending = False
        self.waiting_bytes = 0  # checked, not durable yet
        self.write_s = 0.0  # seconds spent in the store

    def put(self, good: Good) -> None:
        """Queue what was checked."""
        self._good.append(good)
        self.waiting_bytes += good.size
        self._came.set()

    def end(self) -> None:
        """Let `run` end when all that was put is stored."""
        self._ending = True
        self._came.set()

    async def room(self) -> None:
        """Wait until the queue is not full."""
        while self.waiting_bytes > self._limits.store_queue_bytes:
            self._went.clear()
            await self._went.wait()

    async def run(self, on_stored: Callable[[list[Good]], None]) -> None:
        """Store until `end`; `on_stored` is told of each batch that is durable."""
        loop = asyncio.get_running_loop()
        last = -self._limits.store_gap_s
        while self._good or not self._ending:
            await self._came.wait()
            await self._gather(last + self._limits.store_gap_s)
            self._came.clear()
            batch, self._good = self._good, []
            if not batch:
                continue
            last = self._clock()
            frames = [frame for good in batch for frame in good.frames]
            await loop.run_in_executor(self._threads, self._share.store.put_many, frames)
            self.write_s += self._clock() - last
            self.waiting_bytes -= sum(good.size for good in batch)
            self._went.set()
            on_stored(batch)

    async def _gather(self, until: float) -> None:
        """Wait for more to store with the same write: until a time, or there is enough."""
        while (
            self.waiting_bytes < self._limits.store_batch_bytes
            and not self._ending
            and (left := until - self._clock()) > 0
        ):
            self._came.clear()
            try:
                async with asyncio.timeout(left):
                    await self._came.wait()
            except TimeoutError:
                return
