"""HTTP from the asking side: what comes over real connections, and what is refused."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from controlling import run_async
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodectl.swarm.line import Lines, Patience, parse_head, place_of
from nodectl.swarm.outlet import send_all

LONG = Patience(connect_s=20, answer_s=20, progress_s=20)
SHORT = Patience(connect_s=20, answer_s=20, progress_s=1.5)
BODY = os.urandom(1_000_000)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _peer(serve: Serve) -> AsyncIterator[tuple[str, list[int]]]:
    """Serve; yield the URL, and a list that has one entry for each connection."""
    connections: list[int] = []
    open_now: set[asyncio.StreamWriter] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(len(connections))
        open_now.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()
            open_now.discard(writer)

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        server.close()
        for writer in open_now:
            writer.transport.abort()
        while open_now:  # noqa: ASYNC110 - what it waits for is a count
            await asyncio.sleep(0.01)


async def _read(lines: Lines, url: str, patience: Patience = LONG) -> tuple[int, bytes]:
    async with lines.get(url, "/x", "auth", patience) as reply:
        return reply.status, await reply.body(2_000_000)


def _answer(body: bytes, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        request = await reader.readuntil(b"\r\n\r\n")
        assert b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:" in request
        writer.write(_answer(BODY))


def test_one_connection_is_enough_for_one_question_after_the_other() -> None:
    async def main() -> None:
        async with _peer(_good) as (url, connections), Lines(2) as lines:
            for _ in range(3):
                assert await _read(lines, url) == (200, BODY)
            assert len(connections) == 1
            both = await asyncio.gather(_read(lines, url), _read(lines, url))
            assert both == [(200, BODY)] * 2
            assert len(connections) == 2

    run_async(main())


def test_a_peer_that_closed_in_the_meantime_is_asked_again() -> None:
    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_answer(b"one"))
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")  # and closes in place of an answer

    async def main() -> None:
        async with _peer(once) as (url, connections), Lines(2) as lines:
            for _ in range(3):
                assert await _read(lines, url) == (200, b"one")
            assert len(connections) == 3

    run_async(main())


def test_a_connection_that_is_to_end_is_not_used_again() -> None:
    async def ending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_answer(b"one", "Connection: close\r\n"))
        await reader.read()

    async def main() -> None:
        async with _peer(ending) as (url, connections), Lines(2) as lines:
            assert [await _read(lines, url) for _ in range(2)] == [(200, b"one")] * 2
            assert len(connections) == 2

    run_async(main())


def test_a_body_that_drips_is_waited_for_as_long_as_it_drips() -> None:
    """Few enough bytes not to wake the process; together longer than the patience."""

    async def dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_answer(BODY)[:1000])
        for _ in range(14):
            await asyncio.sleep(0.15)
            writer.write(b"x" * 1000)
        await reader.read()

    async def main() -> None:
        async with _peer(dripping) as (url, _), Lines(2) as lines:
            began = asyncio.get_running_loop().time()
            buffer = memoryview(bytearray(len(BODY)))
            with pytest.raises(TimeoutError):
                async with lines.get(url, "/x", "auth", SHORT) as reply:
                    await reply.fill(buffer)
            assert asyncio.get_running_loop().time() - began > 14 * 0.15
            came = len(BODY) - reply.left
            assert 14_000 <= came <= 15_000  # what the kernel had is not lost
            assert bytes(buffer[came - 14_000 : came]) == b"x" * 14_000

    run_async(main())


def test_what_came_before_it_broke_off_is_there() -> None:
    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_answer(BODY)[:-1000])
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        async with _peer(breaking) as (url, _), Lines(2) as lines:
            buffer = memoryview(bytearray(len(BODY)))
            with pytest.raises(OSError, match="closed"):
                async with lines.get(url, "/x", "auth", SHORT) as reply:
                    await reply.fill(buffer)
            came = len(BODY) - reply.left
            assert came > 900_000
            assert buffer[:came] == BODY[:came]

    run_async(main())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n folded\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nmore than it says",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 9000,
        b"\x16\x03\x01" * 4000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()

    async def main() -> None:
        async with _peer(serve) as (url, _), Lines(2) as lines:
            with pytest.raises(ValueError, match=r"answer|body"):
                await _read(lines, url)

    run_async(main())


def test_a_peer_that_speaks_unasked_is_not_listened_to() -> None:
    async def chatting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_answer(b"one"))
        await asyncio.sleep(0.1)
        writer.write(_answer(b"two"))
        await reader.read()

    async def main() -> None:
        async with _peer(chatting) as (url, connections), Lines(2) as lines:
            assert await _read(lines, url) == (200, b"one")
            await asyncio.sleep(0.3)
            assert await _read(lines, url) == (200, b"one")  # over another connection
            assert len(connections) == 2

    run_async(main())


def test_one_that_does_not_answer_is_not_waited_for_long() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            writer.write(b"")

    async def main() -> None:
        patience = Patience(connect_s=5, answer_s=0.2, progress_s=5)
        async with _peer(silent) as (url, _), Lines(2) as lines:
            with pytest.raises(TimeoutError):
                await _read(lines, url, patience)
            with pytest.raises(OSError, match=r"refused|Connect"):
                await _read(lines, "http://127.0.0.1:1")

    run_async(main())


@pytest.mark.parametrize(
    "url",
    ["", "h:1", "https://h:1", "http://h", "http://h:0", "http://h:1/x", "http://h:1?x", "http://u@h:1",
     "http://h:99999", "http://h:1\r\nX: y", "http://h :1", "http://\u00e4:1", "http://[::1"],
)  # fmt: skip
def test_what_is_no_url_of_a_peer_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|port|Port|netloc"):
        place_of(url)


def test_urls_of_peers() -> None:
    assert place_of("http://10.0.0.1:7444") == ("10.0.0.1", 7444)
    assert place_of("http://[fd00::1]:7444") == ("fd00::1", 7444)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_noise_is_a_head_or_a_value_error(noise: bytes, more: bytes) -> None:
    for data in (noise, b"HTTP/1.1 200 OK\r\n" + noise + b"\r\nContent-Length: 7\r\n" + more):
        with contextlib.suppress(ValueError):
            head = parse_head(data + b"\r\n\r\n")
            assert 0 <= head.length < 10**15


@pytest.mark.parametrize("sizes", [[0], [1], [100_000] * 30, [3] * 3000, [5_000_000]])
def test_frames_go_out_whole_however_slowly_they_are_taken(sizes: list[int]) -> None:
    frames = [os.urandom(size) for size in sizes]

    async def main() -> None:
        done = asyncio.Event()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await send_all(writer.transport, frames, writer.drain, 5)  # type: ignore[arg-type]
            writer.write(b"the end")
            await writer.drain()
            done.set()
            writer.close()

        async with _peer(serve) as (url, _):
            reader, writer = await asyncio.open_connection(*place_of(url), limit=4096)
            await asyncio.sleep(0.1)
            whole = b"".join(frames) + b"the end"
            assert await reader.readexactly(len(whole)) == whole
            await done.wait()
            writer.transport.abort()

    run_async(main())


def test_one_that_takes_nothing_loses_its_place() -> None:
    async def main() -> None:
        failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await send_all(writer.transport, [BODY] * 50, writer.drain, 0.3)  # type: ignore[arg-type]
            except (TimeoutError, ConnectionError) as exc:
                failed.set_result(exc)

        async with _peer(serve) as (url, _):
            _, writer = await asyncio.open_connection(*place_of(url), limit=4096)
            assert isinstance(await failed, TimeoutError)
            writer.transport.abort()

    run_async(main())
