"""Which node of a rack brings a span across the rack's uplink. Pure.

Every node of a rack ranks the nodes of its rack that it knows, for each span anew, by a hash that
all of them compute alike. The first in rank brings the span in, and the others wait for it: so a
span crosses the uplink about once, without a word about it (rendezvous hashing; who leaves or joins
moves only the spans that it was or becomes first for). A span that is known outside and does not
come in is left to the first two, then to the first four, and so on. A node that has nothing to do
may be second at once, within its share of all that comes in.
"""

import zlib

from nodectl.swarm.bitfield import Rarity, full
from nodectl.swarm.model import PeerInfo

_MASK = 0xFFFFFFFF


def weights(name: str, spans: int) -> list[int]:
    """Return the rank of a node for each span: 32 bits, well mixed."""
    seed = zlib.crc32(name.encode("utf-8"))
    ranks = []
    for span in range(spans):
        x = (seed ^ span * 0x9E3779B1) & _MASK
        x = (x ^ x >> 15) * 0x85EBCA6B & _MASK
        x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK
        ranks.append(x)
    return ranks


class Importers:
    """The living nodes of this node's rack, and for which spans this one is among the first."""

    def __init__(self, me: PeerInfo, spans: int) -> None:
        """Begin alone in the rack: first for every span."""
        self._me = me
        self._spans = spans
        self._mine: list[int] | None = None  # made when the first mate joins
        self._before: dict[str, int] = {}  # mate: set of spans for which it comes before this one
        self._count = Rarity()  # how many come before
        self._seen = 0
        self.brought = 0  # spans that this node brought into the rack
        self._overdue: list[int] = []  # [k]: spans that did not come in for k + 1 periods

    @property
    def alone(self) -> bool:
        """Whether no other node of the rack is known, or no racks are."""
        return not self._before

    def join(self, peer: PeerInfo) -> None:
        """Take note of a peer, which may be of this rack."""
        if peer.name in self._before or not self._may_import(peer):
            return
        if self._mine is None:
            self._mine = weights(self._me.name, self._spans)
        digits = [
            "1" if theirs > mine else "0"
            for theirs, mine in zip(weights(peer.name, self._spans), self._mine, strict=True)
        ]
        before = int("".join(reversed(digits)) or "0", 2)
        self._before[peer.name] = before
        self._count.add(before)

    def _may_import(self, peer: PeerInfo) -> bool:
        """Say whether a peer is of this rack and lacks anything."""
        return bool(self._me.rack) and peer.rack == self._me.rack and not peer.seeds

    def leave(self, name: str) -> None:
        """Rank a node no more."""
        self._count.remove(self._before.pop(name, 0))

    def may_be_second(self, known: int, limit: float) -> bool:
        """Say whether a node that has nothing else to do brings in what another one is first for.

        It does so as long as it brought in less than `limit` times its share of the spans `known`:
        an uplink that idles now is lost, and one that is used twice for all is, too.
        """
        return self.brought * (len(self._before) + 1) < limit * known.bit_count()

    def importable(self, *, second: bool = False) -> int:
        """Return the set of spans that this node brings in from other racks now.

        `second`: also those for which one other node comes before.
        """
        everything = full(self._spans)
        allowed = everything & ~self._count.powers(1 if second else 0)
        for k, overdue in enumerate(self._overdue):
            allowed |= overdue & ~self._count.powers(k + 1)
        return allowed

    def period(self, outside: int) -> None:
        """Begin a period; `outside` is the set of spans that are known outside the rack only."""
        self._overdue = [outside & late for late in [self._seen, *self._overdue]][:5]
        self._seen = outside
