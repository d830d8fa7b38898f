"""Whom a node knows, whom it follows, who is dead for now, who is out for good. Pure.

The core owns one circle and tells it what it hears; what is to be done about it (follow, cancel,
ask) is the core's to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nodectl.swarm import picker
from nodectl.swarm.bitfield import Rarity, Rng
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerHave, PeerInfo
from nodectl.swarm.picker import Neighbour


@dataclass(slots=True)
class _Dead:
    """A peer that did not answer: when to try again."""

    until: float
    times: int


class Circle:
    """The peers of one node in one swarm."""

    def __init__(self, me: PeerInfo, limits: Limits, rng: Rng) -> None:
        """Know nobody; `me` is never a peer of itself."""
        self._me = me
        self._limits = limits
        self._rng = rng
        self._dead: dict[str, _Dead] = {}
        self._dropped: set[str] = {me.name}
        self.known: dict[str, PeerInfo] = {}
        self.neighbours: dict[str, Neighbour] = {}
        self.rarity = Rarity()  # over the neighbours

    @property
    def want(self) -> int:
        """How many neighbours there should be."""
        return self._limits.neighbours(len(self.known))

    def meet(self, peer: PeerInfo, *, alive: bool) -> bool:
        """Remember a peer; say whether it is news. `alive`: it was heard itself.

        Hearsay does not move a neighbour, which answers where it is, to another address.
        """
        name = peer.name
        if alive:
            self._dead.pop(name, None)
        if name in self._dropped or self.known.get(name) == peer:
            return False
        if name not in self.known and len(self.known) >= self._limits.peers_known:
            return False
        if name in self.neighbours and not alive:
            return False
        self.known[name] = peer
        self._dead.pop(name, None)
        return True

    def follow_more(self, want: int, now: float) -> Sequence[PeerInfo]:
        """Choose new neighbours until there are `want`, if so many are known and not dead."""
        if len(self.neighbours) >= want:
            return ()
        free = [
            peer
            for name, peer in self.known.items()
            if name not in self.neighbours
            and ((dead := self._dead.get(name)) is None or dead.until <= now)
        ]
        followed = [neighbour.info for neighbour in self.neighbours.values()]
        chosen = picker.choose_follows(self._me, free, followed, want, self._rng, self._limits)
        for peer in chosen:
            same_rack = bool(self._me.rack) and peer.rack == self._me.rack
            self.neighbours[peer.name] = Neighbour(info=peer, same_rack=same_rack)
        return chosen

    def hear(self, event: PeerHave) -> None:
        """Take note of what a neighbour has."""
        neighbour = self.neighbours.get(event.peer)
        if neighbour is None:
            return
        have = event.have if event.replaces else neighbour.have | event.have
        self.rarity.add(have & ~neighbour.have)
        self.rarity.remove(neighbour.have & ~have)
        neighbour.have = have
        neighbour.origin = event.origin
        self._dead.pop(event.peer, None)

    def lacks(self, neighbour: Neighbour, span: int) -> None:
        """Take note that a neighbour does not have a span that it announced."""
        bit = neighbour.have & 1 << span
        neighbour.have ^= bit
        self.rarity.remove(bit)
        neighbour.missing += 1

    def remove(self, neighbour: Neighbour) -> None:
        """Follow a peer no longer."""
        self.rarity.remove(neighbour.have)
        del self.neighbours[neighbour.info.name]

    def bury(self, name: str, now: float) -> None:
        """Do not follow a peer for a while, longer each time in a row."""
        times = self._dead[name].times + 1 if name in self._dead else 1
        wait = min(self._limits.dead_max_s, self._limits.dead_first_s * 2.0 ** min(times - 1, 16))
        self._dead[name] = _Dead(now + wait * (0.5 + self._rng.random()), times)

    def drop(self, name: str) -> None:
        """Never follow a peer again."""
        self.known.pop(name, None)
        self._dropped.add(name)
