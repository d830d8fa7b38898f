"""The tracker: which node offers which root, and where. In memory only.

Every node announces itself again and again, so a controller that restarts knows all of it again
after one interval. A node that has not announced for three intervals is no longer handed out.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from nodectl.ids import Root

INTERVAL_S = 5.0  # how often a node announces, at most
ANNOUNCES_PER_S = 100.0  # of one swarm: what one controller hears beside its other work
_EXPIRES = 3  # intervals of silence
_FORGET_EVERY_S = 1.0
PEERS_MAX = 80  # handed out at once: enough to choose 12 neighbours from, small at 10,000 nodes
MATES_MAX = (
    48  # of them of the asker's own rack: the more it knows, the fewer bring the same span in
)
_ROOTS_MAX = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What a node says about one root."""

    node: str
    url: str
    have_bytes: int  # sealed bytes
    complete: bool
    rack: str = ""  # where the node stands: the tracker puts it in, "" where nobody said


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    announcement: Announcement
    at: float


class Tracker:
    """Who offers what; one owner: the controller's event loop."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        rng: random.Random,
        rack_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """Start knowing nobody; `rack_of` says where a node stands ("": nobody knows)."""
        self.rack_of = rack_of
        self._monotonic = monotonic
        self._rng = rng
        self._swarms: dict[Root, dict[str, _Heard]] = {}
        self._forgot: dict[Root, float] = {}  # when the silent ones were last looked for

    def announce(self, root: Root, announcement: Announcement) -> tuple[Announcement, ...]:
        """Take one announcement; return peers other than the node itself."""
        if root not in self._swarms and len(self._swarms) >= _ROOTS_MAX:
            self._forget_silent_swarms()
        swarm = self._swarms.setdefault(root, {})
        placed = replace(announcement, rack=self.rack_of(announcement.node))
        swarm[announcement.node] = _Heard(announcement=placed, at=self._monotonic())
        return self.peers(root, but=announcement.node)

    def peers(self, root: Root, *, but: str = "") -> tuple[Announcement, ...]:
        """Return at most `PEERS_MAX` nodes that offer a root, at random; complete ones included.

        Up to `MATES_MAX` of them stand in the rack of the node `but`, if there are so many.
        """
        found = [one for one in self._alive(root) if one.node != but]
        self._rng.shuffle(found)
        rack = self.rack_of(but) if but else ""
        if len(found) > PEERS_MAX and rack:
            mates = [one for one in found if one.rack == rack][:MATES_MAX]
            others = [one for one in found if one.rack != rack]
            found = mates + others[: PEERS_MAX - len(mates)]
        return tuple(found[:PEERS_MAX])

    def known(self, root: Root) -> int:
        """Return how many nodes offer a root."""
        return len(self._alive(root))

    def interval_s(self, root: Root) -> float:
        """Return how often each node of a swarm is to announce itself."""
        return max(INTERVAL_S, len(self._swarms.get(root, {})) / ANNOUNCES_PER_S)

    def forget(self, node: str) -> None:
        """Hand a node out no more."""
        for swarm in self._swarms.values():
            swarm.pop(node, None)

    def _alive(self, root: Root) -> list[Announcement]:
        swarm, now = self._swarms.get(root, {}), self._monotonic()
        if now - self._forgot.get(root, -_FORGET_EVERY_S) >= _FORGET_EVERY_S:
            self._forgot[root] = now
            oldest = now - _EXPIRES * self.interval_s(root)
            for node in [node for node, heard in swarm.items() if heard.at < oldest]:
                del swarm[node]
        return [heard.announcement for heard in swarm.values()]

    def _forget_silent_swarms(self) -> None:
        for root in list(self._swarms):
            if not self._alive(root):
                del self._swarms[root], self._forgot[root]
