"""Multicast on loopback: real sockets, a real swarm beside it, and what goes wrong.

Datagrams are lost behind the receiving socket, at random with a seed: then the losses are the same
in every run and on every kernel.
"""

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from commands import WAIT_S, Commands
from swarm_lab import KEY, Lab, Peer, lab, make_frames, make_task

from nodectl.multicast.datagram import Kind, Seal, Session
from nodectl.multicast.receiver import NAME, MulticastFeed, listening
from nodectl.multicast.sender import SendReport, send
from nodectl.swarm.bitfield import full
from nodectl.swarm.client import FetchReport
from nodectl.swarm.feed import Brought
from nodectl.swarm.rate import RateLimiter

FRAMES = make_frames(600, 6000)
TASK = make_task(FRAMES, 5)  # 120 spans of 30,000 bytes
SIZE = sum(len(frame.sealed) for frame in FRAMES)
HERE = "127.0.0.1"
RATE = 3_000_000  # bytes/s


def _session(number: int) -> Session:
    """Return a session with a group and a port of its own: tests may run beside each other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HERE, 0))
        port = probe.getsockname()[1]
    group = f"239.192.{port >> 8}.{port & 255}"
    return Session(session=number.to_bytes(8, "little"), group=group, port=port, rate=RATE)


def holds_all(peer: Peer) -> bool:
    sealed = list(peer.store.get_many([frame.frame_id for frame in FRAMES]))
    return sealed == [frame.sealed for frame in FRAMES] and peer.share.complete


class Loss:
    """Loses some of what a feed would take."""

    def __init__(self, feed: MulticastFeed, share: float, seed: int) -> None:
        rng, take = random.Random(seed), feed.take
        self.lost = 0

        def take_some(data: memoryview) -> None:
            if rng.random() < share:
                self.lost += 1
            else:
                take(data)

        feed.take = take_some  # type: ignore[method-assign]


class Milestone:
    """Is reached when so many spans are stored."""

    def __init__(self, spans: int) -> None:
        self._left = spans
        self.reached = asyncio.Event()

    def count(self, _span: int) -> None:
        self._left -= 1
        if not self._left:
            self.reached.set()


async def _receive(
    peer: Peer,
    session: Session,
    listens: asyncio.Semaphore,
    *,
    loss: float = 0.0,
    hurry: float = 1.0,
    milestone: "Milestone | None" = None,
) -> tuple[FetchReport, MulticastFeed]:
    """Fetch with a feed that loses some; time runs `hurry` times as fast for its patience."""
    clock: Callable[[], float] = lambda: time.monotonic() * hurry  # noqa: E731
    async with listening(peer.share, session, interface=HERE, clock=clock) as feed:
        if loss:
            Loss(feed, loss, seed=7)
        listens.release()
        stored = milestone or Milestone(0)
        return await peer.fetch(feed=feed, on_stored=stored.count), feed


async def _send(made: Lab, session: Session, ready: asyncio.Semaphore, count: int) -> SendReport:
    async def all_listen() -> int:
        for _ in range(count):
            await ready.acquire()
        return full(len(TASK.spans))

    upload = RateLimiter(None, time.monotonic)
    share = made.peers["seeder"].share
    return await send(share, session, interface=HERE, upload=upload, ready=all_listen())


@contextlib.asynccontextmanager
async def _room(count: int) -> AsyncIterator[tuple[Lab, list[Peer]]]:
    async with lab(TASK) as made:
        await made.add("seeder", FRAMES)
        yield made, [await made.add(f"n{i}") for i in range(count)]


def test_eight_receivers_and_forced_gaps() -> None:
    """One loses a tenth, one hears nothing, one comes late: the others have all by multicast."""
    session = _session(1)

    async def run() -> tuple[list[FetchReport], SendReport]:
        async with _room(8) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            losses = [0.1, 1.0, 0, 0, 0, 0, 0]
            third = Milestone(40)
            receiving = [
                tasks.create_task(
                    _receive(
                        peer,
                        session,
                        listens,
                        loss=loss,
                        hurry=4 if loss == 1 else 1,
                        milestone=milestone,
                    )
                )
                for peer, loss in zip(peers, losses, strict=False)
                for milestone in [third if peer is peers[2] else None]
            ]
            sending = tasks.create_task(_send(made, session, listens, 7))
            await third.reached.wait()
            receiving.append(tasks.create_task(_receive(peers[7], session, listens, hurry=4)))
            reports = [(await one)[0] for one in receiving]
            assert all(map(holds_all, peers))
            return reports, await sending

    reports, sent = asyncio.run(run())
    by_multicast = [report.bytes_from.get(NAME, 0) for report in reports]
    assert sent.sent_bytes == SIZE
    assert sent.seconds > 0.8 * SIZE / RATE, "it is paced"
    assert min(by_multicast[2:7]) > 0.9 * SIZE, by_multicast
    assert 0.1 * SIZE < by_multicast[0] < 0.95 * SIZE, "whole frames are used, gaps are filled"
    assert by_multicast[1] == 0
    assert 0.2 * SIZE < by_multicast[7] < 0.9 * SIZE
    assert all(not report.dropped for report in reports)


def test_a_stranger_cannot_poison_and_replays_do_no_harm() -> None:
    """Noise, forged MACs, another session's datagrams, and every datagram once more."""
    session = _session(2)

    async def run() -> tuple[FetchReport, MulticastFeed]:
        async with _room(1) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            receiving = tasks.create_task(_receive(peers[0], session, listens))
            flooding = tasks.create_task(_flood(session))
            await _send(made, session, listens, 1)
            report, feed = await receiving
            flooding.cancel()
            assert holds_all(peers[0])
            return report, feed

    report, feed = asyncio.run(run())
    assert report.bytes_from[NAME] > 0.9 * SIZE
    assert feed.refused > 100


async def _flood(session: Session) -> None:
    """Send what only looks like datagrams of a session, for ever."""
    rng = random.Random(3)
    stranger, other = Seal(bytes(32), session.session), Seal(KEY, b"othersns")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
        out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HERE))
        out.connect((session.group, session.port))
        while True:
            span, payload = rng.randrange(200), rng.randbytes(1428)
            with contextlib.suppress(BlockingIOError):
                out.send(rng.randbytes(rng.randrange(1, 1600)))
                out.send(stranger.make(Kind.PIECE, span=span, sequence=0, payload=payload))
                out.send(other.make(Kind.END, sequence=0))
            await asyncio.sleep(0.001)


def test_every_datagram_twice_and_the_old_ones_again_change_nothing() -> None:
    session = _session(3)

    async def run() -> FetchReport:
        async with _room(1) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            async with listening(peers[0].share, session, interface=HERE) as feed:
                heard: list[bytes] = []
                take = feed.take

                def replay(data: memoryview) -> None:
                    heard.append(bytes(data))
                    for again in (data, memoryview(heard[len(heard) // 2]), data):
                        take(again)

                feed.take = replay  # type: ignore[method-assign]
                listens.release()
                tasks.create_task(_send(made, session, listens, 1))
                report = await peers[0].fetch(feed=feed)
            assert holds_all(peers[0])
            return report

    assert asyncio.run(run()).bytes_from[NAME] > 0.9 * SIZE


def test_a_member_that_forges_pieces_makes_nobody_store_a_wrong_byte() -> None:
    """Who has the swarm key can make the multicast worthless, and that is all."""
    session = _session(4)
    seal = Seal(KEY, session.session)

    async def run() -> FetchReport:
        async with _room(1) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            async with listening(peers[0].share, session, interface=HERE) as feed:
                for span in range(0, 120, 3):  # it comes first with wrong bytes for a third
                    size = peers[0].share.sizes[span]
                    wrong = memoryview(bytes(size))
                    tasks.create_task(_later(feed, [*seal.pieces(span, wrong, 0)], 0.008 * span))
                listens.release()
                tasks.create_task(_send(made, session, listens, 1))
                report = await peers[0].fetch(feed=feed)
            assert holds_all(peers[0])
            return report

    report = asyncio.run(run())
    assert report.failures["bad"] > 0
    assert report.dropped == (), "nobody is blamed: anyone can have sent it"


async def _later(feed: MulticastFeed, datagrams: list[bytes], seconds: float) -> None:
    await asyncio.sleep(seconds)
    for datagram in datagrams:
        feed.take(memoryview(datagram))


@pytest.mark.parametrize("stops_at", [30, 0])
def test_the_swarm_goes_on_where_the_sender_stops_or_never_begins(stops_at: int) -> None:
    session = _session(5)

    async def run() -> FetchReport:
        async with _room(2) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            milestone = Milestone(stops_at)
            receiving = [
                tasks.create_task(
                    _receive(peers[0], session, listens, hurry=8, milestone=milestone)
                ),
                tasks.create_task(_receive(peers[1], session, listens, hurry=8)),
            ]
            if stops_at:
                sending = tasks.create_task(_send(made, session, listens, 2))
                await milestone.reached.wait()
                sending.cancel()
            reports = [(await one)[0] for one in receiving]
            assert all(map(holds_all, peers))
            return reports[0]

    came = asyncio.run(run()).bytes_from.get(NAME, 0)
    assert came < SIZE
    assert (came > 0) is bool(stops_at)


def test_what_is_unread_is_bounded_and_let_go_beyond() -> None:
    """A disk that cannot keep up costs no memory: the swarm brings the rest later."""
    session = _session(7)
    frames = make_frames(24, 1_000_000)
    seal = Seal(KEY, session.session)

    async def run() -> None:
        async with lab(make_task(frames, 1)) as made:
            peer = await made.add("n0")
            feed = MulticastFeed(peer.share, session, time.monotonic)
            for span, frame in enumerate(frames):
                for datagram in seal.pieces(span, memoryview(frame.sealed), 0):
                    feed.take(memoryview(datagram))
            assert feed.let_go > 4
            assert feed.expected.bit_count() + feed.let_go == 24
            brought = await feed.more()
            assert brought is not None
            assert [one.span for one in brought] == list(range(len(brought)))
            assert feed.expected == 0

    asyncio.run(run())


def test_who_gets_hardly_a_frame_whole_leaves_the_session_to_the_others() -> None:
    """Frames of 1 MB with every tenth datagram lost: none is whole; the link is better used."""
    session = _session(8)
    frames = make_frames(40, 1_000_000)
    seal = Seal(KEY, session.session)

    async def run() -> None:
        async with lab(make_task(frames, 1)) as made:
            peer = await made.add("n0")
            feed = MulticastFeed(peer.share, session, time.monotonic)
            Loss(feed, 0.1, seed=1)
            came: list[Brought] = []
            for span, frame in enumerate(frames):
                for datagram in seal.pieces(span, memoryview(frame.sealed), 0):
                    feed.take(memoryview(datagram))
                brought = await feed.more()
                if brought is None:
                    break
                came += brought
            assert 32 <= len(came) < 40
            assert all(not one.indexes for one in came)
            assert feed.expected == 0

    asyncio.run(run())


def test_spans_that_are_expected_are_not_asked_of_peers() -> None:
    """The seeder sends by multicast alone while it is heard: not one span goes out twice."""
    session = _session(9)

    async def run() -> int:
        async with _room(3) as (made, peers), asyncio.TaskGroup() as tasks:
            listens = asyncio.Semaphore(0)
            receiving = [tasks.create_task(_receive(peer, session, listens)) for peer in peers]
            await _send(made, session, listens, 3)
            for one in receiving:
                await one
            assert all(peer.share.have == full(120) for peer in peers)
            return made.peers["seeder"].server.statistics().bytes_sent

    assert asyncio.run(run()) < SIZE / 10  # some, where the test's own process is held up


# --- a job with a session, through the controller and as a user starts it ---------------------


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


def _start_realm(commands: Commands, tree: Path) -> None:
    """Make a tree, a realm with an image of it, three nodes that run, one that is off."""
    tree.mkdir()
    rng = random.Random(1)
    for number in range(40):
        (tree / f"file-{number}").write_bytes(rng.randbytes(100_000))
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.serve("c", "--controller")
    token = commands.ok("c", "token", "create", "--uses", "4").strip()
    for node in ("n1", "n2", "n3", "off"):
        commands.ok(node, "join", "--token", token, "--name", node)
    for node in ("n1", "n2", "n3"):
        commands.serve(node)
    commands.ok("c", "image", "capture", "golden", "--tree", str(tree))


@pytest.mark.slow
def test_a_push_by_multicast_as_a_user_starts_it(commands: Commands, tmp_path: Path) -> None:
    """Three nodes wait, one is off; the seeder does not wait for it, and the rest comes whole."""
    tree = tmp_path / "tree"
    _start_realm(commands, tree)
    waiting = json.loads(commands.ok("c", "cloner", "multicast-status", "--json"))
    assert {one["node"] for one in waiting["nodes"] if one["waits"]} >= {"n1", "n2", "n3"}
    assert waiting["sessions"] == []

    words = ("cloner", "multicast-image", "--image", "golden", "--rate", "4M", "--json")
    commands.ok("c", *words, "--nodes", "n1,n2,off", "--no-wait")
    begun = json.loads(commands.ok("c", "cloner", "multicast-status", "--json"))
    (session,) = begun["sessions"]
    assert session["nodes"] == ["n1", "n2", "off"]
    assert IPv4Address(session["group"]).is_multicast
    rows = _rows_when_done(commands, 1, ("n1", "n2"))
    for node in ("n1", "n2"):
        receipt = rows[node]["receipt"]
        assert receipt["from"][NAME] > 0.9 * 4_000_000, receipt
        assert receipt["multicast"]["refused_datagrams"] == 0
    assert rows["off"]["state"] == "waiting"
    assert rows["c"]["receipt"]["multicast"]["sent_bytes"] > 4_000_000

    words = ("swarm", "push", "golden", "--nodes", "n3", "--multicast", "--rate", "8M", "--json")
    document = json.loads(commands.ok("c", *words).splitlines()[-1])
    assert document["ok"] is True

    (tree / "file-7").write_bytes(random.Random(2).randbytes(100_000))
    commands.ok("c", "image", "capture", "golden", "--tree", str(tree))
    commands.ok("c", *words[:4], "c,n1,n2,n3", *words[5:])  # as "all" names it, too
    update = _rows_when_done(commands, 3, ("n1", "n2", "n3", "c"))
    sent = update["c"]["receipt"]["multicast"]["sent_bytes"]
    assert 100_000 < sent < 4_000_000, "what all have is not sent"
    assert "golden to 3 nodes at 4 MiB/s" in commands.ok("c", "cloner", "multicast-status")


def _rows_when_done(commands: Commands, job: int, nodes: Sequence[str]) -> dict[str, Any]:
    """Return what all did for a job, when these nodes are done."""
    until = time.monotonic() + WAIT_S
    while True:
        document = json.loads(commands.ok("c", "job", "show", str(job), "--json"))
        rows = {row["node"]: row for row in document["nodes"]}
        if all(rows[node]["state"] == "done" for node in nodes):
            return rows
        assert time.monotonic() < until, rows


def test_a_wrong_rate_is_refused_before_anything_begins(commands: Commands) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    push = ("swarm", "push", "golden", "--nodes", "all", "--multicast", "--rate")
    assert "--rate" in commands.fails("c", 14, *push, "quickly")
    commands.serve("c", "--controller")
    commands.fails("c", 14, *push, "0")
    commands.fails("c", 28, *push, "1M")
