"""What a stranger's bad requests leave in the log."""

import asyncio
import logging

import pytest
from aiohttp import web
from aiohttp.http_exceptions import BadStatusLine
from controlling import run_async

from nodectl.listen import Address, listening
from nodectl.weblog import WebLog


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def _fault(log: WebLog, asker: str, error: Exception) -> None:
    log.exception("Error handling request from %s", asker, exc_info=error)  # noqa: LOG004


def test_an_askers_fault_is_one_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = WebLog(logging.getLogger("nodectl.test"), "the controller", clock)
    for _ in range(100):
        _fault(log, "192.0.2.1", BadStatusLine("\x1b[2Jrubbish\nof a stranger"))
    _fault(log, "192.0.2.2", ConnectionResetError("away"))
    assert len(caplog.records) == 2
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("a request from 192.0.2.1 to the controller could not be read: ")
    assert first.isprintable()
    assert "(99 more were not written here)" in second
    assert all(record.exc_info is None for record in caplog.records)
    clock.at = 61
    _fault(log, "192.0.2.1", BadStatusLine("again"))
    assert len(caplog.records) == 3


def test_many_askers_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    log = WebLog(logging.getLogger("nodectl.test"), "a peer", Clock())
    for number in range(1000):
        _fault(log, f"192.0.2.{number}", BadStatusLine("x"))
    assert len(caplog.records) == 20


def test_a_fault_of_ours_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log = WebLog(logging.getLogger("nodectl.test"), "a peer", Clock())
    for _ in range(1000):
        _fault(log, "192.0.2.1", ZeroDivisionError("ours"))
    assert len(caplog.records) == 20
    assert all(record.exc_info is not None for record in caplog.records)


RUBBISH = (
    b"\x16\x03\x01\x00\xa5\x01\x00\x00" * 20,  # TLS where there is none
    b"GET / HTTP/1.1\r\n\r\n",  # without Host
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"G@T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\ncut off",
    bytes(200),
)


def test_rubbish_on_the_wire_leaves_one_line_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def read(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async def main() -> None:
        app = web.Application()
        app.router.add_route("*", "/", read)
        async with listening(app, Address("127.0.0.1", 0), what="a test") as bound:
            for data in RUBBISH * 3:
                reader, writer = await asyncio.open_connection(bound.host, bound.port)
                writer.write(data)
                writer.write_eof()
                answer = await reader.read()
                assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), data
                writer.close()

    run_async(main())
    assert [record.exc_info for record in caplog.records if record.exc_info] == []
    assert len(caplog.records) == 1
    assert "a request from 127.0.0.1 to a test" in caplog.text
