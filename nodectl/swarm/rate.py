"""A limit in bytes/s: a bucket of tokens that may run into debt, and the wait that this means."""

import asyncio
from collections.abc import Callable

_BURST_S = 0.05  # seconds of the rate that may pass at once
_BURST_MIN = 64 * 1024  # bytes; one piece must always fit


class TokenBucket:
    """Counts bytes against a rate; holds no clock."""

    def __init__(self, rate: float, now: float) -> None:
        """Begin full; `rate` is in bytes/s, `now` in seconds."""
        self._rate = rate
        self._burst = max(rate * _BURST_S, _BURST_MIN)
        self._tokens = self._burst
        self._at = now

    def take(self, size: int, now: float) -> float:
        """Take `size` bytes at `now`; return the seconds to wait before the next are taken."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - size
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def change(self, rate: float, now: float) -> None:
        """Go on with another rate; a debt stays one, in bytes."""
        self.take(0, now)
        self._rate = rate
        self._burst = max(rate * _BURST_S, _BURST_MIN)


class RateLimiter:
    """A token bucket for many tasks of one event loop; no limit where the rate is None."""

    def __init__(self, rate: int | None, clock: Callable[[], float]) -> None:
        """Begin; `rate` is in bytes/s, `clock` returns seconds."""
        self._clock = clock
        self._rate = rate
        self._bucket = TokenBucket(rate, clock()) if rate else None
        self._changed = asyncio.Event()
        self.waiting = 0  # tasks that wait for the rate

    @property
    def rate(self) -> int | None:
        """The limit in bytes/s."""
        return self._rate

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._bucket is not None

    def change(self, rate: int | None) -> None:
        """Set another limit; it holds at once, for those who wait, too."""
        now = self._clock()
        if rate and self._bucket is not None:
            self._bucket.change(rate, now)
        else:
            self._bucket = TokenBucket(rate, now) if rate else None
        self._rate = rate
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def take(self, size: int) -> None:
        """Count `size` bytes, and wait as long as the rate demands."""
        if self._bucket is None:
            return
        delay = self._bucket.take(size, self._clock())
        self.waiting += 1
        try:
            while delay > 0 and await self._is_changed_within(delay):
                delay = self._debt_s()
        finally:
            self.waiting -= 1

    def _debt_s(self) -> float:
        return 0.0 if self._bucket is None else self._bucket.take(0, self._clock())

    async def _is_changed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
