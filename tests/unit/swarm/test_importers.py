import random

import pytest

from nodectl.swarm.bitfield import Rarity, full
from nodectl.swarm.circle import Circle
from nodectl.swarm.importers import Importers
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo

SPANS = 400


def info(name: str, rack: str = "r1") -> PeerInfo:
    return PeerInfo(name=name, url=f"http://{name}:1", rack=rack)


def rack(count: int) -> list[Importers]:
    people = [info(f"n{i}") for i in range(count)]
    made = [Importers(me, SPANS) for me in people]
    for me, one in zip(people, made, strict=True):
        for peer in people:
            if peer is not me:
                one.join(peer)
    return made


def test_each_span_has_one_importer_and_all_have_about_as_many() -> None:
    sets = [one.importable() for one in rack(8)]
    assert sum(bits.bit_count() for bits in sets) == SPANS
    together = 0
    for bits in sets:
        together |= bits
    assert together == full(SPANS)
    assert all(25 <= bits.bit_count() <= 80 for bits in sets)  # 50 on average


def test_who_leaves_moves_only_its_own_spans() -> None:
    made = rack(5)
    before = [one.importable() for one in made]
    for one in made[1:]:
        one.leave("n0")
    after = [one.importable() for one in made[1:]]
    moved = [new & ~old for old, new in zip(before[1:], after, strict=True)]
    assert all(not old & ~new for old, new in zip(before[1:], after, strict=True))
    assert sum(bits.bit_count() for bits in moved) == before[0].bit_count()


def test_what_does_not_come_in_is_left_to_more_and_more() -> None:
    one = rack(8)[3]
    shares = []
    for _ in range(6):
        shares.append(one.importable().bit_count())
        one.period(full(SPANS))
    assert shares == sorted(shares)
    assert shares[0] == shares[1]  # what was seen only now is not late
    assert shares[-1] == SPANS
    one.period(0)
    assert one.importable().bit_count() == shares[0]


@pytest.mark.parametrize("mine", ["", "r1"])
def test_without_racks_or_alone_everything_may_be_asked_anywhere(mine: str) -> None:
    one = Importers(info("me", mine), SPANS)
    one.join(info("far", "r2"))
    one.join(info("unknown", ""))
    assert one.alone
    assert one.importable() == full(SPANS)


def test_a_peer_of_another_rack_is_asked_for_what_this_node_imports_only() -> None:
    circle = Circle(info("me"), SPANS, Limits(), random.Random(1))
    for peer in (info("mate"), info("far", "r2")):
        circle.meet(peer, alive=True)
        circle.adopt(peer.name)
    circle.hear("far", full(SPANS), replaces=True, now=0.0)
    circle.hear("mate", 0, replaces=True, now=0.0)
    circle.bar(starving=False, hungry=False)
    far = circle.neighbours["far"]
    assert far.may_give() == circle.importers.importable()
    mine = far.may_give() & -far.may_give()
    circle.hear("mate", mine, replaces=False, now=1.0)  # it is in the rack
    circle.bar(starving=False, hungry=False)
    assert not far.may_give() & mine
    assert circle.neighbours["mate"].may_give() == mine
    circle.bar(starving=True, hungry=False)
    assert far.may_give() == full(SPANS)


def test_counts_of_a_power_of_two_or_more() -> None:
    rarity = Rarity()
    for bits in (0b1111, 0b0111, 0b0011, 0b0001):
        rarity.add(bits)
    assert [rarity.powers(digit) for digit in range(4)] == [0b1111, 0b0111, 0b0001, 0]


def test_the_last_of_a_rack_brings_in_what_its_dead_mates_were_to_bring() -> None:
    circle = Circle(info("me"), SPANS, Limits(), random.Random(1))
    for peer in (info("mate"), info("far", "r2")):
        circle.meet(peer, alive=True)
        circle.adopt(peer.name)
    circle.hear("far", full(SPANS), replaces=True, now=0.0)
    circle.bar(starving=False, hungry=False)
    far = circle.neighbours["far"]
    assert far.may_give() != full(SPANS)
    circle.remove(circle.neighbours["mate"])
    circle.bury("mate", now=1.0)
    circle.bar(starving=False, hungry=False)
    assert far.may_give() == full(SPANS)


def test_a_hungry_node_may_be_second_within_its_share() -> None:
    circle = Circle(info("me"), SPANS, Limits(), random.Random(1))
    for peer in (*[info(f"mate{i}") for i in range(4)], info("far", "r2")):
        circle.meet(peer, alive=True)
        circle.adopt(peer.name)
    circle.hear("far", full(SPANS), replaces=True, now=0.0)
    far = circle.neighbours["far"]
    circle.bar(starving=False, hungry=False)
    first = far.may_give()
    circle.bar(starving=False, hungry=True)
    assert far.may_give() & first == first
    assert 1.5 * first.bit_count() < far.may_give().bit_count() < SPANS
    circle.importers.brought = SPANS // 5 + SPANS // 10  # more than its share
    circle.bar(starving=False, hungry=True)
    assert far.may_give() == first


def test_what_an_origin_in_the_rack_has_is_not_in_the_rack_yet() -> None:
    circle = Circle(info("me"), SPANS, Limits(), random.Random(1))
    origin = PeerInfo(name="origin", url="http://origin:1", rack="r1", seeds=True)
    for peer in (origin, info("mate"), info("far", "r2")):
        circle.meet(peer, alive=True)
        circle.adopt(peer.name)
    for name in ("origin", "far"):
        circle.hear(name, full(SPANS), replaces=True, now=0.0)
    circle.neighbours["origin"].origin = True
    circle.bar(starving=False, hungry=False)
    mine = circle.neighbours["far"].may_give()
    assert mine == circle.importers.importable() != 0
    assert mine.bit_count() > SPANS // 3  # the origin, which fetches nothing, imports nothing
