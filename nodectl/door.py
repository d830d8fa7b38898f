"""The door of what listens: how many connections, from where, and how long one may stay silent.

aiohttp sets no limit to any of it: a stranger could hold every file descriptor with connections on
which nothing, or a byte a minute, is sent, or on which TLS never begins. Here

* each address has a bounded number of connections, counted when they are accepted and so before
  TLS (an IPv6 address counts as its /64, which one machine has for itself);
* one on which no whole request head came in time is closed;
* of those that nobody has proved to be a member's yet (`prove`), only so many are open, from
  wherever they come, TLS begun or not: a further one ends the oldest, and first one from a place
  where no member was seen. A member proves it with its first request, a stranger never, so however
  many there are, members get in, and three quarters of the files are theirs (listen.py);
* one from which a request without credentials came is closed with the answer (auth.py, server.py).

This machine itself (loopback) is not counted by address.
"""

import asyncio
import contextlib
import ipaddress
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web

_FILES_WANTED = 65_536
_HEAD_END = b"\r\n\r\n"
_V6_NETWORK = 64
_READ_BYTES = 65_536  # read from a connection at once
_UNREAD_MAX = 65_536  # bytes of answers that wait for one who does not read them
_PLACES_MAX = 65_536  # where members were seen: remembered at most, about 10 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How many, and how long."""

    per_address: int = 512  # connections; 12 neighbours with 8 each, and machines behind one NAT
    strangers: int = 4096  # connections in all on which nobody proved to be a member
    head_s: float = 10.0  # until the first request's head is there
    handshake_s: float = 10.0  # of TLS
    idle_s: float = 90.0  # a connection without a request
    local_too: bool = False  # count this machine's own connections by address as well


class Strangers:
    """The connections on which nobody has proved to be a member yet, the oldest first.

    They count from the moment they are accepted. Where there are too many, those go first that
    come from places where no member was seen: members that come again, or one more time, are
    behind them.
    """

    def __init__(self, most: int) -> None:
        """Begin with none; never more than `most`."""
        self._most = most
        self._unknown: dict[Counted, None] = {}
        self._of_members: dict[Counted, None] = {}  # from where members were seen
        self._places: dict[str, None] = {}  # where members were seen, the last one at the end
        self._by_fd: dict[int, Counted] = {}

    def __len__(self) -> int:
        return len(self._by_fd)

    def __iter__(self) -> "Iterator[Counted]":
        yield from self._by_fd.values()

    def came(self, connection: "Counted") -> None:
        """Note a new connection; the oldest ends where there are too many."""
        known = connection.place in self._places
        (self._of_members if known else self._unknown)[connection] = None
        self._by_fd[connection.fileno()] = connection
        if len(self._by_fd) > self._most:
            oldest = next(iter(self._unknown or self._of_members))
            self.left(oldest)
            oldest.turn_out()

    def left(self, connection: "Counted") -> None:
        """Note that a connection is closed, or one of a member's."""
        fd = connection.fileno()
        if self._by_fd.get(fd) is connection:
            del self._by_fd[fd]
            self._unknown.pop(connection, None)
            self._of_members.pop(connection, None)

    def prove(self, fd: int) -> None:
        """Note that a member asked over the connection with this file descriptor."""
        connection = self._by_fd.get(fd)
        if connection is None:
            return
        self.left(connection)
        self._places.pop(connection.place, None)
        self._places[connection.place] = None
        if len(self._places) > _PLACES_MAX:
            del self._places[next(iter(self._places))]


def prove(transport: asyncio.BaseTransport | None) -> None:
    """Note that a member asked over a connection: it is no stranger's any more."""
    if isinstance(transport, asyncio.Transport):
        guarded = transport.get_protocol()
        if isinstance(guarded, Guarded):
            guarded.prove()


class Door(web.TCPSite):
    """A site whose connections are counted and timed."""

    def __init__(
        self,
        runner: web.AppRunner,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        guards: "Guards",
    ) -> None:
        """Prepare to listen; `start` does it."""
        super().__init__(runner, host, port, ssl_context=tls)
        self._tls = tls
        self._guards = guards
        self._limits = guards.limits
        self._count = Count(self._limits)
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
            listening = _Listening(family, self._count, self._guards.strangers)
            try:
                listening.bind(address)
                server = await loop.create_server(
                    lambda: Guarded(make, self._guards),
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
        self._guards.close()
        await super().stop()


class Count:
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

    def __init__(self, family: int, count: Count, strangers: Strangers) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._count = count
        self._strangers = strangers
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
        if place is None:
            accepted.close()
            raise ConnectionAbortedError("this address has too many connections")
        connection = Counted(accepted, place, self._count, self._strangers)
        connection.settimeout(0)
        self._strangers.came(connection)
        return connection, address


class Counted(socket.socket):
    """A connection that counts until it is closed."""

    def __init__(
        self, accepted: socket.socket, place: str, count: Count, strangers: Strangers
    ) -> None:
        super().__init__(accepted.family, socket.SOCK_STREAM, 0, accepted.detach())
        self.place = place
        self._count = count
        self._strangers = strangers
        self._counts = True

    def turn_out(self) -> None:
        """End it from this side; who owns it sees its end and closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it; counted once."""
        if self._counts:
            self._counts = False
            self._strangers.left(self)
            self._count.leave(self.place)
        super().close()


class Desk(Protocol):
    """Answers requests of one usual form straight away, past aiohttp."""

    def take(self, data: bytes, connection: "Guarded") -> bool:
        """Take what was read if it is one whole request of that form: answer it, or `hold` it."""
        ...

    def close(self) -> None:
        """Answer what is held: the server ends."""
        ...


class Guards:
    """What the guards of all connections of a door share.

    They read into one buffer, since what was read is passed on at once: with a plain protocol
    asyncio allocates 256 KiB for each read, and under TLS twice.
    """

    def __init__(self, limits: DoorLimits, strangers: Strangers, desk: Desk | None = None) -> None:
        """Guard by these limits; `desk`: sees what members send before aiohttp does."""
        self.limits = limits
        self.strangers = strangers
        self.desk = desk
        self.at_desk: set[Guarded] = set()
        self.buffer = memoryview(bytearray(_READ_BYTES))

    def close(self) -> None:
        """End the connections that aiohttp has not."""
        if self.desk is not None:
            self.desk.close()
        for guarded in self.at_desk:
            guarded.transport.close()


class Guarded(asyncio.BufferedProtocol):
    """Stands between a connection and the protocol of aiohttp.

    Where there is a desk, it has a connection until something comes that it does not take; from
    then on aiohttp has it, so that never both of them wait for the rest of something.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], guards: Guards) -> None:
        """Guard what is between a connection and what `make` makes."""
        self.transport: asyncio.Transport
        self._make = make
        self._inner: asyncio.Protocol | None = None
        self._guards = guards
        self._release: Callable[[], None] | None = None  # called when a held request is given up
        self._fd = -1
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None  # ends a connection without a request
        self._active_at = 0.0  # loop time of the last request or late answer at the desk
        self._looking = False  # whether the timer is the one for idle connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = transport  # type: ignore[assignment]
        self._fd = transport.get_extra_info("socket").fileno()
        if self._guards.desk is None:
            self._hand_over()
        else:
            self._guards.at_desk.add(self)
            self._await_head()

    def _hand_over(self) -> asyncio.Protocol:
        """Give the connection to aiohttp."""
        self._guards.at_desk.discard(self)
        self._inner = inner = self._make()
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        inner.connection_made(self.transport)
        self._await_head()
        return inner

    def _await_head(self) -> None:
        self._stop_timer()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._guards.limits.head_s, self.transport.abort)

    def prove(self) -> None:
        """Note that a member asked."""
        if self._fd >= 0:
            self._guards.strangers.prove(self._fd)
            self._fd = -1

    def hold(self, release: Callable[[], None] | None) -> None:
        """Note that the desk answers later (`release`: nobody waits any more), or has now."""
        self._release = release
        self._active_at = asyncio.get_running_loop().time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget all about it."""
        self._stop_timer()
        self._fd = -1
        if self._release is not None:
            self._release()
        self._guards.at_desk.discard(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        del sizehint
        return self._guards.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read."""
        data = bytes(self._guards.buffer[:nbytes])
        inner, desk = self._inner, self._guards.desk
        if inner is None:
            if self._release is not None or self.transport.get_write_buffer_size() > _UNREAD_MAX:
                self.transport.abort()  # it asks without waiting for, or reading, answers
                return
            if desk is not None and desk.take(data, self):
                self._taken()
                return
            inner = self._hand_over()
        if self._timer is not None:
            if _HEAD_END in self._tail + data:
                self._stop_timer()
            self._tail = (self._tail + data)[-len(_HEAD_END) + 1 :]
        inner.data_received(data)

    def _taken(self) -> None:
        """Let the connection stay while requests come; one timer, which looks when it ends."""
        self._active_at = asyncio.get_running_loop().time()
        if not self._looking:
            self._looking = True
            self._stop_timer()
            self._look_after(self._guards.limits.idle_s)

    def _look_after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._end_when_idle)

    def _end_when_idle(self) -> None:
        limit = self._guards.limits.idle_s
        left = self._active_at + limit - asyncio.get_running_loop().time()
        if self._release is not None:
            self._look_after(limit)
        elif left > 0:
            self._look_after(left)
        else:
            self.transport.abort()

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
