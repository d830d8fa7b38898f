"""The question for work is answered at the door, by the rules of every other question."""

import asyncio
import contextlib
import dataclasses
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from controlling import ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running

from nodectl.catalog.records import JobKind
from nodectl.door import DoorLimits
from nodectl.node.client import ControlClient
from nodectl.node.state import Membership
from nodectl.trust.ca import CONTROLLER_NAME, client_context
from nodectl.trust.certificate import load_identity
from nodectl.trust.mac import RENEW_HEADER, TIME_HEADER, Signed, sign_request

NOTHING = b'{"work": []}'


def _question(member: Membership, *, wait_ms: int = 0, more: str = "", name: str = "") -> bytes:
    """Return the bytes that nodectl's own client sends, `more` header lines behind them."""
    target = f"/v1/work?since=0&wait_ms={wait_ms}"
    mac = sign_request(
        Signed("GET", target),
        client=name or member.node,
        key=member.secret,
        unix_ms=int(time.time() * 1000),
    )
    head = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAuthorization: {mac}\r\n{more}\r\n"
    return head.encode()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def at_the_door(self) -> bool:
        return "Server" not in self.headers  # aiohttp always says what it is


class Line:
    """One connection to a controller, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["Content-Length"]))
        return Answer(int(first.split()[1]), headers, body)

    async def ask(self, data: bytes) -> Answer:
        self.writer.write(data)
        return await self.answer()


@contextlib.asynccontextmanager
async def _line(
    controller: Controller, member: Membership, *, bare: bool = False
) -> AsyncIterator[Line]:
    tls = client_context(member.ca_pem.encode())
    if not bare:
        load_identity(tls, member.identity)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", controller.port, ssl=tls, server_hostname=CONTROLLER_NAME
    )
    try:
        yield Line(reader, writer)
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def _lab(
    tmp_path: Path, door: DoorLimits | None = None
) -> AsyncIterator[tuple[Controller, Membership]]:
    async with running(new_controller(tmp_path / "c"), door=door) as controller:
        yield controller, await controller.member(tmp_path / "n1", "n1")


async def _job(controller: Controller) -> None:
    async with controller.operator() as operator:
        await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
        await operator.create_job(JobKind.FETCH, "golden", nodes=["n1"])


def test_what_the_client_sends_is_what_the_door_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or every node of a site would cost what it did before, and nobody would notice."""
    seen: list[str] = []
    learn = ControlClient._learn_time

    def note(self: ControlClient, headers: dict[str, str]) -> None:
        seen.append(headers.get("Server", "the door"))
        learn(self, headers)

    monkeypatch.setattr(ControlClient, "_learn_time", note)

    async def main() -> None:
        async with _lab(tmp_path) as (controller, member):
            at = dataclasses.replace(member, controllers=(controller.url,))
            async with ControlClient(at) as client:
                for _ in range(3):
                    assert await client.work(since=0, wait_s=0) == []
                    await client.publishers()  # over another connection
        assert seen[0::2] == ["the door"] * 3
        assert all(name.startswith("Python") for name in seen[1::2])

    run_async(main())


def test_other_forms_of_the_question_get_the_same_answer_from_the_application(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with _lab(tmp_path) as (controller, member):
            async with _line(controller, member) as line:
                for _ in range(2):
                    usual = await line.ask(_question(member))
                    assert (usual.status, usual.body, usual.at_the_door) == (200, NOTHING, True)
                    assert abs(int(usual.headers[TIME_HEADER]) / 1000 - time.time()) < 5
                    assert RENEW_HEADER not in usual.headers
                other = await line.ask(_question(member, more="Accept: */*\r\n"))
                assert (other.status, other.body, other.at_the_door) == (200, NOTHING, False)
                # From now on the connection is the application's.
                again = await line.ask(_question(member))
                assert (again.status, again.body, again.at_the_door) == (200, NOTHING, False)
            async with _line(controller, member) as line:
                data = _question(member)
                line.writer.write(data[:50])
                await asyncio.sleep(0.1)  # so that it is read in two parts
                assert (await line.ask(data[50:])).body == NOTHING
            async with _line(controller, member) as line:
                first = await line.ask(_question(member) + _question(member))
                second = await line.answer()
                assert first.body == second.body == NOTHING
            async with _line(controller, member) as line:
                body = "Content-Length: 5\r\n"
                refused = await line.ask(_question(member, more=body) + b"12345")
                assert refused.status == 401  # the MAC is not of that body

    run_async(main())


def test_who_may_not_ask_is_refused_at_the_door_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with _lab(tmp_path) as (controller, member):
            other = await controller.member(tmp_path / "n2", "n2")
            wrong = dataclasses.replace(member, secret=bytes(32))
            replayed = _question(member)
            async with _line(controller, member) as line:
                assert (await line.ask(replayed)).status == 200
            for data in (
                _question(other),
                _question(member, name="n2"),
                _question(wrong),
                replayed,
                _question(member).replace(b"since=0", b"since=1"),
            ):
                async with _line(controller, member) as line:
                    answer = await line.ask(data)
                    assert (answer.status, answer.body, answer.at_the_door) == (401, b"", True)
                    assert TIME_HEADER in answer.headers
                    assert await line.reader.read() == b""  # it has to connect again
            async with _line(controller, member, bare=True) as line:
                assert (await line.ask(_question(member))).status == 401
            async with _line(controller, member) as line:
                assert (await line.ask(_question(member, wait_ms=60_001))).status == 400
            async with controller.operator() as operator:
                await operator.remove_node("n1")
            async with _line(controller, member) as line:
                assert (await line.ask(_question(member))).status == 401

    run_async(main())


def test_a_question_that_waits_is_answered_when_there_is_work(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            _lab(tmp_path) as (controller, member),
            _line(controller, member) as line,
            _line(controller, member) as late,
        ):
            assert (await late.ask(_question(member, wait_ms=50))).body == NOTHING
            line.writer.write(_question(member, wait_ms=30_000))
            assert (await late.ask(_question(member))).body == NOTHING
            await _job(controller)
            answer = await line.answer()
            assert answer.at_the_door
            assert b'"golden"' in answer.body
            # The same connection goes on.
            assert b'"golden"' in (await line.ask(_question(member))).body

    run_async(main())


def test_who_is_removed_while_it_waits_hears_no_more(tmp_path: Path) -> None:
    """Its name may be another machine's a moment later, and with it the work."""

    async def main() -> None:
        async with _lab(tmp_path) as (controller, member), _line(controller, member) as line:
            line.writer.write(_question(member, wait_ms=30_000))
            async with _line(controller, member) as other:  # by then the first one waits
                assert (await other.ask(_question(member))).body == NOTHING
            async with controller.operator() as operator:
                await operator.remove_node("n1")
            await controller.member(tmp_path / "again", "n1")
            await _job(controller)
            with pytest.raises(asyncio.IncompleteReadError):
                async with asyncio.timeout(10):
                    await line.answer()

    run_async(main())


def test_who_asks_again_without_waiting_is_shown_the_door(tmp_path: Path) -> None:
    async def main() -> None:
        async with _lab(tmp_path) as (controller, member):
            async with _line(controller, member) as line:
                line.writer.write(_question(member, wait_ms=30_000))
                await asyncio.sleep(0.1)
                line.writer.write(_question(member))
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    assert await line.reader.read() == b""
            async with _line(controller, member) as line:  # it leaves while its question waits
                line.writer.write(_question(member, wait_ms=30_000))
                await asyncio.sleep(0.1)
            async with controller.operator() as operator:
                assert await operator.nodes()

    run_async(main())


def test_a_connection_on_which_nothing_is_asked_any_more_is_closed(tmp_path: Path) -> None:
    async def main() -> None:
        limits = DoorLimits(idle_s=1.0)
        async with (
            _lab(tmp_path, limits) as (controller, member),
            _line(controller, member) as line,
        ):
            began = time.monotonic()
            assert (await line.ask(_question(member, wait_ms=1500))).body == NOTHING
            assert (await line.ask(_question(member))).body == NOTHING
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                assert await line.reader.read() == b""
            assert time.monotonic() - began > 2.4

    run_async(main())


def test_the_controller_ends_at_once_while_nodes_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            async with _lab(tmp_path) as (controller, member):
                line = await stack.enter_async_context(_line(controller, member))
                line.writer.write(_question(member, wait_ms=50_000))
                await asyncio.sleep(0.1)
                began = time.monotonic()
            assert time.monotonic() - began < 5
            assert (await line.answer()).body == NOTHING

    run_async(main())
