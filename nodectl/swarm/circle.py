"""Whom a node knows, whom it follows, who is dead for now, who is out for good. Pure.

The core owns one circle and tells it what it hears; what is to be done about it (follow, cancel,
ask) is the core's to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nodectl.swarm import picker
from nodectl.swarm.bitfield import Rarity, Rng
from nodectl.swarm.importers import Importers
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo
from nodectl.swarm.picker import Neighbour


@dataclass(slots=True)
class _Dead:
    """A peer that did not answer: when to try again."""

    until: float
    times: int


class Circle:
    """The peers of one node in one swarm."""

    def __init__(self, me: PeerInfo, spans: int, limits: Limits, rng: Rng) -> None:
        """Know nobody, in a swarm of so many `spans`; `me` is never a peer of itself."""
        self._me = me
        self._limits = limits
        self._rng = rng
        self._dead: dict[str, _Dead] = {}
        self._dropped: set[str] = {me.name}
        self.known: dict[str, PeerInfo] = {}
        self.neighbours: dict[str, Neighbour] = {}
        self.rarity = Rarity()  # over the neighbours
        self.importers = Importers(me, spans)

    @property
    def want(self) -> int:
        """How many neighbours there should be."""
        return self._limits.neighbours(len(self.known))

    @property
    def first(self) -> int:
        """How many a node chooses at once: about as many choose it, and tell what they have."""
        return max(self._limits.neighbours_first, (self.want + 1) // 2)

    @property
    def few(self) -> bool:
        """Whether more neighbours are wanted than are known."""
        return len(self.neighbours) < self.want and len(self.known) <= len(self.neighbours)

    @property
    def most(self) -> int:
        """How many neighbours there may be, those that chose this node included."""
        return 2 * self.want

    def meet(self, peer: PeerInfo, *, alive: bool) -> bool:
        """Remember a peer; say whether it is news. `alive`: it was heard itself.

        Hearsay does not move a neighbour, which answers where it is, to another address.
        """
        name = peer.name
        if alive and self._dead.pop(name, None) is not None and name in self.known:
            self.importers.join(self.known[name])
        if name in self._dropped or self.known.get(name) == peer:
            return False
        if name not in self.known and len(self.known) >= self._limits.peers_known:
            return False
        if name in self.neighbours and not alive:
            return False
        self.known[name] = peer
        self._dead.pop(name, None)
        self.importers.join(peer)
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
            self._follow(peer)
        return chosen

    def _follow(self, peer: PeerInfo) -> Neighbour:
        same_rack = bool(self._me.rack) and peer.rack == self._me.rack
        neighbour = self.neighbours[peer.name] = Neighbour(info=peer, same_rack=same_rack)
        return neighbour

    def adopt(self, name: str) -> None:
        """Follow a peer that chose this node, where there is room: what it has, it tells."""
        if name in self.known and name not in self.neighbours and len(self.neighbours) < self.most:
            self._follow(self.known[name])

    def hear(self, name: str, have: int, *, replaces: bool, now: float) -> Neighbour | None:
        """Take note of what a neighbour has, or has anew; return it."""
        neighbour = self.neighbours.get(name)
        if neighbour is None:
            return None
        if not replaces:
            have |= neighbour.have
        self.rarity.add(have & ~neighbour.have)
        self.rarity.remove(neighbour.have & ~have)
        neighbour.have = have
        neighbour.heard_at = now
        if self._dead.pop(name, None) is not None:
            self.importers.join(neighbour.info)
        return neighbour

    def bar(self, *, starving: bool, hungry: bool) -> None:
        """Say for each neighbour of another rack which spans it is not asked for now.

        What a neighbour of this rack has comes from there, and what is left is brought in by one
        node of the rack, or two where the second is hungry; who starves, or is the last of the rack
        that lives, asks anybody. What an origin in this rack has is not inside: it gives each span
        once, to whatever rack, and would have to give all of them to its own.
        """
        if not self._me.rack:
            return
        barred = 0
        if not (starving or self.importers.alone):
            inside = self._inside()
            second = hungry and self.importers.may_be_second(
                inside | self._outside(), self._limits.import_second
            )
            barred = ~self.importers.importable(second=second) | inside
        for neighbour in self.neighbours.values():
            if not neighbour.same_rack:
                neighbour.barred = barred

    def period(self, missing: int) -> None:
        """Look which of the spans that are `missing` are known outside of the rack only."""
        if self.importers.alone:
            return
        self.importers.period(self._outside() & missing & ~self._inside())

    def _outside(self) -> int:
        outside = 0
        for neighbour in self.neighbours.values():
            if not neighbour.same_rack:
                outside |= neighbour.have
        return outside

    def _inside(self) -> int:
        inside = 0
        for neighbour in self.neighbours.values():
            if neighbour.same_rack and not neighbour.origin:
                inside |= neighbour.have
        return inside

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
        self.importers.leave(name)
        times = self._dead[name].times + 1 if name in self._dead else 1
        wait = min(self._limits.dead_max_s, self._limits.dead_first_s * 2.0 ** min(times - 1, 16))
        self._dead[name] = _Dead(now + wait * (0.5 + self._rng.random()), times)

    def drop(self, name: str) -> None:
        """Never follow a peer again."""
        self.known.pop(name, None)
        self.importers.leave(name)
        self._dropped.add(name)
