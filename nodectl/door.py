"""The door of what listens: how many connections, from where, and how long one may stay silent.

aiohttp sets no limit to any of it: a stranger could hold every file descriptor with connections on
which nothing, or a byte a minute, is sent, or on which TLS never begins. Here

* each address has a bounded number of connections, counted when they are accepted and so before
  TLS (an IPv6 address counts as its /64, which one machine has for itself);
* one on which no whole request head came in time is closed;
* of those that nobody has proved to be a member's yet (`Strangers.prove`), only so many are open: a
  further one ends the oldest. A member proves it with its first request, a stranger never, so
  however many there are, members get in;
* one from which a request without credentials came is closed with the answer (auth.py, server.py).

This machine itself (loopback) is not counted by address.
"""

import asyncio
import ipaddress
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

_FILES_WANTED = 65_536
_HEAD_END = b"\r\n\r\n"
_V6_NETWORK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How many, and how long."""

    per_address: int = 512  # connections; 12 neighbours with 8 each, and machines behind one NAT
    strangers: int = 4096  # connections in all on which nobody proved to be a member
    head_s: float = 10.0  # until the first request's head is there
    handshake_s: float = 10.0  # of TLS
    local_too: bool = False  # count this machine's own connections by address as well


class Strangers:
    """The connections on which nobody has proved to be a member yet, the oldest first."""

    def __init__(self, most: int) -> None:
        """Begin with none; never more than `most`."""
        self._most = most
        self._aborts: dict[asyncio.BaseTransport, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._aborts)

    def came(self, transport: asyncio.BaseTransport, abort: Callable[[], None]) -> None:
        """Note a new connection; the oldest ends where there are too many."""
        self._aborts[transport] = abort
        if len(self._aborts) > self._most:
            oldest = next(iter(self._aborts))
            self._aborts.pop(oldest)()

    def prove(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a member asked over a connection, or that it is closed."""
        if transport is not None:
            self._aborts.pop(transport, None)


STRANGERS = web.AppKey("strangers", Strangers)


class Door(web.TCPSite):
    """A site whose connections are counted and timed."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        limits: DoorLimits,
        strangers: Strangers,
    ) -> None:
        """Prepare to listen; `start` does it."""
        super().__init__(runner, host, port, ssl_context=tls)
        self._tls = tls
        self._limits = limits
        self._strangers = strangers
        self._count = _Count(limits)
        self._others: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or none of this machine.
        """
        await web.BaseSite.start(self)
        make = self._runner.server
        if make is None:
            raise RuntimeError("the runner is not set up")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        servers: list[asyncio.Server] = []
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            listening = _Listening(family, self._count)
            try:
                listening.bind(address)
                server = await loop.create_server(
                    lambda: _Guarded(make(), self._limits, self._strangers),
                    sock=listening,
                    ssl=self._tls,
                    ssl_handshake_timeout=None if self._tls is None else self._limits.handshake_s,
                    backlog=self._backlog,
                )
            except BaseException:
                listening.close()
                for server in servers:
                    server.close()
                raise
            servers.append(server)
        self._server, *self._others = servers
        self._bound_port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more."""
        for server in self._others:
            server.close()
        await super().stop()


class _Count:
    """How many connections each address has."""

    def __init__(self, limits: DoorLimits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> str | None:
        """Count one more; return under what it is counted, None when it is one too many."""
        place = place_of(address)
        if not place or (not self._limits.local_too and place == "local"):
            return ""
        place = address if place == "local" else place
        if self._open[place] >= self._limits.per_address:
            return None
        self._open[place] += 1
        return place

    def leave(self, place: str) -> None:
        """Count one less."""
        if place:
            self._open[place] -= 1
            if not self._open[place]:
                del self._open[place]


def place_of(address: str) -> str:
    """Return what an address is counted under: itself, or its /64; "local" for loopback."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return place_of(str(parsed.ipv4_mapped))
        if not parsed.is_loopback:
            return str(ipaddress.ip_network((parsed, _V6_NETWORK), strict=False))
    return "local" if parsed.is_loopback else str(parsed)


class _Listening(socket.socket):
    """A socket that turns away whom the door does not let in, before a byte is read."""

    def __init__(self, family: int, count: _Count) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._count = count
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.settimeout(0)

    def accept(self) -> "tuple[socket.socket, object]":
        """Return the next connection that may come in.

        Raises:
            BlockingIOError: there is none (now).
            ConnectionAbortedError: one was turned away; there may be more.
        """
        accepted, address = super().accept()
        place = self._count.enter(str(address[0]))
        connection = _Counted(self._count, place or "", self.family, accepted.detach())
        if place is None:
            connection.close()
            raise ConnectionAbortedError("this address has too many connections")
        connection.settimeout(0)
        return connection, address


class _Counted(socket.socket):
    """A connection that counts until it is closed."""

    def __init__(self, count: _Count, place: str, family: int, fd: int) -> None:
        super().__init__(family, socket.SOCK_STREAM, 0, fd)
        self._leave: Callable[[], None] | None = lambda: count.leave(place)

    def close(self) -> None:
        """Close it; counted once."""
        super().close()
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


class _Guarded(asyncio.Protocol):
    """Stands between a connection and the protocol of aiohttp."""

    def __init__(self, inner: asyncio.Protocol, limits: DoorLimits, strangers: Strangers) -> None:
        self._inner = inner
        self._limits = limits
        self._strangers = strangers
        self._transport: asyncio.BaseTransport | None = None
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None
        # What aiohttp does with data, without a step between once the first head is there.
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)
        self._transport = transport
        abort: Callable[[], None] = transport.abort  # type: ignore[attr-defined]
        self._timer = asyncio.get_running_loop().call_later(self._limits.head_s, abort)
        self._strangers.came(transport, abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._strangers.prove(self._transport)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._timer is not None:
            if _HEAD_END in self._tail + data:
                self._stop_timer()
                self.data_received = self._inner.data_received  # type: ignore[method-assign]
            self._tail = (self._tail + data)[-len(_HEAD_END) + 1 :]
        self._inner.data_received(data)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def allow_many_files() -> int:
    """Raise the soft limit of open files, 1024 by default, as far as this user may; return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
