"""The terms of a swarm at work on one node: its own limits, its weight, and the pause."""

import asyncio
import time
from collections.abc import Callable

from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.terms import Terms


class Conduct:
    """What the server and the fetch of one swarm keep to; belongs to one event loop."""

    def __init__(
        self, terms: Terms | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with these terms, or with none."""
        self.terms = terms or Terms()
        self.upload = RateLimiter(self.terms.upload_rate, clock)
        self.download = RateLimiter(self.terms.download_rate, clock)
        self._clock = clock
        self._resumed = clock()
        self._running = asyncio.Event()
        self._obey()

    @property
    def awake_since(self) -> float:
        """When the last pause ended: now, while the swarm is paused."""
        return self._clock() if self.terms.paused else self._resumed

    def change(self, terms: Terms) -> None:
        """Keep to other terms from now on."""
        if terms == self.terms:
            return
        if terms.upload_rate != self.terms.upload_rate:
            self.upload.change(terms.upload_rate)
        if terms.download_rate != self.terms.download_rate:
            self.download.change(terms.download_rate)
        self._resumed = self.awake_since
        self.terms = terms
        self._obey()

    def _obey(self) -> None:
        (self._running.clear if self.terms.paused else self._running.set)()

    async def running(self) -> None:
        """Wait while the swarm is paused; what is on its way comes to its end."""
        await self._running.wait()
