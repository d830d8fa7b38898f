"""Whom to ask without knowing what it has, beside what peers tell with each span. Pure.

Two nodes that exchange spans tell each other what they have with every request and every answer. A
question what a peer has costs two messages that carry no span, so it is asked once only: of a
neighbour that is new and did not say it by itself. A neighbour that has nothing of interest, as far
as is known, is asked for *any* span of those that are wanted, while this node is hungry (could ask
for more than it may): the answer brings a span, and what else is there.
"""

from collections.abc import Collection

from nodectl.swarm.limits import Limits
from nodectl.swarm.picker import Neighbour


def unheard(neighbours: Collection[Neighbour]) -> list[Neighbour]:
    """Return the neighbours of whom nothing is known, and who were not asked."""
    return [n for n in neighbours if n.heard_at is None and not n.polled]


def dull(neighbours: Collection[Neighbour], wanted: int, now: float) -> list[Neighbour]:
    """Return whom a hungry node asks for any span, the longest unheard first.

    Args:
        neighbours: all of them.
        wanted: the set of spans that are missing and not asked for.
        now: seconds.
    """
    found = [
        n
        for n in neighbours
        if n.heard_at is not None
        and not n.polled
        and not n.in_flight
        and not n.complete
        and n.not_before <= now
        and wanted & ~n.barred
        and not (n.have & wanted & ~n.barred)
    ]
    found.sort(key=lambda n: n.heard_at or 0.0)
    return found


def idle_origins(
    neighbours: Collection[Neighbour], wanted: int, now: float, room: tuple[int, Limits]
) -> list[tuple[Neighbour, int]]:
    """Return which origins to ask now for any span that they gave nobody yet, and of which.

    `room` says how much fits a neighbour (its share of the window in bytes, the limits): the next
    answer is to be ready when one ends.

    What an origin has not sent, nobody has: it never waits for a request, and which span it is, it
    knows better than who asks. One that has given out all that is lacking here is asked like other
    peers from then on.
    """
    idle = [
        n
        for n in neighbours
        if n.origin
        and not (n.given_out or n.asked_any)
        and n.not_before <= now
        and n.has_room(*room)
    ]
    if not idle:
        return []
    elsewhere = 0
    for neighbour in neighbours:
        if not neighbour.origin:
            elsewhere |= neighbour.have
    found = []
    for origin in idle:
        may = wanted & origin.have & ~origin.barred & ~elsewhere
        if may:
            found.append((origin, may))
    return found
