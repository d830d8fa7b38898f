import random

from nodectl.controller.tracker import (
    ANNOUNCES_PER_S,
    INTERVAL_S,
    MATES_MAX,
    PEERS_MAX,
    Announcement,
    Tracker,
)
from nodectl.ids import Root

ROOT = Root(bytes(32))


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def _says(node: str, *, complete: bool = False) -> Announcement:
    return Announcement(node=node, url=f"http://{node}:1", have_bytes=0, complete=complete)


def test_a_node_hears_of_the_others() -> None:
    tracker = Tracker(Clock(), random.Random(1))
    assert tracker.announce(ROOT, _says("a", complete=True)) == ()
    assert [p.node for p in tracker.announce(ROOT, _says("b"))] == ["a"]
    assert tracker.known(ROOT) == 2
    assert tracker.peers(Root(b"\1" * 32)) == ()


def test_who_is_silent_is_not_handed_out() -> None:
    clock = Clock()
    tracker = Tracker(clock, random.Random(1))
    tracker.announce(ROOT, _says("a"))
    clock.at += 3 * INTERVAL_S - 0.1
    assert len(tracker.announce(ROOT, _says("b"))) == 1
    clock.at += 1.2
    assert tracker.announce(ROOT, _says("b")) == ()


def test_who_was_removed_is_not_handed_out() -> None:
    tracker = Tracker(Clock(), random.Random(1))
    tracker.announce(ROOT, _says("a"))
    tracker.forget("a")
    assert tracker.peers(ROOT) == ()


def test_of_many_a_random_part_is_handed_out() -> None:
    tracker = Tracker(Clock(), random.Random(1))
    for number in range(200):
        tracker.announce(ROOT, _says(f"n{number}"))
    one, two = tracker.peers(ROOT), tracker.peers(ROOT)
    assert len({p.node for p in one}) == len({p.node for p in two}) == PEERS_MAX
    assert set(one) != set(two)


def test_of_many_most_are_of_the_same_rack_and_others_too() -> None:
    tracker = Tracker(Clock(), random.Random(1), rack_of=lambda node: node[0])
    for number in range(240):
        tracker.announce(ROOT, _says(f"{'abcd'[number % 4]}{number}"))
    racks = [peer.node[0] for peer in tracker.peers(ROOT, but="a0")]
    assert len(racks) == PEERS_MAX
    assert racks.count("a") == MATES_MAX
    assert {"b", "c", "d"} < set(racks)


def test_the_more_nodes_the_less_often_each_speaks() -> None:
    tracker = Tracker(Clock(), random.Random(1))
    tracker.announce(ROOT, _says("a"))
    assert tracker.interval_s(ROOT) == INTERVAL_S
    for number in range(2000):
        tracker.announce(ROOT, _says(f"n{number}"))
    assert tracker.interval_s(ROOT) == 2001 / ANNOUNCES_PER_S
