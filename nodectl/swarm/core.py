"""One node that fetches one list of spans, as a state machine without I/O, clock or randomness.

`Core.step(event, now)` takes what happened and returns what to do. The client runs it over
aiohttp; `bench/simulate.py` and the tests run it, as it is, in simulated time. Decisions that
need no memory stand in `picker.py`, numbers in `limits.py`. Bytes, frames and stores are not
known here: a span is a number with a size. Pure.
"""

from collections.abc import Sequence

from nodectl.swarm import picker, polls
from nodectl.swarm.bitfield import Rng, full
from nodectl.swarm.circle import Circle
from nodectl.swarm.flight import Flight
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import (
    Action,
    AskAny,
    AskForPeers,
    Cancel,
    Drop,
    Event,
    Expected,
    Failure,
    Finished,
    NothingChosen,
    PeerGone,
    PeerHave,
    PeerInfo,
    PeerNews,
    PeerSpoke,
    PeersSeen,
    Poll,
    Request,
    SpanArrived,
    SpanChosen,
    SpanFailed,
    Tick,
    Unfollow,
)
from nodectl.swarm.pace import Pace
from nodectl.swarm.picker import Neighbour
from nodectl.swarm.wire import TOLD_MAX

_HOUSEKEEPING_S = 1.0
_HEDGES_AT_ONCE = 2


class Core:
    """The state of one node in one swarm; has exactly one owner, who calls `step`."""

    def __init__(
        self, *, me: PeerInfo, sizes: Sequence[int], have: int, limits: Limits, rng: Rng
    ) -> None:
        """Begin.

        Args:
            me: this node; it is never its own peer, and its rack is preferred.
            sizes: bytes of each span.
            have: the set of spans that are here already.
            limits: the numbers.
            rng: breaks ties, jitters waits.
        """
        self._sizes = sizes
        self._limits = limits
        self._rng = rng
        self._now = 0.0
        self._actions: list[Action] = []
        self._missing = full(len(sizes)) & ~have
        self._expected = 0  # the set of spans that a feed is about to bring
        self._flight = Flight(sizes)
        self._asked = self._flight.asked
        self._circle = Circle(me, len(sizes), limits, rng)
        self._neighbours = self._circle.neighbours
        self._rarity = self._circle.rarity
        self._anys = 0  # requests for any span that are not answered
        self._hungry = True  # it could ask for more than anybody gives
        self._follow_at = self._period_at = self._changed_at = 0.0
        self._pace = Pace(limits.rate_tau_s, limits.progress_s)
        self._ask_at = 0.0
        self._ask_wait = limits.ask_first_s
        self._share = 0  # bytes that may be on their way from one neighbour
        self._starving_since: float | None = None
        self._wake: float | None = None  # what `wake_at` said, as long as it holds
        self._finished = False

    # --- the one door -------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Action]:
        """Take one event at `now` (seconds, never going back) and return what to do, in order."""
        if self._finished:
            return []
        self._now = now
        self._actions = []
        self._take(event)
        if self._missing and isinstance(event, PeerNews | PeerSpoke) and not self._hungry:
            return self._actions  # enough is on its way: most news decide nothing
        self._wake = None
        if self._missing:
            self._fill()
            self._hedge()
            self._keep_house()
        else:
            self._finish()
        return self._actions

    def _take(self, event: Event) -> None:
        match event:
            case SpanArrived(peer, span):
                self._on_arrived(peer, span)
            case SpanFailed():
                self._on_failed(event)
            case Expected(spans):
                self._expected = spans
            case SpanChosen(peer, span):
                self._on_chosen(peer, span)
            case NothingChosen():
                self._on_nothing(event)
            case Tick():
                pass
            case _:
                self._take_word(event)

    def _take_word(self, event: PeersSeen | PeerGone | PeerHave | PeerNews | PeerSpoke) -> None:
        """Take note of what was said of peers, or by them."""
        match event:
            case PeersSeen(peers, alive):
                self._meet(peers, alive=alive)
            case PeerGone(peer):
                self._lose(peer)
            case PeerHave(peer, have, replaces, origin):
                self._on_answer(peer, have, replaces=replaces, origin=origin)
            case PeerNews(peer, have, replaces):
                self._hear(peer, have, replaces=replaces)
            case PeerSpoke(peer_info, have):
                self._on_spoke(peer_info, have)

    def wake_at(self) -> float:
        """Return the time at which a `Tick` is wanted, if nothing else happens before."""
        if self._wake is None:
            self._wake = min(
                self._now + _HOUSEKEEPING_S,
                picker.ready_at(self._neighbours.values(), self._now),
                self._flight.slow_at(self._now, self._hedge_after(), self._limits),
            )
        return self._wake

    @property
    def missing(self) -> int:
        """The set of spans that are not here."""
        return self._missing

    @property
    def peers(self) -> tuple[PeerInfo, ...]:
        """All peers ever seen and not dropped."""
        return tuple(self._circle.known.values())

    @property
    def followed(self) -> tuple[str, ...]:
        """The names of the neighbours."""
        return tuple(self._neighbours)

    def rate(self, now: float) -> float:
        """Return the bytes/s of the last moments before `now`."""
        return self._pace.rate_at(now)

    # --- peers --------------------------------------------------------------------------------

    def _meet(self, peers: Sequence[PeerInfo], *, alive: bool = False) -> None:
        """Remember peers; news makes the next question to the tracker come soon again."""
        for peer in peers:
            if self._circle.meet(peer, alive=alive):
                if self._circle.few:
                    self._ask_wait = self._limits.ask_first_s
                if peer.name in self._neighbours:  # it came back at another address
                    self._leave(self._neighbours[peer.name])
        self._follow_more(self._circle.first)

    def _follow_more(self, want: int) -> None:
        self._circle.follow_more(want, self._now)
        for neighbour in polls.unheard(self._neighbours.values()):
            neighbour.polled = True
            self._actions.append(Poll(neighbour.info))

    def _on_spoke(self, peer: PeerInfo, have: int | None) -> None:
        self._meet((peer,), alive=True)
        if have is not None:
            self._circle.adopt(peer.name)
            self._hear(peer.name, have, replaces=False)

    def _on_answer(self, peer: str, have: int, *, replaces: bool, origin: bool) -> None:
        neighbour = self._hear(peer, have, replaces=replaces)
        if neighbour is not None:
            self._answered(neighbour)
            neighbour.origin = origin
            neighbour.given_out = len(self._sizes) > TOLD_MAX

    def _hear(self, peer: str, have: int, *, replaces: bool) -> Neighbour | None:
        neighbour = self._circle.hear(peer, have, replaces=replaces, now=self._now)
        if neighbour is not None:
            here = len(self._sizes) - self._missing.bit_count()
            count = neighbour.have.bit_count()
            neighbour.lead = count - here
            neighbour.complete = count == len(self._sizes)
        return neighbour

    def _leave(self, neighbour: Neighbour) -> None:
        """Stop following a peer, and free the spans that were asked of it."""
        for span in tuple(neighbour.in_flight):
            self._flight.release(neighbour, span)
            self._actions.append(Cancel(neighbour.info.name, span))
        self._answered(neighbour)
        self._circle.remove(neighbour)
        self._actions.append(Unfollow(neighbour.info.name))

    def _lose(self, peer: str) -> None:
        """Leave a peer that does not answer, and try it again later and later."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return
        self._leave(neighbour)
        self._circle.bury(peer, self._now)
        self._follow_more(self._circle.first)

    def _drop(self, neighbour: Neighbour, reason: str) -> None:
        self._leave(neighbour)
        self._circle.drop(neighbour.info.name)
        self._actions.append(Drop(neighbour.info, reason))
        self._follow_more(self._circle.first)

    def _jitter(self) -> float:
        """Return a factor between 0.5 and 1.5, so that nodes do not knock all at once."""
        return 0.5 + self._rng.random()

    # --- spans --------------------------------------------------------------------------------

    def _request(self, neighbour: Neighbour, span: int, *, urgent: bool) -> None:
        self._flight.book(neighbour, span, self._now)
        self._actions.append(Request(neighbour.info, span, urgent))

    def _on_arrived(self, peer: str, span: int) -> None:
        """Count a span as here, whoever sent it and however late, and stop its other requests."""
        neighbour = self._neighbours.get(peer)
        if neighbour is not None:
            since = self._flight.release(neighbour, span)
            neighbour.busy = neighbour.failures = 0
            if since is not None:
                self._pace.took(self._now - since)
        if not self._missing >> span & 1:
            return
        self._missing &= ~(1 << span)
        if neighbour is not None and not neighbour.same_rack:
            self._circle.importers.brought += 1
        self._pace.came(self._sizes[span], self._now)
        if span in self._asked:
            for name in tuple(self._asked[span].peers):
                loser = self._neighbours[name]
                self._flight.release(loser, span)
                self._actions.append(Cancel(name, span))
                # It was slow: it rests for as long as a span takes, longer each time.
                loser.busy += 1
                loser.not_before = self._now + min(
                    self._pace.p90 * loser.busy, self._limits.busy_max_s
                )

    def _on_failed(self, event: SpanFailed) -> None:
        self._meet(event.alternatives)
        neighbour = self._neighbours.get(event.peer)
        if neighbour is None:
            return
        asked = self._flight.release(neighbour, event.span) is not None
        if asked or event.failure is Failure.BAD:
            self._on_refusal(neighbour, event)

    def _on_refusal(self, neighbour: Neighbour, event: SpanFailed) -> None:
        """Decide when to ask a peer again that did not give what was asked."""
        limits = self._limits
        match event.failure:
            case Failure.BAD:
                self._drop(neighbour, "sent bytes that are not what the manifest names")
            case Failure.BUSY:
                wait = max(self._back_off(neighbour), event.retry_after)
                neighbour.not_before = self._now + wait
            case Failure.REFUSED:
                until = self._now + max(event.retry_after, limits.refused_s * self._jitter())
                neighbour.refuse(event.span, until)
            case Failure.MISSING:
                self._on_missing(neighbour, event.span)
            case Failure.TIMEOUT | Failure.GONE:
                self._on_broken(neighbour)

    def _back_off(self, neighbour: Neighbour) -> float:
        """Return how long a busy peer is left alone, in seconds: longer each time in a row."""
        wait = self._limits.busy_first_s * 2.0 ** min(neighbour.busy, 16) * self._jitter()
        neighbour.busy += 1
        return min(wait, self._limits.busy_max_s)

    def _on_missing(self, neighbour: Neighbour, span: int) -> None:
        self._circle.lacks(neighbour, span)
        if neighbour.missing > self._limits.missing_max:
            self._drop(neighbour, "announced spans that it does not have")

    def _on_broken(self, neighbour: Neighbour) -> None:
        neighbour.failures += 1
        if neighbour.failures >= self._limits.failures_max:
            self._lose(neighbour.info.name)
        else:
            wait = self._limits.broken_first_s * 2.0 ** (neighbour.failures - 1) * self._jitter()
            neighbour.not_before = self._now + wait

    # --- what next ----------------------------------------------------------------------------

    def _ready(self) -> list[Neighbour]:
        """Return the neighbours that may be asked now."""
        ready = []
        for neighbour in self._neighbours.values():
            while neighbour.deferrals and neighbour.deferrals[0][0] <= self._now:
                neighbour.deferred &= ~neighbour.deferrals.pop(0)[1]
            if (
                neighbour.have
                and not neighbour.asked_any
                and neighbour.not_before <= self._now
                and neighbour.has_room(self._share, self._limits)
            ):
                ready.append(neighbour)
        return ready

    def _fill(self) -> None:
        """Ask for spans until the window is full or there is nothing to ask for."""
        since = self._now if self._starving_since is None else self._starving_since
        starving = self._now - since >= self._limits.import_idle_s
        self._circle.bar(starving=starving, hungry=self._hungry)
        window = self._pace.window(self._limits)
        self._share = picker.share_of(self._neighbours.values(), window)
        self._ask_origins()
        least = picker.least_spans(self._neighbours.values(), self._limits)
        while wanted := self._missing & ~self._flight.bits & ~self._expected:
            enough = len(self._asked) >= least
            if enough and self._flight.bytes >= window:
                self._hungry = False
                return
            ready = self._ready()
            choice = picker.choose_request(
                wanted, ready, self._neighbours.values(), self._rarity, self._rng
            )
            if choice is None and not self._asked:
                choice = picker.choose_urgent(wanted, ready, self._rarity, self._rng)
            if choice is None:
                self._hungry = True
                return
            self._request(choice.neighbour, choice.span, urgent=choice.urgent)
        self._hungry = False

    def _ask_origins(self) -> None:
        """Ask each idle origin for what it gave nobody yet, beside the window."""
        wanted = self._missing & ~self._flight.bits & ~self._expected
        everyone, room = self._neighbours.values(), (self._share, self._limits)
        for source, may in polls.idle_origins(everyone, wanted, self._now, room):
            source.polled = source.asked_any = True
            self._actions.append(AskAny(source.info, may))

    def _hedge_after(self) -> float:
        """Return the age, in seconds, at which a request gets a second one beside it."""
        racing = not self._missing & ~self._flight.bits
        factor = self._limits.race_factor if racing else self._limits.hedge_factor
        return max(self._limits.hedge_min_s, factor * self._pace.p90)

    def _hedge(self) -> None:
        """Ask a second peer for a span that is slow; race the last ones."""
        racing, hedges = not self._missing & ~self._flight.bits, self._flight.hedges
        for span in self._flight.slow(self._now - self._hedge_after(), self._limits):
            if hedges >= _HEDGES_AT_ONCE and not racing:
                return
            able = self._flight.able(span, self._neighbours.values(), self._now, self._limits)
            if able:
                self._request(picker.choose_neighbour(able, self._rng), span, urgent=True)
                hedges += 1

    def _keep_house(self) -> None:
        """Look for more neighbours where those that are there give nothing."""
        want = self._circle.want
        if self._now >= self._period_at:
            self._period_at = self._now + self._pace.import_period(self._limits)
            self._circle.period(self._missing)
        if self._now >= self._follow_at and len(self._neighbours) < want:
            self._follow_at = self._now + _HOUSEKEEPING_S
            self._follow_more(len(self._neighbours) + 1)
        if self._hungry:
            self._ask_any()
        if self._asked or not self._missing & ~self._expected:
            self._starving_since = None
        elif self._starving_since is None:
            self._starving_since = self._now
        elif self._now - max(self._starving_since, self._changed_at) >= self._limits.starving_s:
            self._changed_at = self._now
            self._change_neighbours(want)
        if (self._circle.few or self._starving_since is not None) and self._now >= self._ask_at:
            self._ask_at = self._now + self._ask_wait * self._jitter()
            self._ask_wait = min(2 * self._ask_wait, self._limits.ask_max_s)
            self._actions.append(AskForPeers())

    def _ask_any(self) -> None:
        """Ask neighbours that have nothing for us, as far as we know, for whatever they have."""
        wanted = self._missing & ~self._flight.bits & ~self._expected
        room = self._limits.anys_max - self._anys
        if not wanted or room <= 0:
            return
        for neighbour in polls.dull(self._neighbours.values(), wanted, self._now)[:room]:
            neighbour.polled = neighbour.asked_any = True
            self._anys += 1
            self._actions.append(AskAny(neighbour.info, wanted & ~neighbour.barred))

    def _answered(self, neighbour: Neighbour) -> None:
        """Note that a neighbour answered a question, or that it is not waited for any more."""
        self._anys -= neighbour.asked_any and not neighbour.origin
        neighbour.polled = neighbour.asked_any = False

    def _on_chosen(self, peer: str, span: int) -> None:
        """Count a span as asked for, or stop it where it is here or on its way already."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None or not neighbour.asked_any:
            return
        self._answered(neighbour)
        if (self._missing & ~self._flight.bits & ~neighbour.barred) >> span & 1:
            self._flight.book(neighbour, span, self._now)
        else:
            self._actions.append(Cancel(peer, span))

    def _on_nothing(self, event: NothingChosen) -> None:
        neighbour = self._neighbours.get(event.peer)
        if neighbour is not None:
            self._answered(neighbour)
            neighbour.given_out = event.none
            wait = 0.0 if event.none else self._back_off(neighbour)
            neighbour.not_before = self._now + max(wait, event.retry_after)

    def _change_neighbours(self, want: int) -> None:
        """Follow one peer more; at twice the usual number, one that has nothing for us goes."""
        if len(self._neighbours) >= 2 * want:
            useless = [n for n in self._neighbours.values() if not n.have & self._missing]
            if not useless:
                return
            self._leave(useless[int(self._rng.random() * len(useless))])
        self._follow_more(len(self._neighbours) + 1)

    def _finish(self) -> None:
        for neighbour in tuple(self._neighbours.values()):
            self._leave(neighbour)
        self._finished = True
        self._actions.append(Finished())
