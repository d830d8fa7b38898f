"""Real HTTP on loopback: one seeder, some peers, and what goes wrong between them."""

import asyncio
import dataclasses
import errno
import threading
import time
from collections.abc import Iterator, Sequence

import aiohttp
import pytest
from aiohttp import web
from swarm_lab import KEY, QUICK, ROOT, Lab, Peer, lab, make_frames, make_task

from nodectl.errors import NoSpace, SwarmStalled
from nodectl.ids import FrameId, Root
from nodectl.store.memory import MemoryStore
from nodectl.store.model import StoredFrame
from nodectl.swarm.bitfield import full, to_bytes
from nodectl.swarm.client import FetchReport
from nodectl.swarm.conduct import Conduct
from nodectl.swarm.model import Phase
from nodectl.swarm.statistics import Wait
from nodectl.swarm.terms import Terms
from nodectl.swarm.wire import any_target, span_target, swarm_path, tail_len
from nodectl.trust.mac import Signed, sign_request

FRAMES = make_frames(800, 2048)
TASK = make_task(FRAMES, 4)  # 200 spans
SIZE = sum(len(frame.sealed) for frame in FRAMES)
BASE = swarm_path(ROOT, Phase.DATA)


@pytest.fixture(autouse=True)
def no_errors_in_servers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A request that is given up must not look like a bug in the log of the one who serves."""
    yield
    assert [r for r in caplog.get_records("call") if r.name == "aiohttp.server"] == []


async def fetch_all(peers: list[Peer]) -> list[FetchReport]:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(peer.fetch()) for peer in peers]
    return [task.result() for task in running]


async def crowd(made: Lab, count: int) -> list[Peer]:
    return [await made.add(f"n{i}") for i in range(count)]


def holds_all(peer: Peer) -> bool:
    sealed = list(peer.store.get_many([frame.frame_id for frame in FRAMES]))
    return sealed == [frame.sealed for frame in FRAMES] and peer.share.complete


class LyingStore(MemoryStore):
    """Has everything, and flips one bit of each frame that it gives."""

    def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
        for sealed in super().get_many(frame_ids):
            yield bytes([sealed[0] ^ 1]) + sealed[1:]


def test_four_peers_get_everything_and_the_seeder_sends_little_more_than_one_copy() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            peers = await crowd(made, 4)
            reports = await fetch_all(peers)
            assert all(holds_all(peer) for peer in peers)
            assert seeder.server.statistics().bytes_sent <= 1.5 * SIZE
            assert [report.dropped for report in reports] == [()] * 4
            for report in reports:
                assert sum(report.bytes_from.values()) <= 1.1 * SIZE
                assert set(report.bytes_from) - {"seeder"}

    asyncio.run(scene())


def test_a_liar_is_dropped_and_reported_and_nobody_keeps_its_bytes() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            await made.add("seeder", FRAMES)
            liar = await made.add("liar", FRAMES, store=LyingStore())
            liar.share.checked = (1 << 200) - 1  # it does not look at what it sends
            peers = await crowd(made, 3)
            reports = await fetch_all(peers)
            assert all(holds_all(peer) for peer in peers)
            for report in reports:
                assert [name for name, _ in report.dropped] == ["liar"]
                assert "liar" not in report.bytes_from
                assert report.failures["bad"] >= 1

    asyncio.run(scene())


def test_a_seeder_with_a_damaged_frame_does_not_spread_it() -> None:
    class Damaged(MemoryStore):
        def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
            for frame_id, sealed in zip(frame_ids, super().get_many(frame_ids), strict=True):
                yield b"x" + sealed[1:] if frame_id == FRAMES[9].frame_id else sealed

    async def scene() -> None:
        async with lab(TASK) as made:
            bad = await made.add("bad", FRAMES, store=Damaged())
            await made.add("good", FRAMES)
            peer = await made.add("n0")
            report = await peer.fetch()
            assert holds_all(peer)
            assert report.dropped == ()
            bad_spans = 200 - bad.share.have.bit_count()
            assert bad_spans == bad.server.statistics().damaged <= 1

    asyncio.run(scene())


def test_a_disk_that_cannot_be_read_is_told_and_the_others_serve() -> None:
    class Broken(MemoryStore):
        def get_many(self, frame_ids: Sequence[FrameId]) -> Iterator[bytes]:
            if FRAMES[9].frame_id in frame_ids:
                raise OSError(errno.EIO, "Input/output error")
            return super().get_many(frame_ids)

    async def scene() -> None:
        async with lab(TASK) as made:
            broken = await made.add("broken", FRAMES, store=Broken())
            peer = await made.add("n0")
            fetching = asyncio.ensure_future(peer.fetch())
            while broken.server.statistics().damaged == 0:
                await peer.share.wait_news(peer.share.since, 1)
            await made.add("good", FRAMES)
            assert (await fetching).dropped == ()
            assert holds_all(peer)
            assert list(broken.share.missing_frames(2)) == [0, 1, 2, 3]

    asyncio.run(scene())


def test_a_peer_that_stops_in_the_middle_gave_what_it_gave() -> None:
    """Half of each body comes, then the line is cut: the whole frames of it are kept."""

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 4 * 2048 + tail_len(200)
        await response.prepare(request)
        number = int(request.match_info["span"])
        sealed = b"".join(frame.sealed for frame in FRAMES[4 * number : 4 * number + 4])
        await response.write(sealed[:5000])
        assert request.transport is not None
        request.transport.close()
        return response

    async def scene() -> None:
        async with lab(TASK) as made:
            await made.add("seeder", FRAMES, on_span=half)
            peer = await made.add("n0", limits=dataclasses.replace(QUICK, stall_s=1.0))
            fetching = asyncio.ensure_future(peer.fetch())
            async with asyncio.timeout(10):
                while peer.share.held_bytes == 0:  # noqa: ASYNC110 - parts of spans are no news
                    await asyncio.sleep(0.01)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            assert peer.share.have == 0
            assert peer.share.held_bytes % (2 * 2048) == 0

    asyncio.run(scene())


def test_a_late_joiner_gets_all_from_the_others_when_the_seeder_has_left() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            peers = await crowd(made, 2)
            await fetch_all(peers)
            await seeder.stop()
            late = await made.add("late")
            report = await late.fetch()
            assert holds_all(late)
            assert set(report.bytes_from) == {"n0", "n1"}

    asyncio.run(scene())


def test_the_seeder_dies_when_one_copy_is_out() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            peers = await crowd(made, 4)

            async def kill() -> None:
                while True:
                    together = 0
                    for peer in peers:
                        together |= peer.share.have
                    if together.bit_count() == 200:
                        return await seeder.stop()
                    await asyncio.sleep(0.005)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kill())
                tasks.create_task(fetch_all(peers))
            assert all(holds_all(peer) for peer in peers)

    asyncio.run(scene())


def test_peers_find_each_other_through_the_seeder_when_the_tracker_is_gone() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            peers = await crowd(made, 4)
            made.tracker.dead = True
            for peer in peers:
                peer.share.meet(seeder.info)  # all that a ticket told them
            reports = await fetch_all(peers)
            assert all(holds_all(peer) for peer in peers)
            assert made.tracker.asked > 0
            assert sum(len(set(report.bytes_from) - {"seeder"}) for report in reports) >= 4
            assert seeder.server.statistics().bytes_sent <= 2 * SIZE

    asyncio.run(scene())


def test_half_held_only_the_rest_travels_and_not_one_frame_twice() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            # Every second frame: all spans are incomplete, and half of each is here.
            peer = await made.add("n0", FRAMES[::2])
            assert peer.share.have == 0
            assert peer.share.held_bytes == SIZE // 2
            report = await peer.fetch()
            assert holds_all(peer)
            assert seeder.server.statistics().bytes_sent == SIZE // 2
            assert report.bytes_from == {"seeder": SIZE // 2}
            assert (await peer.fetch()).spans == 0

    asyncio.run(scene())


def test_a_fetch_that_is_stopped_goes_on_where_it_was() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            slow = dataclasses.replace(QUICK, upload_rate=SIZE)
            seeder = await made.add("seeder", FRAMES, limits=slow)
            peer = await made.add("n0")
            first = asyncio.ensure_future(peer.fetch())
            while peer.share.have.bit_count() < 50:
                await peer.share.wait_news(peer.share.since, 30)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            again = await made.add("n0-again", store=peer.store)  # a new process: only the store
            assert again.share.have.bit_count() >= 50
            await again.fetch()
            assert holds_all(again)
            assert seeder.server.statistics().bytes_sent <= 1.3 * SIZE

    asyncio.run(scene())


async def ask(peer: Peer, target: str, header: str | None) -> tuple[int, bytes, str]:
    headers = {"Authorization": header} if header else {}
    async with (
        aiohttp.ClientSession() as session,
        session.get(peer.info.url + target, headers=headers) as response,
    ):
        return response.status, await response.read(), response.headers.get("X-Nodectl-Time", "")


def test_without_the_right_mac_there_is_401_and_no_byte_of_content() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            now = time.time_ns() // 1_000_000
            for target in (span_target(BASE, 3, frames="", urgent=False), BASE + "/have"):
                wrong_key = sign_request(
                    Signed("GET", target), client="n1", key=bytes(32), unix_ms=now
                )
                other_path = sign_request(
                    Signed("GET", target + "x"), client="n1", key=KEY, unix_ms=now
                )
                old = sign_request(Signed("GET", target), client="n1", key=KEY, unix_ms=now - 10**6)
                for header in (None, "NCTL1 nonsense", wrong_key, other_path, old):
                    status, body, there = await ask(seeder, target, header)
                    assert (status, body) == (401, b"")
                    assert abs(int(there) - now) < 60_000
            assert seeder.server.statistics().bytes_sent == 0
            assert seeder.server.statistics().unauthorised == 10

    asyncio.run(scene())


def test_a_replay_is_refused() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            target = span_target(BASE, 3, frames="1-2", urgent=False)
            now = time.time_ns() // 1_000_000
            header = sign_request(Signed("GET", target), client="n1", key=KEY, unix_ms=now)
            status, body, _ = await ask(seeder, target, header)
            everything = to_bytes(full(200), 200)  # what the seeder has, behind the frames
            assert status == 200
            assert body == FRAMES[13].sealed + FRAMES[14].sealed + everything
            assert (await ask(seeder, target, header))[:2] == (401, b"")

    asyncio.run(scene())


def test_any_span_is_one_of_those_that_are_wanted() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES[:400])
            for wanted, wait_ms in ((1 << 7, 5000), (1 << 150, 50)):
                target = any_target(BASE, wanted, wait_ms=wait_ms, speaker="")
                now = time.time_ns() // 1_000_000
                header = sign_request(Signed("GET", target), client="n1", key=KEY, unix_ms=now)
                status, body, _ = await ask(seeder, target, header)
                if wanted == 1 << 7:
                    frames = b"".join(frame.sealed for frame in FRAMES[28:32])
                    assert (status, body) == (200, frames + to_bytes(full(100), 200))
                else:  # it waited, and there is none
                    assert status == 404

    asyncio.run(scene())


@pytest.mark.parametrize(
    "path",
    [
        "/spans/200",
        "/any?wanted=!",
        "/any?wanted=" + "_" * 300,
        "/spans/3?frames=0,9",
        "/spans/3?frames=2-1",
    ],
)
def test_what_there_is_not_cannot_be_asked_for(path: str) -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            now = time.time_ns() // 1_000_000
            header = sign_request(Signed("GET", BASE + path), client="n1", key=KEY, unix_ms=now)
            assert (await ask(seeder, BASE + path, header))[0] == 400

    asyncio.run(scene())


@pytest.mark.parametrize("path", ["/spans/-1", "/spans/x", "/spans/", "", "/spans/1/2"])
def test_other_paths_are_not_there(path: str) -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            assert (await ask(seeder, BASE + path, None))[0] == 404

    asyncio.run(scene())


def test_a_clock_of_1970_heals_with_one_retry() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            peer = await made.add("n0")
            await peer.fetch(now_ms=lambda: 12_345)
            assert holds_all(peer)
            assert seeder.server.statistics().unauthorised <= 12

    asyncio.run(scene())


def test_a_slow_peer_does_not_hold_the_rest() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            await made.add(
                "seeder", FRAMES, limits=dataclasses.replace(QUICK, upload_rate=SIZE * 2)
            )
            slow = await made.add(
                "slow", FRAMES, limits=dataclasses.replace(QUICK, upload_rate=SIZE // 50)
            )
            peers = await crowd(made, 3)
            began = time.monotonic()
            reports = await fetch_all(peers)
            assert time.monotonic() - began < 6  # alone, the slow one needs 50 s for one copy
            assert all(holds_all(peer) for peer in peers)
            assert all(report.dropped == () for report in reports)
            assert slow.server.statistics().bytes_sent < SIZE

    asyncio.run(scene())


@pytest.mark.parametrize("side", ["upload_rate", "download_rate"])
def test_a_rate_limit_holds_within_ten_percent(side: str) -> None:
    async def scene() -> None:
        rate = SIZE // 2
        limits = dataclasses.replace(QUICK, **{side: rate})
        async with lab(TASK) as made:
            await made.add("seeder", FRAMES, limits=limits if side == "upload_rate" else QUICK)
            peer = await made.add("n0", limits=limits if side == "download_rate" else QUICK)
            report = await peer.fetch()
            assert SIZE / report.seconds <= 1.1 * rate
            assert SIZE / report.seconds >= 0.8 * rate  # the machine that tests may be busy

    asyncio.run(scene())


def test_a_swarm_that_is_paused_rests_and_goes_on_where_it_was() -> None:
    async def scene() -> None:
        conduct = Conduct(Terms(paused=True))  # of all nodes here
        task = dataclasses.replace(TASK, conduct=conduct)
        async with lab(task, limits=dataclasses.replace(QUICK, stall_s=1.0)) as made:
            await made.add("seeder", FRAMES)
            peer = await made.add("n0")
            fetching = asyncio.ensure_future(peer.fetch())
            await asyncio.wait([fetching], timeout=1.5)  # longer than it may stall
            assert not fetching.done()
            assert peer.share.statistics is not None
            assert peer.share.statistics().wait() is Wait.PAUSE
            assert peer.share.have == 0
            conduct.change(Terms())
            await fetching
            assert holds_all(peer)

    asyncio.run(scene())


@pytest.mark.parametrize("side", ["upload_rate", "download_rate"])
def test_a_limit_of_one_swarm_holds_within_ten_percent(side: str) -> None:
    async def scene() -> None:
        rate = SIZE // 2
        task = dataclasses.replace(TASK, conduct=Conduct(Terms(**{side: rate})))
        async with lab(task) as made:
            await made.add("seeder", FRAMES)
            peer = await made.add("n0")
            report = await peer.fetch()
            assert 0.8 * rate <= SIZE / report.seconds <= 1.1 * rate

    asyncio.run(scene())


def test_swarms_share_the_slots_by_their_weights() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            server = (await made.add("seeder", FRAMES)).server
            other = dataclasses.replace(
                TASK, root=Root(bytes(32)), conduct=Conduct(Terms(weight=4))
            )
            await server.add_swarm(other, made.peers["seeder"].store)
            small, large = server._served.values()
            assert (server._slots(small), server._slots(large)) == (5, 5)
            for served in (small, large):
                served.admission.ask("n1", 0, urgent=True, now=0.0)
            assert (server._slots(small), server._slots(large)) == (1, 4)

    asyncio.run(scene())


def test_nobody_answers_is_an_error_after_the_stall_time() -> None:
    async def scene() -> None:
        limits = dataclasses.replace(QUICK, stall_s=0.5)
        async with lab(TASK, limits=limits) as made:
            peer = await made.add("n0", FRAMES[:400])
            with pytest.raises(SwarmStalled, match="100 of 200 spans are missing"):
                await peer.fetch()
            assert peer.share.have.bit_count() == 100

    asyncio.run(scene())


def test_a_full_store_is_told_as_it_is() -> None:
    class Full(MemoryStore):
        def put_many(self, frames: Sequence[StoredFrame]) -> None:
            if self.statistics().frames > 100:
                raise NoSpace("no space left for the store")
            super().put_many(frames)

    async def scene() -> None:
        async with lab(TASK) as made:
            await made.add("seeder", FRAMES)
            peer = await made.add("n0", store=Full())
            with pytest.raises(NoSpace):
                await peer.fetch()

    asyncio.run(scene())


def test_a_span_is_passed_on_before_the_disk_has_it() -> None:
    class Stuck(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.free = threading.Event()

        def put_many(self, frames: Sequence[StoredFrame]) -> None:
            self.free.wait(30)
            super().put_many(frames)

    async def scene() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            store = Stuck()
            store.free.set()
            middle = await made.add("middle", store=store)
            store.free.clear()
            fetching = asyncio.ensure_future(middle.fetch())
            while middle.share.offered.bit_count() < 100:
                await middle.share.wait_news(middle.share.since, 30)
            assert middle.share.have == 0
            await seeder.stop()
            last = await made.add("last")
            second = asyncio.ensure_future(last.fetch())
            while last.share.have.bit_count() < 50:
                await last.share.wait_news(last.share.since, 30)
            assert middle.share.have == 0
            store.free.set()
            fetching.cancel()
            second.cancel()
            await asyncio.gather(fetching, second, return_exceptions=True)
            assert middle.share.offered == middle.share.have

    asyncio.run(scene())


def test_each_stored_span_is_told_once() -> None:
    async def scene() -> None:
        async with lab(TASK) as made:
            await made.add("seeder", FRAMES)
            peer = await made.add("n0")
            told: list[int] = []
            await peer.fetch(on_stored=told.append)
            assert sorted(told) == list(range(200))

    asyncio.run(scene())


def test_a_swarm_that_is_dropped_is_served_no_more() -> None:
    async def run() -> None:
        async with lab(TASK) as made:
            seeder = await made.add("seeder", FRAMES)
            waiting = asyncio.ensure_future(seeder.share.wait_news(seeder.share.since, 60))
            await asyncio.sleep(0)
            seeder.server.drop_swarm(ROOT, Phase.DATA)
            await waiting  # who waits for news is not kept waiting
            assert seeder.server.statistics().swarms == 0
            target = span_target(BASE, 0, frames="", urgent=False)
            mac = sign_request(
                Signed("GET", target), client="n1", key=KEY, unix_ms=time.time_ns() // 10**6
            )
            async with (
                aiohttp.ClientSession() as session,
                session.get(seeder.info.url + target, headers={"Authorization": mac}) as response,
            ):
                assert response.status == 404

    asyncio.run(run())
