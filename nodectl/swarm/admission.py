"""Who may have a span now: the decisions of the side that serves, as a state machine.

Bounded slots, a short queue, and the rule that keeps an origin's upload near one copy: what it
has sent to one node it does not send to another, while that node lives and can pass it on. Where
more than one client asks, none of them has all slots, nor all places of the queue: who takes bytes
slowly on purpose slows the others and does not shut them out. The
server runs it over aiohttp, the simulation in simulated time. Pure.
"""

from collections import Counter, deque
from dataclasses import dataclass
from enum import StrEnum

from nodectl.swarm.limits import Limits


class Verdict(StrEnum):
    """The answer to a request for a span."""

    SERVE = "serve"
    WAIT = "wait"  # for a slot; `release` names who is next
    BUSY = "busy"  # the queue is full, too
    REFUSED = "refused"  # ask the holder


@dataclass(slots=True)
class _Holder:
    client: str
    done: bool  # the whole span was sent; else it is on its way, or waits for a slot


class Admission:
    """Slots and the memory of who got what, for one node and one swarm.

    Each `ask` that is answered with SERVE, and each WAIT that came out of `release`, must be
    followed by one `release`; a WAIT that gives up, by `give_up`.
    """

    def __init__(self, *, limits: Limits, origin: bool) -> None:
        """Begin with all slots free; `origin`: this node had every span when it began to serve."""
        self._limits = limits
        self._origin = origin
        self.slots = limits.upload_slots  # as long as this swarm is alone
        self._active = 0
        self._active_of: Counter[str] = Counter()  # client: slots
        self._queue: deque[tuple[str, int]] = deque()
        self._holders: dict[int, _Holder] = {}  # span: who got it first
        self._held = 0  # set of those spans
        self._seen: dict[str, float] = {}  # client: when it last asked for anything

    @property
    def origin(self) -> bool:
        """Whether this node had every span when it began to serve."""
        return self._origin

    @property
    def active(self) -> int:
        """How many spans are being sent."""
        return self._active

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._queue)

    def saw(self, client: str, now: float) -> None:
        """Note that a client lives."""
        self._seen[client] = now
        if len(self._seen) > self._limits.peers_known:
            for name in [n for n, at in self._seen.items() if now - at > self._limits.holder_s]:
                del self._seen[name]

    def ask(self, client: str, span: int, *, urgent: bool, now: float) -> Verdict:
        """Decide on a request; `urgent`: the client has nobody else to ask."""
        self.saw(client, now)
        if self._origin and not urgent and self._elsewhere(client, span, now):
            return Verdict.REFUSED
        # Who waits although a slot is free has all that one client may have.
        if self._active < self.slots and self._may_have_more(client):
            self._claim(client, span)
            self._take(client)
            return Verdict.SERVE
        if len(self._queue) < self._limits.upload_queue and self._may_wait(client):
            # It counts as held from now on, or all of the queue would wait for the same span.
            self._claim(client, span)
            self._queue.append((client, span))
            return Verdict.WAIT
        return Verdict.BUSY

    def _take(self, client: str) -> None:
        self._active += 1
        self._active_of[client] += 1

    def _may_have_more(self, client: str) -> bool:
        """Say whether a client may have one more slot; one that is alone may have all."""
        most = self._limits.upload_slots - self._limits.upload_reserve
        return len(self._seen) == 1 or self._active_of[client] < most

    def _may_wait(self, client: str) -> bool:
        """Say whether a client may have one more place in the queue."""
        most = self._limits.upload_queue - self._limits.upload_reserve
        return len(self._seen) == 1 or sum(one == client for one, _ in self._queue) < most

    def holder(self, span: int) -> str | None:
        """Return the client that got `span` from here first."""
        holder = self._holders.get(span)
        return holder.client if holder else None

    def _elsewhere(self, client: str, span: int, now: float) -> bool:
        holder = self._holders.get(span)
        return (
            holder is not None
            and holder.client != client
            and now - self._seen.get(holder.client, -self._limits.holder_s) < self._limits.holder_s
        )

    def fresh(self, spans: int) -> int:
        """Return which of a set of spans nobody got from here yet, where that matters: an origin.

        Any other node may give any of them.
        """
        return spans & ~self._held

    def _claim(self, client: str, span: int) -> None:
        if self._origin and span not in self._holders:
            self._holders[span] = _Holder(client, done=False)
            self._held |= 1 << span

    def _unclaim(self, client: str, span: int) -> None:
        """Let the next one who asks have a span that this client did not get."""
        holder = self._holders.get(span)
        if holder is not None and holder.client == client and not holder.done:
            del self._holders[span]
            self._held &= ~(1 << span)

    def release(self, client: str, span: int, *, sent: bool) -> tuple[str, int] | None:
        """End one sending; return the (client, span) that now has the slot, if one waits."""
        self._active -= 1
        self._active_of[client] -= 1
        if not self._active_of[client]:
            del self._active_of[client]
        holder = self._holders.get(span)
        if sent and holder is not None and holder.client == client:
            holder.done = True
        else:
            self._unclaim(client, span)
        for waits in self._queue:
            if self._may_have_more(waits[0]):
                self._queue.remove(waits)
                self._take(waits[0])
                return waits
        return None

    def give_up(self, client: str, span: int) -> None:
        """Forget a request that waits."""
        if (client, span) in self._queue:
            self._queue.remove((client, span))
            self._unclaim(client, span)
