"""HTTP/1.1 as peers speak it, from the asking side: GET on connections that stay open.

Bytes of a body are read by the kernel straight into the buffer where they are checked, and the
process is woken for `_AT_ONCE` of them (SO_RCVLOWAT, socket(7)), not for each packet: on a slow
link that is most of what receiving costs. aiohttp copies them three times and is woken each time.

An answer has a head of at most `_HEAD_MAX` bytes and a Content-Length; anything else is refused
with ValueError. Nothing is followed, unpacked or guessed. One owner: an event loop.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import socket
import struct
import termios
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_HEAD_MAX = 8192  # bytes
_AT_ONCE = 131_072  # bytes to be woken for
_HEAD_END = b"\r\n\r\n"
_STATUS = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\x00]*)")
_LENGTH = re.compile("[0-9]{1,15}")
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait; seconds."""

    connect_s: float
    answer_s: float  # for the head
    progress_s: float  # for one more byte of a body


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a body."""

    status: int
    headers: dict[str, str]  # names in lower case
    length: int  # of the body, bytes
    stays: bool  # whether the connection may be used again


def parse_head(data: bytes) -> Head:
    """Return the head of an answer; `data` ends with the empty line.

    Raises:
        ValueError: it is not of the form above.
    """
    first, *lines = data[: -len(_HEAD_END)].split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ValueError("an answer that does not begin as HTTP does")
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        name = "" if field is None else field[1].decode("ascii").lower()
        if field is None or name in headers:
            raise ValueError("an answer with a field that is none, or stands twice")
        headers[name] = field[2].decode("latin-1").rstrip(" \t")
    code = int(status[2])
    length = "0" if code in _BODILESS else headers.get("content-length", "")
    if "transfer-encoding" in headers or not _LENGTH.fullmatch(length):
        raise ValueError("an answer that does not say how long it is")
    stays = status[1] == b"1" and "close" not in headers.get("connection", "").lower()
    return Head(code, headers, int(length), stays)


class Line(asyncio.BufferedProtocol):
    """One connection to one peer, and one request at a time on it."""

    def __init__(self) -> None:
        """Begin unconnected."""
        self.used = False  # whether a whole answer came over it
        self._transport: asyncio.Transport
        self._socket: socket.socket
        self._head = bytearray(_HEAD_MAX)
        self._head_view = memoryview(self._head)
        self._read = 0  # bytes of the head's buffer
        self._target: memoryview | None = None  # where bytes of the body go
        self._at = 0  # bytes that are in `_target`
        self._wake_for = 1
        self._came = 0  # bytes altogether
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._error is None

    # --- called by asyncio --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        self._transport = transport  # type: ignore[assignment]
        self._socket = transport.get_extra_info("socket")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._fail(exc or ConnectionResetError("the peer closed the connection"))

    def eof_received(self) -> None:
        """Close: half a connection is none."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to: the rest of what is wanted now."""
        del sizehint
        if self._target is not None:
            return self._target[self._at :]
        return self._head_view[self._read :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes."""
        self._came += nbytes
        if self._target is None:
            self._read += nbytes
            if self._waiter is None:  # nothing was asked
                self._fail(ValueError("a peer speaks without being asked"))
            elif self._head_len() or self._read == _HEAD_MAX:
                self._transport.pause_reading()
                self._wake()
            return
        self._at += nbytes
        left = len(self._target) - self._at
        if not left:
            self._target = None
            self._transport.pause_reading()
            self._wake()
        elif left < self._wake_for:
            self._wake_at(left)

    # --- a request ----------------------------------------------------------------------------

    async def ask(self, request: bytes, answer_s: float) -> Head:
        """Send a request; return the head of its answer.

        Raises:
            TimeoutError, OSError: it did not come.
            ValueError: it is not of the form above.
        """
        if self._error is not None:
            raise self._error
        self._transport.write(request)
        async with asyncio.timeout(answer_s):
            await self._wait()
        end = self._head_len()
        if not end:
            raise ValueError("an answer whose head has no end")
        head = parse_head(bytes(self._head[:end]))
        if self._read - end > head.length:
            raise ValueError("an answer that is longer than it says")
        self._drop(end)
        return head

    async def fill(self, view: memoryview, progress_s: float) -> None:
        """Read as many bytes of the body as `view` has.

        Raises:
            TimeoutError, OSError: they did not come; `filled` says how many did.
        """
        self._at = min(self._read, len(view))
        view[: self._at] = self._head_view[: self._at]
        self._drop(self._at)
        if self._at == len(view):
            return
        if self._error is not None:
            raise self._error
        self._target = view
        self._wake_at(min(len(view) - self._at, _AT_ONCE))
        try:
            async with self._progress(progress_s):
                await self._wait()
        except BaseException:
            self._take_queued()
            raise
        finally:
            self._target = None
        self._wake_at(1)

    @property
    def filled(self) -> int:
        """How many bytes the last `fill` read."""
        return self._at

    def rest(self) -> None:
        """Note that the answer was read to its end: the peer may speak no more before asked."""
        self.used = True
        self._transport.resume_reading()  # so that its end is noticed

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()
        self._fail(ConnectionAbortedError("closed here"))

    # --- inside -------------------------------------------------------------------------------

    def _head_len(self) -> int:
        found = self._head.find(_HEAD_END, 0, self._read)
        return 0 if found < 0 else found + len(_HEAD_END)

    def _drop(self, size: int) -> None:
        """Forget the front of what was read with the head."""
        rest = self._read - size
        self._head[:rest] = self._head[size : self._read]
        self._read = rest

    def _wake_at(self, size: int) -> None:
        """Let the kernel wake this process when so many bytes are there, or the end is."""
        if size != self._wake_for:
            self._wake_for = size
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    async def _wait(self) -> None:
        """Wait for the bytes that are wanted now."""
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            await self._waiter
        finally:
            self._waiter = None

    @contextlib.asynccontextmanager
    async def _progress(self, seconds: float) -> AsyncIterator[None]:
        """Let the time be over when not one byte came for so many seconds."""
        async with asyncio.timeout(seconds) as limit:
            looks = _Looks(self, limit, seconds)
            try:
                yield
            finally:
                looks.end()

    def came(self) -> int:
        """Return how many bytes came over this connection, read here or not yet."""
        return self._came + self._queued()

    def _queued(self) -> int:
        """Return how many bytes the kernel has that are too few to wake this process for."""
        with contextlib.suppress(OSError, ValueError):
            answer = fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, bytes(4))
            return int(struct.unpack("i", answer)[0])
        return 0

    def _take_queued(self) -> None:
        """Read what is there of the body that did not come whole."""
        if self._target is not None and self._error is None:
            with contextlib.suppress(OSError):
                self._at += os.readv(self._socket.fileno(), [self._target[self._at :]])

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


class _Looks:
    """Moves a limit of time whenever bytes have come; few enough not to wake this process."""

    def __init__(self, line: Line, limit: asyncio.Timeout, seconds: float) -> None:
        self._line = line
        self._limit = limit
        self._seconds = seconds
        self._seen = line.came()
        self._timer = asyncio.get_running_loop().call_later(seconds / 2, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        came = self._line.came()
        if came > self._seen and not self._limit.expired():
            self._seen = came
            self._limit.reschedule(loop.time() + self._seconds)
        self._timer = loop.call_later(self._seconds / 2, self._look)

    def end(self) -> None:
        self._timer.cancel()


class Reply:
    """An answer whose body is still to be read."""

    def __init__(self, head: Head, line: Line, progress_s: float) -> None:
        """Read from a line; where no byte comes for `progress_s`, that is a TimeoutError."""
        self.status = head.status
        self.headers = head.headers
        self.length = head.length
        self.left = head.length  # bytes that were not read yet
        self.stays = head.stays
        self.line = line
        self._progress_s = progress_s

    async def fill(self, view: memoryview) -> None:
        """Read the next bytes of the body, as many as `view` has.

        Raises:
            TimeoutError, OSError: not all of them came; `filled` says how many did.
        """
        try:
            await self.line.fill(view, self._progress_s)
        finally:
            self.left -= self.line.filled

    @property
    def filled(self) -> int:
        """How many bytes the last `fill` read."""
        return self.line.filled

    async def body(self, most: int) -> bytes:
        """Return the whole body.

        Raises:
            ValueError: it has more than `most` bytes.
            TimeoutError, OSError: not all of it came.
        """
        if self.length > most:
            raise ValueError("the answer is too long")
        body = bytearray(self.length)
        await self.fill(memoryview(body))
        return bytes(body)


class Lines:
    """The connections of one node to its peers; a context manager that closes them."""

    def __init__(self, most_idle: int) -> None:
        """Begin with none; at most `most_idle` stay open to a peer between requests."""
        self._most_idle = most_idle
        self._idle: dict[str, list[Line]] = {}
        self._all: set[Line] = set()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        for line in list(self._all):
            line.abort()
        await asyncio.sleep(0)  # asyncio closes the sockets in its next round

    @contextlib.asynccontextmanager
    async def get(
        self, url: str, target: str, authorization: str, patience: Patience
    ) -> AsyncIterator[Reply]:
        """Ask the peer at `url` ("http://HOST:PORT"); yield its answer.

        Raises:
            TimeoutError, OSError: there is no answer.
            ValueError: the answer, or the URL, is none.
        """
        host, port = place_of(url)
        request = (
            f"GET {target} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
            f"Authorization: {authorization}\r\n\r\n"
        ).encode("ascii")
        line = next(self._waiting(url), None) or await self._connected(host, port, patience)
        reply = None
        try:
            try:
                head = await line.ask(request, patience.answer_s)
            except ConnectionError:
                if not line.used:
                    raise
                # The peer closed it while nobody asked. The request did not come in, or its nonce
                # is refused: then the peer says so.
                self._gone(line)
                line = await self._connected(host, port, patience)
                head = await line.ask(request, patience.answer_s)
            reply = Reply(head, line, patience.progress_s)
            yield reply
        finally:
            self._after(url, line, reply)

    def _waiting(self, url: str) -> Iterator[Line]:
        idle = self._idle.get(url, [])
        while idle:
            line = idle.pop()
            if line.is_open:
                yield line
            else:
                self._gone(line)

    async def _connected(self, host: str, port: int, patience: Patience) -> Line:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(patience.connect_s):
            _, line = await loop.create_connection(Line, host, port)
        self._all.add(line)
        return line

    def _after(self, url: str, line: Line, reply: Reply | None) -> None:
        """Keep a connection for the next request if the answer was read to its end."""
        idle = self._idle.setdefault(url, [])
        whole = reply is not None and not reply.left and reply.stays and line.is_open
        if whole and len(idle) < self._most_idle:
            line.rest()
            idle.append(line)
        else:
            self._gone(line)
            if not idle:
                del self._idle[url]

    def _gone(self, line: Line) -> None:
        self._all.discard(line)
        line.abort()


def place_of(url: str) -> tuple[str, int]:
    """Return host and port of a peer's URL.

    Raises:
        ValueError: it is not of the form http://HOST:PORT.
    """
    parts = urlsplit(url)
    plain = parts.scheme == "http" and parts.hostname and parts.port and url.isascii()
    odd = parts.path or parts.query or parts.fragment or parts.username is not None
    if not plain or odd or not url.isprintable() or " " in url:
        raise ValueError("a peer's URL is not of the form http://HOST:PORT")
    return str(parts.hostname), int(parts.port or 0)
