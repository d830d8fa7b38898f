import random
from collections.abc import Iterable

from nodectl.swarm import picker
from nodectl.swarm.bitfield import Rarity, bits_of
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo
from nodectl.swarm.picker import Choice, Neighbour

LIMITS = Limits()


def info(name: str, rack: str = "") -> PeerInfo:
    return PeerInfo(name=name, url=f"http://{name}:1", rack=rack)


def neighbour(name: str, have: list[int], **kwargs: object) -> Neighbour:
    kwargs.setdefault("same_rack", False)
    return Neighbour(info=info(name), have=bits_of(have), **kwargs)  # type: ignore[arg-type]


def choose(
    wanted: Iterable[int],
    ready: list[Neighbour],
    everyone: list[Neighbour] | None = None,
    seed: int = 0,
) -> Choice | None:
    everyone = everyone or ready
    rarity = Rarity()
    for one in everyone:
        rarity.add(one.have)
    rng = random.Random(seed)
    return picker.choose_request(bits_of(wanted), ready, everyone, rarity, rng)


def test_the_rarest_span_of_the_least_loaded_neighbour() -> None:
    a = neighbour("a", [0, 1, 2], bytes_in_flight=10)
    b = neighbour("b", [1, 2])
    c = neighbour("c", [2], bytes_in_flight=20)
    choice = choose([0, 1, 2], [a, b, c])
    assert (choice.neighbour.info.name, choice.span, choice.urgent) == ("b", 1, False)


def test_ties_are_random() -> None:
    a = neighbour("a", list(range(50)))
    assert len({choose(range(50), [a], seed=seed).span for seed in range(30)}) > 15


def test_an_origin_is_asked_only_for_what_no_fetching_neighbour_has() -> None:
    origin = neighbour("origin", [0, 1], origin=True, given_out=True)
    busy = neighbour("busy", [0], not_before=9.0)
    assert choose([0, 1], [origin], [origin, busy]).span == 1
    assert choose([0], [origin], [origin, busy]) is None


def test_an_origin_without_a_request_is_asked_first() -> None:
    origin = neighbour("origin", [0, 1], origin=True, given_out=True, bytes_in_flight=0)
    idle = neighbour("idle", [1])
    chosen = [choose([0, 1], [origin, idle], seed=seed) for seed in range(20)]
    assert all(choice.neighbour is origin for choice in chosen)
    origin.refuse(2, 9.0)
    assert (
        len({choose([0, 1], [origin, idle], seed=seed).neighbour.info for seed in range(20)}) == 2
    )
    origin.deferred = 0
    origin.in_flight[0] = 0.0
    origin.bytes_in_flight = 1
    assert choose([0, 1], [origin, idle]).neighbour is idle


def test_what_was_refused_twice_is_urgent_the_third_time() -> None:
    origin = neighbour("origin", [0, 1], origin=True, given_out=True)
    for span in (0, 0, 1):
        origin.refuse(span, 1.0)
    assert choose([0, 1], [origin]) is None
    origin.deferred = 0
    first, second = choose([0], [origin]), choose([1], [origin])
    assert first is not None
    assert second is not None
    assert (first.urgent, second.urgent) == (True, False)


def test_the_urgent_choice_takes_it_from_the_origin_all_the_same() -> None:
    origin = neighbour("origin", [0], origin=True, deferred=bits_of([0]))
    choice = picker.choose_urgent(bits_of([0]), [origin], Rarity(), random.Random(0))
    assert (choice.neighbour, choice.span, choice.urgent) == (origin, 0, True)
    assert picker.choose_urgent(bits_of([1]), [origin], Rarity(), random.Random(0)) is None


def test_a_deferred_span_is_not_asked_there() -> None:
    a = neighbour("a", [0, 1], deferred=bits_of([0]))
    assert choose([0], [a]) is None
    assert choose([0, 1], [a]).span == 1


def test_fetching_peers_before_origins_own_rack_before_others_then_the_least_loaded() -> None:
    rng = random.Random(0)
    origin = neighbour("origin", [0], origin=True)
    far = neighbour("far", [0])
    near_busy = neighbour("near-busy", [0], same_rack=True, bytes_in_flight=5)
    near = neighbour("near", [0], same_rack=True)
    order = [near, near_busy, far, origin]
    for i in range(4):
        assert picker.choose_neighbour(reversed(order[i:]), rng) is order[i]


def test_neighbours_mostly_of_the_own_rack_and_some_outside() -> None:
    me = info("me", "r0")
    known = [info(f"p{i}", f"r{i % 5}") for i in range(100)]
    chosen = picker.choose_follows(me, known, [], 12, random.Random(1), LIMITS)
    assert len(chosen) == len(set(chosen)) == 12
    assert sum(peer.rack != "r0" for peer in chosen) == 4  # 30 % of 12


def test_neighbours_outside_count_the_ones_that_are_followed() -> None:
    me = info("me", "r0")
    followed = [info(f"f{i}", "r9") for i in range(4)]
    known = [info(f"p{i}", f"r{i % 5}") for i in range(100)]
    chosen = picker.choose_follows(me, known, followed, 12, random.Random(1), LIMITS)
    assert len(chosen) == 8
    assert all(peer.rack == "r0" for peer in chosen)


def test_where_one_side_has_too_few_the_other_fills_the_places() -> None:
    me = info("me", "r0")
    inside = [info(f"i{i}", "r0") for i in range(2)]
    outside = [info(f"o{i}", "r1") for i in range(30)]
    rng = random.Random(1)
    assert len(picker.choose_follows(me, inside + outside, [], 12, rng, LIMITS)) == 12
    assert len(picker.choose_follows(me, inside, [], 12, rng, LIMITS)) == 2
    assert len(picker.choose_follows(info("me"), outside, [], 12, rng, LIMITS)) == 12
    assert picker.choose_follows(me, outside, outside[:12], 12, rng, LIMITS) == []


def test_about_sixteen_follow_one_that_has_everything() -> None:
    seed = PeerInfo(name="seed", url="http://seed:1", seeds=True)
    people = [info(f"n{i}") for i in range(80)]
    following = [
        seed in picker.choose_follows(me, [seed, *people], [], 6, random.Random(i), LIMITS)
        for i, me in enumerate(people)
    ]
    assert 10 <= sum(following) <= 24
    few = people[:10]
    assert all(
        seed in picker.choose_follows(me, [seed, *few], [], 6, random.Random(1), LIMITS)
        for me in few
    )


def test_two_requests_always_fit_more_only_within_the_window() -> None:
    a = neighbour("a", [0], in_flight={1: 0.0}, bytes_in_flight=100)
    assert a.has_room(0, LIMITS)
    a.in_flight[2] = 0.0
    assert not a.has_room(100, LIMITS)
    assert a.has_room(101, LIMITS)
    a.in_flight.update(dict.fromkeys(range(3, 9), 0.0))
    assert not a.has_room(10**9, LIMITS)
