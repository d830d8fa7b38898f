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


class RateLimiter:
    """A token bucket for many tasks of one event loop; no limit where the rate is None."""

    def __init__(self, rate: int | None, clock: Callable[[], float]) -> None:
        """Begin; `clock` returns seconds."""
        self._clock = clock
        self._bucket = TokenBucket(rate, clock()) if rate else None

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._bucket is not None

    async def take(self, size: int) -> None:
        """Count `size` bytes, and wait as long as the rate demands."""
        if self._bucket is not None:
            delay = self._bucket.take(size, self._clock())
            if delay > 0:
                await asyncio.sleep(delay)
