import asyncio

from swarm_lab import make_frames, make_task

from nodectl.store.memory import MemoryStore
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo
from nodectl.swarm.share import Share

FRAMES = make_frames(10, 100)
TASK = make_task(FRAMES, 4)  # spans of 4, 4 and 2 frames


def share(*numbers: int) -> Share:
    store = MemoryStore()
    store.put_many([FRAMES[i] for i in numbers])
    return Share.open(TASK, store)


def test_the_store_tells_what_is_here() -> None:
    one = share(0, 1, 2, 3, 5)
    assert one.have == 0b001
    assert list(one.missing_frames(0)) == []
    assert list(one.missing_frames(1)) == [0, 2, 3]
    assert list(one.missing_frames(2)) == [0, 1]
    assert one.held_bytes == 500
    assert not one.origin
    assert share(*range(10)).origin


def test_news_are_what_came_after() -> None:
    one = share()
    start = one.since
    assert one.news_since("") == (True, 0)
    one.mark([2])
    assert one.held_bytes == 200
    middle = one.since
    one.mark([0, 2])
    assert one.news_since(start) == (False, 0b101)
    assert one.news_since(middle) == (False, 0b001)
    assert one.news_since(one.since) == (False, 0)
    assert one.news_since("other-0") == (True, 0b101)


def test_frames_one_by_one_make_a_span() -> None:
    one = share()
    one.mark_frames(2, {1})
    assert list(one.missing_frames(2)) == [0]
    assert one.held_bytes == 100
    one.mark_frames(2, {0})
    assert one.have == 0b100


def test_what_is_taken_back_makes_everyone_ask_for_the_whole() -> None:
    one = share(*range(10))
    before = one.since
    one.unmark(1, [2])
    assert one.news_since(before) == (True, 0b101)
    assert list(one.missing_frames(1)) == [2]
    assert one.held_bytes == 900
    assert not one.origin


def sealed(span: int) -> list[bytes]:
    return [frame.sealed for frame in FRAMES[4 * span : 4 * span + 4]]


def test_a_warm_span_is_offered_at_once_and_counts_as_held_only_when_durable() -> None:
    one = share(0, 1, 2, 3)
    start = one.since
    one.warm(2, sealed(2))
    assert one.offered == 0b101
    assert one.have == 0b001
    assert one.held_bytes == 400
    assert one.news_since(start) == (False, 0b100)
    after = one.since
    one.mark([2])
    assert one.have == 0b101
    assert one.news_since(after) == (False, 0)  # it was told before
    assert one.warm_frames(2) == sealed(2)
    assert one.warm_frames(0) is None


def test_what_is_durable_leaves_memory_first_and_what_is_not_stays() -> None:
    one = Share.open(TASK, MemoryStore(), limits=Limits(warm_bytes=400))
    one.warm(0, sealed(0))
    one.warm(1, sealed(1))
    assert one.warm_frames(0) is not None  # too much, but not stored yet
    one.mark([1])
    assert one.warm_frames(1) is None
    assert one.warm_frames(0) is not None
    assert one.offered == 0b011


def test_who_stops_to_fetch_takes_back_what_is_not_durable() -> None:
    one = share()
    one.warm(0, sealed(0))
    one.warm(1, sealed(1))
    one.mark([1])
    before = one.since
    one.chill()
    assert one.offered == 0b010
    assert one.news_since(before) == (True, 0b010)
    assert one.warm_frames(0) is None


def test_waiting_ends_with_news() -> None:
    async def scene() -> None:
        one = share()
        waiting = asyncio.ensure_future(one.wait_news(one.since, 30))
        await asyncio.sleep(0)
        assert not waiting.done()
        one.mark([1])
        await waiting
        await one.wait_news("older-0", 30)
        one.close()
        await one.wait_news(one.since, 30)

    asyncio.run(asyncio.wait_for(scene(), 5))


def test_peers_are_told_once_and_the_last_heard_is_last() -> None:
    one = share()
    told: list[str] = []
    one.on_spoke = lambda peer, _: told.append(peer.name)
    a, b = (PeerInfo(name=name, url=f"http://{name}:1") for name in "ab")
    for peer in (a, b, a):
        one.meet(peer)
    assert told == ["a", "b"]
    assert one.peers == (b, a)
    one.forget("b")
    assert one.peers == (a,)
    assert one.peer("b") is one.peer(None) is None


def test_a_later_look_at_the_store_adds_what_it_found() -> None:
    one = share(0, 5)
    start = one.since
    one.mark_frames(2, {1})  # known here, and not to the other
    one.mark_found(share(0, 1, 2, 3, 5, 6, 8))
    assert one.have == 0b101
    assert list(one.missing_frames(1)) == [0, 3]
    assert one.held_bytes == 800
    assert one.news_since(start) == (False, 0b101)
    one.mark_found(share())  # nothing is taken back
    assert one.held_bytes == 800
