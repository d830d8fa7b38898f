"""What to ask, whom to ask, whom to follow: the decisions of a swarm as pure functions.

Rarest first with random ties gives close to ideal diversity (Legout et al., IMC 2006), and 3 to 5
times less time than in order (measured). A span that another fetching neighbour has is not asked
of an origin, so that the origin's upload stays near one copy.
"""

import math
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from nodectl.swarm.bitfield import Rarity, Rng, random_span
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo


@dataclass(slots=True, kw_only=True)
class Neighbour:
    """What a node knows of one peer that it follows; its one owner is the core."""

    info: PeerInfo
    same_rack: bool
    have: int = 0  # set of spans
    origin: bool = False
    deferred: int = 0  # set of spans not to be asked here before their time
    barred: int = 0  # set of spans that others of this rack bring in; may have more bits
    deferrals: list[tuple[float, int]] = field(default_factory=list)  # (until, set of one span)
    refused: int = 0  # set of spans for which it sent us elsewhere
    refused_twice: int = 0  # set of those for which it did so again
    in_flight: dict[int, float] = field(default_factory=dict)  # span: asked at
    bytes_in_flight: int = 0
    not_before: float = 0.0  # back-off
    busy: int = 0  # answers 429 in a row
    failures: int = 0  # failures in a row
    missing: int = 0  # spans announced that were not there
    heard_at: float | None = None  # when it last told what it has
    complete: bool = False
    lead: int = 0  # spans that it had then more than this node
    asked_any: bool = False  # ... for any span
    given_out: bool = False  # an origin that gave everything that we lack to somebody
    polled: bool = False  # it was asked what it has, or for any span, and did not answer yet

    def may_give(self) -> int:
        """Return the set of spans that it makes sense to ask of it now."""
        return self.have & ~self.deferred & ~self.barred

    def refuse(self, span: int, until: float) -> None:
        """Take note that it sent us elsewhere for `span`; do not ask it before `until`."""
        bit = 1 << span
        self.deferred |= bit
        self.deferrals.append((until, bit))
        self.deferrals.sort()
        self.refused_twice |= self.refused & bit
        self.refused |= bit

    def has_room(self, window: int, limits: Limits) -> bool:
        """Say whether one more request fits; `window` is this neighbour's share, in bytes."""
        asked = len(self.in_flight)
        return asked < limits.peer_requests_min or (
            asked < limits.peer_requests_max and self.bytes_in_flight < window
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One request to make."""

    neighbour: Neighbour
    span: int
    urgent: bool


def least_spans(neighbours: Collection[Neighbour], limits: Limits) -> int:
    """Return how many spans a node asks for at one time, whatever its rate.

    A node that is behind the others asks for more, one that is ahead for fewer, so that all end
    together: links are shared by requests, and the last node makes the makespan. What is known of
    the others is old, so each is compared with what was here when it was heard.
    """
    base = limits.window_min_spans
    leads = [n.lead for n in neighbours if n.heard_at is not None and not n.origin]
    if not leads:
        return base
    behind = sum(leads) / len(leads)
    return round(min(2 * base, max(base / 2, base + limits.window_gain * behind)))


def choose_request(
    wanted: int,
    ready: Sequence[Neighbour],
    everyone: Collection[Neighbour],
    rarity: Rarity,
    rng: Rng,
) -> Choice | None:
    """Return the next request, or None where there is nothing to ask of anyone.

    The least loaded neighbour is asked for the rarest span that it has. (The rarest span first,
    from whoever has it, would keep every node at the origin until the origin has nothing new,
    and the exchange between nodes would begin only then: 1.5 times the bound for two nodes.)

    What an origin refused twice is urgent the third time: whom it named does not pass it on.

    Args:
        wanted: the set of spans that are missing and not asked for.
        ready: the neighbours that may be asked now.
        everyone: all neighbours, the ready ones too.
        rarity: how many of `everyone` have each span.
        rng: breaks ties.
    """
    with_fetchers = 0
    for neighbour in everyone:
        if not neighbour.origin:
            with_fetchers |= neighbour.have
    for neighbour in sorted(ready, key=lambda n: _load(n, rng)):
        candidates = wanted & neighbour.may_give()
        if neighbour.origin:
            candidates &= ~with_fetchers if neighbour.given_out else 0
        if candidates:
            span = random_span(rarity.rarest(candidates), rng)
            return Choice(neighbour, span, urgent=bool(neighbour.refused_twice >> span & 1))
    return None


def share_of(neighbours: Collection[Neighbour], window: float) -> int:
    """Return how many bytes of a window one neighbour has, twice the even share."""
    return int(2 * window / max(1, sum(1 for neighbour in neighbours if neighbour.have)))


def ready_at(neighbours: Collection[Neighbour], now: float) -> float:
    """Return when the next neighbour may be asked that may not be now; for ever where none is."""
    soonest = math.inf
    for neighbour in neighbours:
        if now < neighbour.not_before < soonest:
            soonest = neighbour.not_before
        if neighbour.deferrals:
            soonest = min(soonest, neighbour.deferrals[0][0])
    return soonest


def _load(neighbour: Neighbour, rng: Rng) -> tuple[bool, int, bool, float]:
    """Order by load; but an origin that refused nothing lately never waits for a request.

    What it has not sent, nobody has; and what this node is to bring into its rack, no other of the
    rack has.
    """
    source = neighbour.barred or (neighbour.origin and not neighbour.deferred)
    idle_source = bool(source) and not neighbour.in_flight
    return not idle_source, neighbour.bytes_in_flight, not neighbour.same_rack, rng.random()


def choose_urgent(
    wanted: int, ready: Sequence[Neighbour], rarity: Rarity, rng: Rng
) -> Choice | None:
    """Return a request where all the polite ones are made: from whoever has it, origins too."""
    offered = 0
    for neighbour in ready:
        offered |= neighbour.have & ~neighbour.barred
    candidates = wanted & offered
    if not candidates:
        return None
    span = random_span(rarity.rarest(candidates), rng)
    neighbour = choose_neighbour([n for n in ready if (n.have & ~n.barred) >> span & 1], rng)
    return Choice(neighbour, span, urgent=True)


def choose_neighbour(candidates: Iterable[Neighbour], rng: Rng) -> Neighbour:
    """Return whom to ask: fetching peers before origins, own rack first, then the least loaded."""
    return min(
        candidates,
        key=lambda n: (n.origin, not n.same_rack, n.bytes_in_flight, rng.random()),
    )


def _lot(me: PeerInfo, peer: PeerInfo) -> float:
    """Return a number in [0, 1) that is always the same for two nodes."""
    return zlib.crc32(f"{me.name} {peer.name}".encode()) / 2**32


def choose_follows(
    me: PeerInfo,
    known: Collection[PeerInfo],
    followed: Collection[PeerInfo],
    want: int,
    rng: Rng,
    limits: Limits,
) -> list[PeerInfo]:
    """Return which of the `known` (none of them followed yet) to follow, up to `want` in all.

    Where racks are known, at least `limits.neighbours_outside` (and about 30 %) are of other
    racks, most are of the own one; where one side has too few, the other fills the places.
    """
    room = want - len(followed)
    if room <= 0 or not known:
        return []
    share = limits.seed_followers / (len(known) + len(followed))
    order = sorted(known, key=lambda one: (not (one.seeds and _lot(me, one) < share), rng.random()))
    if not me.rack:
        return order[:room]
    inside = [peer for peer in order if peer.rack == me.rack]
    outside = [peer for peer in order if peer.rack != me.rack]
    share = round(want * limits.neighbours_outside_share)
    outside_now = sum(peer.rack != me.rack for peer in followed)
    take_outside = min(room, max(0, max(limits.neighbours_outside, share) - outside_now))
    chosen = outside[:take_outside]
    chosen += inside[: room - len(chosen)]
    return chosen + outside[take_outside : take_outside + room - len(chosen)]
