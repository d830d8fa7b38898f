"""How fast a node gets spans: its rate, and how long a span takes. Pure."""

import math
from collections import deque

from nodectl.swarm.limits import Limits

_TIMES_KEPT = 50  # span times from which the percentile is taken


class Pace:
    """Averages over the last moments; begins with what is said, until something is known."""

    def __init__(self, tau: float, span_s: float) -> None:
        """Begin; the rate is averaged over `tau` seconds, a span takes `span_s` at first."""
        self.rate = 0.0  # bytes/s
        self.p90 = span_s  # seconds: nine spans of ten took less
        self._tau = tau
        self._at: float | None = None
        self._times: deque[float] = deque(maxlen=_TIMES_KEPT)

    def took(self, seconds: float) -> None:
        """Count the time that one span took from its request."""
        self._times.append(seconds)
        self.p90 = sorted(self._times)[len(self._times) * 9 // 10]

    def window(self, limits: Limits) -> float:
        """Return how many bytes may be asked for at one time."""
        return min(self.rate * limits.window_s, limits.window_max_bytes)

    def import_period(self, limits: Limits) -> float:
        """Return how long one node of a rack may take to bring a span in, in seconds."""
        return max(limits.import_s, limits.import_spans * self.p90)

    def rate_at(self, now: float) -> float:
        """Return the rate as it fell since something came last."""
        if self._at is None:
            return 0.0
        return self.rate * math.exp(min(0.0, self._at - now) / self._tau)

    def came(self, size: int, now: float) -> None:
        """Count `size` bytes that came at `now`."""
        if self._at is not None:
            self.rate *= math.exp((self._at - now) / self._tau)
        self.rate += size / self._tau
        self._at = now
