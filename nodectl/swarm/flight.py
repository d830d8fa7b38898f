"""What is on its way: which span from whom, since when, and how many bytes in all. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

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
