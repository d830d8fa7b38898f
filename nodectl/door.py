"""The door of what listens: how many connections, from where, and how long one may stay silent.

aiohttp sets no limit to either: a stranger could hold every file descriptor with connections on
which nothing, or a byte a minute, is sent. Here each address has a bounded number of connections,
and one on which no whole request head came in time is closed. Who has no credentials gets no
further than that. This machine itself (loopback) is bound by the time only.
"""

import asyncio
import ipaddress
import resource
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

_FILES_WANTED = 65_536
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorLimits:
    """How many, and how long."""

    per_address: int = 512  # connections; 12 neighbours with 8 each, and machines behind one NAT
    head_s: float = 10.0  # until the first request's head is there
    handshake_s: float = 10.0  # of TLS
    local_too: bool = False  # count this machine's own connections as well


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
    ) -> None:
        """Prepare to listen; `start` does it."""
        super().__init__(runner, host, port, ssl_context=tls)
        self._tls = tls
        self._limits = limits
        self._open: Counter[str] = Counter()

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: the address is taken, or none of this machine.
        """
        await web.BaseSite.start(self)
        make = self._runner.server
        if make is None:
            raise RuntimeError("the runner is not set up")
        _allow_many_files()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Guarded(make(), self._limits, self._open),
            self._host,
            self._port,
            ssl=self._tls,
            ssl_handshake_timeout=None if self._tls is None else self._limits.handshake_s,
            backlog=self._backlog,
        )
        self._bound_port = self._server.sockets[0].getsockname()[1]


class _Guarded(asyncio.Protocol):
    """Stands between a connection and the protocol of aiohttp."""

    def __init__(self, inner: asyncio.Protocol, limits: DoorLimits, open_: Counter[str]) -> None:
        self._inner = inner
        self._limits = limits
        self._open = open_
        self._address = ""  # counted under this one, when it is
        self._tail = b""
        self._timer: asyncio.TimerHandle | None = None
        # What aiohttp does with data, without a step between once the first head is there.
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inner.connection_made(transport)
        address = (transport.get_extra_info("peername") or ("",))[0]
        abort: Callable[[], None] = transport.abort  # type: ignore[attr-defined]
        if self._limits.local_too or not _is_local(address):
            self._address = address
            self._open[address] += 1
            if self._open[address] > self._limits.per_address:
                abort()
                return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._limits.head_s, abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._address:
            self._open[self._address] -= 1
            if not self._open[self._address]:
                del self._open[self._address]
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


def _is_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _allow_many_files() -> None:
    """Raise the soft limit of open files, 1024 by default, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, _FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
