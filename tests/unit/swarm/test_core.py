"""The core on its own: what it asks for, event by event."""

import random

import pytest

from nodectl.swarm.bitfield import full
from nodectl.swarm.core import Core
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import (
    AskAny,
    AskForPeers,
    Cancel,
    Drop,
    Event,
    Failure,
    Finished,
    NothingChosen,
    PeerGone,
    PeerHave,
    PeerInfo,
    PeersSeen,
    Poll,
    Request,
    SpanArrived,
    SpanChosen,
    SpanFailed,
    Tick,
    Unfollow,
)

LIMITS = Limits()
ME = PeerInfo(name="me", url="http://me:1")


def info(name: str) -> PeerInfo:
    return PeerInfo(name=name, url=f"http://{name}:1")


class Driver:
    """Keeps the time and sorts the actions."""

    def __init__(self, spans: int, *, have: int = 0, limits: Limits = LIMITS) -> None:
        self.now = 0.0
        self.core = Core(
            me=ME, sizes=[1000] * spans, have=have, limits=limits, rng=random.Random(1)
        )
        self.actions: list[object] = []

    def step(self, event: Event, *, after: float = 0.0) -> list[object]:
        self.now += after
        self.actions = list(self.core.step(event, self.now))
        return self.actions

    def with_peers(self, *names: str, have: int, origin: bool = False) -> "Driver":
        self.step(PeersSeen(tuple(info(name) for name in names)))
        for name in names:
            self.step(PeerHave(name, have, replaces=True, origin=origin))
        return self

    def requests(self) -> list[Request]:
        return [action for action in self.actions if isinstance(action, Request)]

    def kinds(self) -> list[type]:
        return [type(action) for action in self.actions]


def test_it_begins_by_asking_for_peers_and_follows_them() -> None:
    one = Driver(4)
    assert AskForPeers in map(type, one.step(Tick()))
    one.step(PeersSeen((info("a"), info("b"), ME)))
    assert {a.peer.name for a in one.actions if isinstance(a, Poll)} == {"a", "b"}


def test_nothing_to_fetch_is_finished_at_once() -> None:
    one = Driver(4, have=full(4))
    assert one.step(Tick()) == [Finished()]
    assert one.step(Tick()) == []


def test_a_window_of_spans_none_of_them_twice() -> None:
    one = Driver(20).with_peers("a", "b", have=full(20))
    asked = [request.span for request in one.requests()]
    one = Driver(20)
    one.step(PeersSeen((info("a"), info("b"))))
    asked = [
        r.span for name in "ab" for r in (one.step(PeerHave(name, full(20))), one.requests())[1]
    ]
    assert len(asked) == len(set(asked)) == 2 * LIMITS.peer_requests_min


def test_all_spans_arrive_then_finished_and_nobody_is_followed() -> None:
    one = Driver(3).with_peers("a", have=full(3))
    asked = one.requests()
    while asked:
        request = asked.pop()
        one.step(SpanArrived(request.peer.name, request.span), after=0.01)
        asked += one.requests()
    assert one.kinds()[-2:] == [Unfollow, Finished]
    assert one.core.missing == 0


def test_a_bad_frame_drops_the_peer_for_good() -> None:
    one = Driver(8).with_peers("liar", "b", have=full(8))
    one.step(PeersSeen((info("liar"),)))
    one.step(SpanFailed("liar", one_of(one, "liar"), Failure.BAD))
    assert [a.peer.name for a in one.actions if isinstance(a, Drop)] == ["liar"]
    assert Unfollow("liar") in one.actions
    one.step(PeersSeen((info("liar"),), alive=True), after=1000)
    assert one.actions == [] or all(not isinstance(a, Poll) for a in one.actions)
    assert "liar" not in one.core.followed


def one_of(one: Driver, name: str) -> int:
    """Return a span that is on its way from a peer."""
    return next(iter(one.core._neighbours[name].in_flight))


def test_a_bad_frame_counts_even_when_the_span_came_from_elsewhere() -> None:
    one = Driver(8).with_peers("liar", "b", have=full(8))
    one.step(SpanFailed("liar", 7, Failure.BAD))
    assert "liar" not in one.core.followed


def test_busy_waits_longer_each_time_and_not_less_than_the_peer_says() -> None:
    one = Driver(1).with_peers("a", have=1)
    waits = []
    for _ in range(6):
        one.step(SpanFailed("a", 0, Failure.BUSY))
        assert one.requests() == []
        before = one.now
        while not one.requests():
            one.step(Tick(), after=one.core.wake_at() - one.now)
        waits.append(one.now - before)
    assert waits[0] < 0.05
    assert waits[5] > 5 * waits[0]
    assert max(waits) <= LIMITS.busy_max_s
    one.step(SpanFailed("a", 0, Failure.BUSY, retry_after=3.0))
    one.step(Tick(), after=2.9)
    assert one.requests() == []
    one.step(Tick(), after=0.2)
    assert len(one.requests()) == 1


def test_a_refused_span_is_asked_elsewhere_and_later_again() -> None:
    one = Driver(1).with_peers("origin", have=1, origin=True)
    one.step(NothingChosen("origin", none=True))
    one.step(SpanFailed("origin", 0, Failure.REFUSED, 0.5, (info("holder"),)))
    assert "holder" in one.core.followed
    assert [r.urgent for r in one.requests()] == [True]  # nobody else has it now


def test_an_origin_is_asked_for_what_nobody_has_until_it_gave_out_all() -> None:
    one = Driver(20).with_peers("a", have=0b11)
    one.with_peers("origin", have=full(20), origin=True)
    (asked,) = [action for action in one.actions if isinstance(action, AskAny)]
    assert asked == AskAny(info("origin"), full(20) & ~0b11)
    one.step(SpanChosen("origin", 7))  # the next answer is to be ready when this one ends
    assert AskAny(info("origin"), full(20) & ~(0b11 | 1 << 7)) in one.actions
    one.step(SpanArrived("origin", 7), after=0.1)
    one.step(NothingChosen("origin", 0.05))  # busy: later, it was no refusal
    one.step(Tick(), after=0.2)
    assert AskAny(info("origin"), full(20) & ~(0b11 | 1 << 7)) in one.actions
    one.step(NothingChosen("origin", none=True))
    assert {r.peer.name for r in one.requests()} == {"origin"}  # by name from now on


def test_a_busy_origin_is_asked_again_later_and_later() -> None:
    one = Driver(4).with_peers("origin", have=full(4), origin=True)
    waits = []
    for _ in range(6):
        one.step(NothingChosen("origin"))
        before = one.now
        while not any(isinstance(action, AskAny) for action in one.actions):
            one.step(Tick(), after=one.core.wake_at() - one.now)
        waits.append(one.now - before)
    assert waits[5] > 5 * waits[0]


def test_while_there_is_other_work_a_refused_span_rests() -> None:
    one = Driver(3).with_peers("origin", have=full(3), origin=True)
    one.step(NothingChosen("origin", none=True))
    first = one_of(one, "origin")
    one.step(SpanFailed("origin", first, Failure.REFUSED, 0.5))
    assert first not in [r.span for r in one.requests()]
    one.step(Tick(), after=1.2)
    one.step(SpanArrived("origin", one_of(one, "origin")))
    assert first in one.core._asked


def test_a_dead_neighbour_frees_its_spans_and_is_tried_again_later_and_later() -> None:
    one = Driver(4).with_peers("a", have=full(4))
    asked = set(one.core._asked)
    one.step(PeerGone("a"))
    assert {a.span for a in one.actions if isinstance(a, Cancel)} == asked
    gaps = []
    for _ in range(4):
        before = one.now
        while "a" not in one.core.followed:
            one.step(Tick(), after=0.1)
        gaps.append(one.now - before)
        one.step(PeerGone("a"))
    assert gaps[3] > gaps[0]


def test_a_dead_neighbour_that_speaks_is_followed_at_once() -> None:
    one = Driver(4).with_peers("a", have=full(4))
    one.step(PeerGone("a"))
    assert one.core.followed == ()
    one.step(PeersSeen((info("a"),), alive=True))
    assert one.core.followed == ("a",)


def test_three_failures_in_a_row_and_another_takes_the_place() -> None:
    one = Driver(9).with_peers("a", have=full(9))
    for _ in range(LIMITS.failures_max):
        while not one.core._neighbours["a"].in_flight:
            one.step(Tick(), after=0.5)
        one.step(SpanFailed("a", one_of(one, "a"), Failure.TIMEOUT))
        if "a" not in one.core.followed:
            break
        for span in tuple(one.core._neighbours["a"].in_flight):
            one.core._flight.release(one.core._neighbours["a"], span)
    assert "a" not in one.core.followed


def test_a_peer_that_announces_what_it_has_not_is_dropped() -> None:
    one = Driver(30).with_peers("a", have=full(30))
    for _ in range(LIMITS.missing_max + 1):
        assert "a" in one.core.followed
        one.step(SpanFailed("a", one_of(one, "a"), Failure.MISSING))
    assert Drop in one.kinds()


def test_a_slow_span_is_asked_of_a_second_peer_and_the_loser_is_stopped() -> None:
    one = Driver(40).with_peers("slow", "b", "c", have=full(40))
    slow = one_of(one, "slow")
    for _ in range(12):  # the others are quick: the percentile is small
        name = next(n for n in ("b", "c") if one.core._neighbours[n].in_flight)
        one.step(SpanArrived(name, one_of(one, name)), after=0.01)
    one.step(Tick(), after=LIMITS.hedge_min_s * 3)
    hedge = [request for request in one.requests() if request.span == slow]
    assert [request.urgent for request in hedge] == [True]
    assert hedge[0].peer.name != "slow"
    one.step(SpanArrived(hedge[0].peer.name, slow), after=0.01)
    assert Cancel("slow", slow) in one.actions


def test_the_last_spans_race() -> None:
    one = Driver(2).with_peers("a", "b", have=full(2))
    one.step(SpanArrived("a", one_of(one, "a")), after=0.1)
    last = next(iter(one.core._asked))
    one.step(Tick(), after=LIMITS.hedge_min_s + 0.1)
    assert len(one.core._asked[last].peers) == 2


def test_nothing_is_asked_of_those_who_have_nothing_new() -> None:
    one = Driver(4, have=0b0011).with_peers("a", have=0b0011)
    assert one.requests() == []
    one.step(PeerHave("a", 0b0100))
    assert [request.span for request in one.requests()] == [2]


def test_a_peer_that_takes_back_what_it_had() -> None:
    one = Driver(4).with_peers("a", have=0)
    one.step(PeerHave("a", 0b1000, replaces=True))
    one.step(SpanFailed("a", 3, Failure.GONE))
    one.step(PeerHave("a", 0, replaces=True), after=10)
    one.step(Tick(), after=10)
    assert one.requests() == []


def test_starving_it_looks_for_more_neighbours_and_asks_the_tracker_again() -> None:
    limits = Limits(neighbours_min=2)
    one = Driver(4, limits=limits)
    one.step(PeersSeen(tuple(info(f"p{i}") for i in range(20))))
    followed = len(one.core.followed)
    asks = 0
    for _ in range(30):
        one.step(Tick(), after=0.3)
        asks += one.kinds().count(AskForPeers)
    assert followed < len(one.core.followed) <= 2 * limits.neighbours(20)
    assert 1 < asks < 10


@pytest.mark.parametrize("peers", [2, 400, 10_000])
def test_the_degree_is_more_than_the_logarithm(peers: int) -> None:
    assert 10 <= LIMITS.neighbours(peers) <= 20


def test_a_peer_at_a_new_address_is_followed_there() -> None:
    one = Driver(4).with_peers("a", have=full(4))
    moved = PeerInfo(name="a", url="http://a:2")
    assert one.step(PeersSeen((moved,))) == []  # hearsay
    one.step(PeersSeen((moved,), alive=True))
    assert [type(a) for a in one.actions if not isinstance(a, (Cancel, Request))][:1] == [Unfollow]
    assert Poll(moved) in one.actions
