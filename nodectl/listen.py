"""Addresses to listen on and to be found at: their text form, and listening itself."""

import contextlib
import errno
import fcntl
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from aiohttp import web

from nodectl.door import Desk, Door, DoorLimits, Guards, Strangers, allow_many_files
from nodectl.errors import InvalidInput, PortInUse
from nodectl.weblog import WebLog

CONTROL_PORT = 7443
PEER_PORT = 7444
BOOT_PORT = 7445
_PORT_MAX = 65535
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - named here in order to be recognised
_SIOCGIFADDR = 0x8915  # linux/sockios.h

log = logging.getLogger(__name__)

_SHUTDOWN_S = 2.0  # for requests under way


class Address(NamedTuple):
    """A host (a name or an IP address) and a port."""

    host: str
    port: int

    def text(self) -> str:
        """Return "HOST:PORT", an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def url(self, scheme: str) -> str:
        """Return "SCHEME://HOST:PORT"."""
        return f"{scheme}://{self.text()}"


def parse_address(text: str, *, default_port: int) -> Address:
    """Return the address that "HOST:PORT", "HOST", ":PORT" or "[IPV6]:PORT" stands for.

    Raises:
        InvalidInput: it is none of these.
    """
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port if parts.port is not None else default_port
    except ValueError as exc:
        raise InvalidInput(f"not an address to listen on: {text!r} ({exc})") from exc
    if parts.path or parts.query or parts.fragment or parts.username or not 0 <= port <= _PORT_MAX:
        raise InvalidInput(f"not an address to listen on: {text!r}", hint="example: 0.0.0.0:7443")
    return Address(parts.hostname or _ANY[0], port)


def parse_url(text: str, *, scheme: str, default_port: int) -> str:
    """Return the URL "SCHEME://HOST:PORT" that such a URL, or "HOST[:PORT]", stands for.

    Raises:
        InvalidInput: another scheme, a path, or no host.
    """
    given, separator, rest = text.partition("://")
    if separator and given != scheme:
        raise InvalidInput(f"{text!r} does not begin with {scheme}://")
    place = (rest if separator else text).rstrip("/")
    address = parse_address(place, default_port=default_port)
    if address.host in _ANY:
        raise InvalidInput(f"{text!r} names no host")
    return address.url(scheme)


def own_address(listen: Address, *, towards: str = "") -> str:
    """Return the host under which others reach what listens at `listen`.

    Where it listens everywhere, that is the address this machine would use towards a host (nothing
    is sent). Without a route - a cluster's network often has no default one - it is the address of
    the first interface that has one, and without any the loopback address.
    """
    if listen.host not in _ANY:
        return listen.host
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # 192.0.2.1 is for documentation (RFC 5737): only the routing table is asked.
            probe.connect((towards or "192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return next(_interface_addresses(), "127.0.0.1")


def _interface_addresses() -> Iterator[str]:
    """Yield the IPv4 address of each interface that has one, loopback apart."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            if name == "lo":
                continue
            # struct ifreq: char ifr_name[16], then a sockaddr_in with the address at offset 4.
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                yield socket.inet_ntoa(answer[20:24])


@contextlib.asynccontextmanager
async def listening(
    app: web.Application,
    listen: Address,
    *,
    tls: ssl.SSLContext | None = None,
    what: str,
    limits: DoorLimits | None = None,
    desk: Desk | None = None,
) -> AsyncIterator[Address]:
    """Serve an application while the context lasts; yields the address with its real port.

    Args:
        app: the application.
        listen: where; port 0 takes a free one.
        tls: HTTPS with this context, else HTTP.
        what: named in the error, such as "the controller".
        limits: for connections.
        desk: answers the usual requests of members before the application sees them.

    Raises:
        PortInUse: the address is taken.
        InvalidInput: it is no address of this machine, or needs more rights.
    """
    limits = limits or DoorLimits()
    # Of the files that may be open at most a quarter is for strangers.
    strangers = Strangers(min(limits.strangers, allow_many_files() // 4))
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=_SHUTDOWN_S,
        keepalive_timeout=limits.idle_s,
        auto_decompress=False,  # nobody here sends packed requests: no bomb can be one
        logger=WebLog(log, what),
    )
    await runner.setup()
    try:
        guards = Guards(limits, strangers, desk)
        site = Door(runner, listen.host, listen.port, tls=tls, guards=guards)
        try:
            await site.start()
        except OSError as exc:
            raise _listen_error(exc, listen, what) from exc
        yield Address(listen.host, runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _listen_error(exc: OSError, listen: Address, what: str) -> PortInUse | InvalidInput:
    if exc.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{what} cannot listen on {listen.text()}: port {listen.port} is in use",
            hint=f"end the other program (ss -ltnp 'sport = {listen.port}' names it) "
            "or choose another port",
        )
    return InvalidInput(f"{what} cannot listen on {listen.text()}: {exc.strerror or exc}")
