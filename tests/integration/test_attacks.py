"""A stranger who holds connections, and nodes that turned bad."""

import asyncio
import contextlib
import io
import itertools
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from controlling import new_controller, run_async, running
from swarm_lab import KEY, QUICK, Lab, lab, make_frames, make_task
from yarl import URL

from nodectl.background import background
from nodectl.door import Count, Counted, DoorLimits, Strangers, place_of, prove
from nodectl.listen import Address, listening
from nodectl.store.model import StoredFrame
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo
from nodectl.swarm.wire import HaveReply
from nodectl.trust.ca import client_context
from nodectl.trust.mac import Signed, sign_request

FRAMES = make_frames(40, 20_000)
TASK = make_task(FRAMES, 4)  # 10 spans
BRIEF = Limits(
    store_gap_s=0.01, have_gap_s=0.02, hedge_min_s=0.3, dead_first_s=0.1, ask_first_s=0.1,
    progress_s=1.0, span_s=2.0, stall_s=20.0,
)  # fmt: skip
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


# --- a node that turned bad: it has the key, and says or sends what it likes ---------------------


async def _wrong_frames(_: web.Request) -> web.StreamResponse:
    return web.Response(body=os.urandom(80_000))


async def _frames_of_another_span(request: web.Request) -> web.StreamResponse:
    number = (int(request.match_info["span"]) + 1) % 10
    frames = FRAMES[number * 4 : number * 4 + 4]
    return web.Response(body=b"".join(frame.sealed for frame in frames))


async def _too_long(_: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(10_000_000))


async def _without_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(bytes(65_536))
    return response


async def _a_byte_at_a_time(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = 80_000
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.2)
    return response


async def _packed(_: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(80_000), headers={"Content-Encoding": "gzip"})


async def _elsewhere(_: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:9/secret")


async def _not_there(_: web.Request) -> web.StreamResponse:
    return web.Response(status=404)


async def _has_all(_: web.Request) -> web.StreamResponse:
    reply = HaveReply(since="a", whole=True, origin=False, have=(1 << 10) - 1)
    return web.Response(body=reply.to_bytes())


async def _knows_thousands(_: web.Request) -> web.StreamResponse:
    peers = tuple(PeerInfo(name=f"p{i}", url=f"http://127.0.0.1:{1 + i}") for i in range(1000))
    reply = HaveReply(since=os.urandom(4).hex(), whole=True, origin=False, have=1023, peers=peers)
    return web.Response(body=reply.to_bytes())


async def _has_more_than_there_is(_: web.Request) -> web.StreamResponse:
    reply = HaveReply(since="a", whole=True, origin=False, have=(1 << 4000) - 1)
    return web.Response(body=reply.to_bytes())


async def _nested(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"[" * 200_000)


@contextlib.asynccontextmanager
async def _bad_node(made: Lab, have: Answer, span: Answer) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_get("/v1/swarm/{root}/{phase}/have", have)
    app.router.add_get("/v1/swarm/{root}/{phase}/spans/{span}", span)
    async with listening(app, Address("127.0.0.1", 0), what="a bad node") as bound:
        made.tracker.known["bad"] = PeerInfo(name="bad", url=bound.url("http"))
        yield


@pytest.mark.parametrize(
    ("have", "span"),
    [
        (_has_all, _wrong_frames),
        (_has_all, _frames_of_another_span),
        (_has_all, _too_long),
        (_has_all, _without_end),
        (_has_all, _a_byte_at_a_time),
        (_has_all, _packed),
        (_has_all, _elsewhere),
        (_has_all, _not_there),
        (_knows_thousands, _not_there),
        (_has_more_than_there_is, _wrong_frames),
        (_nested, _wrong_frames),
        (_without_end, _without_end),
    ],
)
def test_a_bad_node_costs_time_and_nothing_else(have: Answer, span: Answer) -> None:
    """The others give everything; not one byte of the bad node is kept."""

    async def main() -> None:
        async with lab(TASK, limits=BRIEF) as made, _bad_node(made, have, span):
            await made.add("seeder", FRAMES)
            node = await made.add("n1")
            report = await node.fetch(limits=BRIEF)
            assert node.share.complete
            assert "bad" not in report.bytes_from
            assert _stored(node.store.get_many([f.frame_id for f in FRAMES])) == _stored(FRAMES)

    run_async(main(), within_s=50)


def _stored(frames: Iterable[StoredFrame | bytes]) -> list[bytes]:
    return [frame.sealed if isinstance(frame, StoredFrame) else frame for frame in frames]


def test_a_peer_can_ask_for_bytes_and_for_nothing_else() -> None:
    """The data plane has two paths to read; nothing there makes a node do anything."""

    async def main() -> None:
        async with lab(TASK, limits=QUICK) as made, aiohttp.ClientSession() as session:
            peer = await made.add("n1", FRAMES)
            base = f"/v1/swarm/{TASK.root.hex()}/data"
            methods = ("POST", "PUT", "DELETE", "PATCH")
            paths = ("/have", "/spans/0", "/jobs", "", "/../../../work")
            for method, path in itertools.product(methods, paths):
                signed = Signed(method, base + path)
                now_ms = int(time.time() * 1000)
                headers = {
                    "Authorization": sign_request(signed, client="bad", key=KEY, unix_ms=now_ms)
                }
                url = peer.info.url + base + path
                async with session.request(method, url, headers=headers) as response:
                    assert response.status in {404, 405}

    run_async(main())


# --- a stranger who holds connections ------------------------------------------------------------


async def _silent(address: Address, tls: ssl.SSLContext | None, said: bytes) -> float:
    """Open a connection, say little, and return after how many seconds it was closed."""
    began = time.monotonic()
    name = None if tls is None else "controller.nodectl"
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=tls, server_hostname=name
    )
    writer.write(said)
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await reader.read()
    writer.close()
    return time.monotonic() - began


@pytest.mark.parametrize("said", [b"", b"GET /v1/work HTTP/1.1\r\nHost: x\r\nX: "])
def test_who_says_nothing_is_shown_the_door(said: bytes) -> None:
    async def main() -> None:
        limits = DoorLimits(head_s=0.3)
        app = web.Application()
        async with listening(app, Address("127.0.0.1", 0), what="a test", limits=limits) as bound:
            waits = await asyncio.gather(*(_silent(bound, None, said) for _ in range(20)))
            assert all(0.2 < wait < 5 for wait in waits)

    run_async(main())


def test_one_address_has_so_many_connections_and_others_still_get_in() -> None:
    async def ok(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", ok)
        limits = DoorLimits(per_address=5, local_too=True, head_s=5)
        async with (
            listening(app, Address("0.0.0.0", 0), what="a test", limits=limits) as bound,
            contextlib.AsyncExitStack() as held,
        ):
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", bound.port)
                held.callback(writer.close)
            assert await _silent(Address("127.0.0.1", bound.port), None, b"") < 2
            # Another address of this machine is another one to the door.
            connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.get(f"http://127.0.0.1:{bound.port}/") as response,
            ):
                assert await response.text() == "ok"

    run_async(main())


def test_a_stranger_cannot_make_the_controller_read_much(tmp_path: Path) -> None:
    """Without a certificate the one path is the join, and its body is small."""

    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            tls = client_context(controller.state.membership().ca_pem.encode())

            async def endless() -> AsyncIterator[bytes]:
                while True:
                    yield bytes(65_536)

            for path, data in (
                ("/v1/join", endless()),
                ("/v1/join", io.BytesIO(bytes(70_000))),
                ("/v1/releases", io.BytesIO(bytes(7_000_000))),
            ):
                # Or it closes the connection while we still send.
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    status = await _post(controller.url + path, data, tls)
                    assert status in {401, 413}

    run_async(main())


async def _post(url: str, data: io.BytesIO | AsyncIterator[bytes], tls: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=data, ssl=tls, server_hostname="controller.nodectl") as response,
    ):
        return response.status


class Crowd:
    """A stranger who opens connection after connection and says nothing, from one address."""

    def __init__(
        self, port: int, address: str, said: bytes = b"", *, pause_s: float = 0.01
    ) -> None:
        self._pause_s = pause_s
        self.port = port
        self._address = address
        self._said = said
        self.opened = 0

    async def _hold(self) -> None:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, local_addr=(self._address, 0)
            )
            self.opened += 1
            writer.write(self._said)
            try:
                await reader.read()
            finally:
                writer.transport.abort()

    async def _again_and_again(self) -> None:
        while True:
            await self._hold()
            await asyncio.sleep(self._pause_s)

    @contextlib.asynccontextmanager
    async def pressing(self, at_once: int) -> AsyncIterator[None]:
        async with background(*(self._again_and_again() for _ in range(at_once))):
            while self.opened < at_once:  # noqa: ASYNC110 - what it waits for is a count
                await asyncio.sleep(0.01)
            yield
        await asyncio.sleep(0.05)  # what was aborted is closed by the loop


@pytest.mark.parametrize("said", [b"", b"GET /v1/swarm HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n\r\n"])
def test_peers_go_on_while_a_stranger_opens_a_thousand_connections(said: bytes) -> None:
    door = DoorLimits(per_address=100, local_too=True, head_s=0.5)

    async def main() -> None:
        async with lab(TASK, limits=QUICK) as made:
            seeder = await made.add("seeder", FRAMES, door=door)
            crowd = Crowd(int(seeder.info.url.rpartition(":")[2]), "127.0.0.2", said)
            async with crowd.pressing(400):
                node = await made.add("n1")
                await node.fetch(limits=QUICK)
                assert node.share.complete
                while crowd.opened < 1000:  # noqa: ASYNC110 - what it waits for is a count
                    await asyncio.sleep(0.05)
                late = await made.add("n2")
                await late.fetch(limits=QUICK)
                assert late.share.complete

    run_async(main())


def test_operators_go_on_while_a_stranger_never_begins_with_tls(tmp_path: Path) -> None:
    """Connections count from the moment they are accepted, before TLS."""

    async def main() -> None:
        state = new_controller(tmp_path / "c")
        limits = DoorLimits(per_address=60, local_too=True, handshake_s=30)
        async with running(state, door=limits) as controller:
            crowd = Crowd(controller.port, "127.0.0.2")
            async with crowd.pressing(200), controller.operator() as operator:
                assert await operator.releases() == []
                opened = crowd.opened
                assert await operator.nodes()
                assert opened >= 200

    run_async(main())


def test_the_oldest_stranger_leaves_and_a_member_never() -> None:
    async def member(request: web.Request) -> web.Response:
        if "Authorization" in request.headers:
            prove(request.transport)
        return web.Response(text="ok")

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/", member)
        limits = DoorLimits(strangers=20, head_s=30)
        listen = Address("127.0.0.1", 0)
        async with (
            listening(app, listen, what="a test", limits=limits) as bound,
            aiohttp.ClientSession() as session,
            contextlib.AsyncExitStack() as held,
        ):
            url = bound.url("http")
            headers = {"Authorization": "x"}
            async with session.get(url, headers=headers) as response:
                await response.read()
                ours = response.connection
            readers = []
            for _ in range(100):
                reader, writer = await asyncio.open_connection(bound.host, bound.port)
                held.callback(writer.close)
                readers.append(reader)
            for reader in readers[:80]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            assert not any(reader.at_eof() for reader in readers[80:])
            async with session.get(url, headers=headers) as response:  # over the same connection
                assert await response.text() == "ok"
            assert ours is None or ours.protocol is not None
            assert not any(reader.at_eof() for reader in readers[80:])

    run_async(main())


def test_members_get_in_while_strangers_from_everywhere_never_begin_with_tls(
    tmp_path: Path,
) -> None:
    """No address has many connections, all of them together more than there may be."""

    async def main() -> None:
        state = new_controller(tmp_path / "c")
        limits = DoorLimits(strangers=15, local_too=True, handshake_s=30)
        crowds = [Crowd(0, f"127.0.1.{host}", pause_s=0.3) for host in range(1, 31)]
        async with (
            running(state, door=limits) as controller,
            controller.operator() as operator,
            contextlib.AsyncExitStack() as stack,
        ):
            assert await operator.releases() == []
            for crowd in crowds:
                crowd.port = controller.port
                await stack.enter_async_context(crowd.pressing(1))
            opened = sum(crowd.opened for crowd in crowds)
            assert opened >= 30
            for _ in range(3):
                assert await operator.nodes()  # over the connection that it has
                async with controller.operator() as late:
                    assert await late.nodes()
            while sum(crowd.opened for crowd in crowds) <= opened:  # noqa: ASYNC110 - a count
                await asyncio.sleep(0.05)  # they never have their fill

    run_async(main())


def test_strangers_from_where_no_member_was_seen_leave_first() -> None:
    strangers = Strangers(2)
    with contextlib.ExitStack() as stack:

        def came(place: str) -> socket.socket:
            here, there = socket.socketpair()
            stack.enter_context(there)
            connection = Counted(here, place, Count(DoorLimits()), strangers)
            stack.enter_context(connection)
            strangers.came(connection)
            return there

        member = came("10.0.0.1")
        strangers.prove(next(iter(strangers)).fileno())
        assert len(strangers) == 0
        again = came("10.0.0.1")  # the oldest, from where a member was seen
        first, second, third = (came(f"192.0.2.{i}") for i in range(3))
        for gone in (first, second):
            assert gone.recv(1) == b""
        for stays in (member, again, third):
            stays.settimeout(0)
            with pytest.raises(BlockingIOError):
                stays.recv(1)


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.9", "local"),
        ("::1", "local"),
        ("::ffff:127.0.0.1", "local"),
        ("", ""),
    ],
)
def test_an_address_counts_as_what_one_machine_has(address: str, place: str) -> None:
    assert place_of(address) == place


# --- wrong credentials on the data plane ---------------------------------------------------------

_PATHS = ["/have", "/have?wait_ms=0&at=http%3A%2F%2Fh%3A1", "/spans/0", "/spans/0?urgent=1",
          "/spans/999999", "/spans/0?frames=0"]  # fmt: skip


def _headers_of_strangers(target: str) -> dict[str, str | None]:
    request, now_ms = Signed("GET", target), int(time.time() * 1000)

    def signed(request: Signed = request, *, key: bytes = KEY, unix_ms: int = now_ms) -> str:
        return sign_request(request, client="bad", key=key, unix_ms=unix_ms)

    good = signed()
    return {
        "none": None,
        "empty": "",
        "another scheme": "Basic " + good,
        "no key": signed(key=bytes(32)),
        "the key of another swarm": signed(key=b"o" * 32),
        "for another path": signed(Signed("GET", target + "x")),
        "for another method": signed(Signed("HEAD", target)),
        "for another body": signed(Signed("GET", target, b"body")),
        "expired": signed(unix_ms=now_ms - 121_000),
        "of the future": signed(unix_ms=now_ms + 121_000),
        "of 1970": signed(unix_ms=0),
        "in capitals": good.upper(),
        "another name": good.replace(" bad ", " good "),
        "one digit changed": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "twice": f"{good} {good}",
    }


@pytest.mark.parametrize("path", _PATHS)
def test_wrong_credentials_get_nothing_from_a_peer(path: str) -> None:
    async def main() -> None:
        async with lab(TASK, limits=QUICK) as made, aiohttp.ClientSession() as session:
            peer = await made.add("n1", FRAMES)
            target = f"/v1/swarm/{TASK.root.hex()}/data{path}"

            async def ask(header: str | None) -> tuple[int, bytes, bool]:
                headers = {} if header is None else {"Authorization": header}
                url = URL(peer.info.url + target, encoded=True)
                async with session.get(url, headers=headers) as answer:
                    return answer.status, await answer.read(), "X-Nodectl-Time" in answer.headers

            for name, header in _headers_of_strangers(target).items():
                assert await ask(header) == (401, b"", True), name
            now_ms = int(time.time() * 1000)
            good = sign_request(Signed("GET", target), client="n2", key=KEY, unix_ms=now_ms)
            assert (await ask(good))[0] != 401
            assert await ask(good) == (401, b"", True)  # replayed

    run_async(main())


def test_one_that_is_refused_has_to_connect_again() -> None:
    async def main() -> None:
        async with lab(TASK, limits=QUICK) as made, aiohttp.ClientSession() as session:
            peer = await made.add("n1", FRAMES)
            url = f"{peer.info.url}/v1/swarm/{TASK.root.hex()}/data/have"
            async with session.get(url) as answer:
                assert answer.status == 401
                assert answer.headers["Connection"] == "close"

    run_async(main())
