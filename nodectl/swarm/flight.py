"""What is on its way: which span from whom, since when, and how many bytes in all. Pure."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nodectl.swarm.limits import Limits
from nodectl.swarm.picker import Neighbour


@dataclass(slots=True)
class Asked:
    """A span that is on its way."""

    since: float  # of the first request
    peers: list[str]


class Flight:
    """The requests of one node; each neighbour knows its own, too."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Begin with nothing; `sizes` are the bytes of each span."""
        self._sizes = sizes
        self.asked: dict[int, Asked] = {}
        self.bits = 0  # set of the spans that are asked
        self.bytes = 0

    def book(self, neighbour: Neighbour, span: int, now: float) -> None:
        """Count a span as on its way from a neighbour."""
        neighbour.in_flight[span] = now
        neighbour.bytes_in_flight += self._sizes[span]
        self.bytes += self._sizes[span]
        asked = self.asked.get(span)
        if asked is None:
            self.asked[span] = Asked(now, [neighbour.info.name])
            self.bits |= 1 << span
        else:
            asked.peers.append(neighbour.info.name)

    def release(self, neighbour: Neighbour, span: int) -> float | None:
        """Forget one request; return when it was made, None if there was none."""
        since = neighbour.in_flight.pop(span, None)
        if since is None:
            return None
        neighbour.bytes_in_flight -= self._sizes[span]
        self.bytes -= self._sizes[span]
        asked = self.asked[span]
        asked.peers.remove(neighbour.info.name)
        if not asked.peers:
            del self.asked[span]
            self.bits &= ~(1 << span)
        return since

    # --- what takes long, and gets a second request beside the first --------------------------

    @property
    def hedges(self) -> int:
        """How many requests are second ones."""
        return sum(len(asked.peers) - 1 for asked in self.asked.values())

    def slow(self, since: float, limits: Limits) -> list[int]:
        """Return the spans that were asked for at `since` or before, the oldest first."""
        found = [
            (asked.since, span)
            for span, asked in self.asked.items()
            if asked.since <= since and len(asked.peers) < limits.copies_max
        ]
        return [span for _, span in sorted(found)]

    def slow_at(self, now: float, after: float, limits: Limits) -> float:
        """Return when the next span becomes slow that is not so now; for ever where none does."""
        due = (a.since + after for a in self.asked.values() if len(a.peers) < limits.copies_max)
        return min((at for at in due if at > now), default=math.inf)

    def able(
        self, span: int, neighbours: Collection[Neighbour], now: float, limits: Limits
    ) -> list[Neighbour]:
        """Return who can be asked for a span beside whom it was asked of."""
        asked_of = self.asked[span].peers
        return [
            neighbour
            for neighbour in neighbours
            if neighbour.have >> span & 1
            and neighbour.not_before <= now
            and not neighbour.asked_any
            and len(neighbour.in_flight) < limits.peer_requests_max
            and neighbour.info.name not in asked_of
        ]
