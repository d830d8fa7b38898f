"""Multicast sessions over UDP: the sender, which paces, and the receiver, which is a `Feed`.

Forms and decisions stand in `datagram.py` and `assembler.py`; here are the sockets. Both ends let
the kernel cut and join datagrams where it can (UDP_SEGMENT, UDP_GRO: udp(7), Linux 4.18 and 5.0):
one call then carries many.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from nodectl.background import background
from nodectl.errors import NodectlError
from nodectl.swarm.assembler import Assembler, Closed, whole_frames
from nodectl.swarm.bitfield import bits_of, full, spans_of
from nodectl.swarm.datagram import DATAGRAM, OVERHEAD, PIECE, Kind, Seal, Session
from nodectl.swarm.feed import Brought
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share

_log = logging.getLogger(__name__)

NAME = "(multicast)"  # no name of a node has brackets

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104  # linux/udp.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: beyond net.core.rmem_max, for root
_RECEIVE_BUFFER = 32 << 20  # bytes: half a second at 200 Mbit/s, as the kernel counts them
_SEGMENTS_MAX = 44  # datagrams of one call: 64 KiB
_BATCH_S = 0.002  # of the rate goes out at once: a switch has small buffers
_WAITING_EVERY_S = 0.5
_ENDS = 3  # any one of them may be lost
_READS = 8  # calls in one go; then others have their turn
_CMSG_SPACE = socket.CMSG_SPACE(4)
_UNREAD_MAX = 16 << 20  # bytes of spans that came and were not taken yet; more is let go
_BEGIN_S = 4.0  # without a first datagram: there is no sender
_SILENCE_S = 2.0  # without one in between: it is gone, or the network keeps them back
_LOOK_EVERY_S = 0.5
_JUDGE_BYTES = 32 << 20  # came so much, and so little of it whole: it is not worth its bandwidth
_WORTH = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """What a sender sent."""

    seconds: float
    sent_bytes: int  # of payload
    datagrams: int


def _socket(interface: str, ttl: int) -> socket.socket:
    """Return a socket whose multicast goes out at the interface that has this IPv4 address."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if interface:
            at = socket.inet_aton(interface)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, at)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    except OSError:
        made.close()
        raise
    return made


# --- the sender ------------------------------------------------------------------------------


class _Outlet:
    """Sends datagrams at a rate of payload bytes."""

    def __init__(self, session: Session, interface: str, upload: RateLimiter) -> None:
        self._to = (session.group, session.port)
        self._socket = _socket(interface, session.ttl)
        self._pace = RateLimiter(session.rate, time.monotonic)
        self._upload = upload
        self._segments = True
        self.batch = max(1, min(_SEGMENTS_MAX, int(session.rate * _BATCH_S) // PIECE))
        try:
            self._socket.setsockopt(_SOL_UDP, _UDP_SEGMENT, DATAGRAM)
        except OSError:
            self._segments = False
        self.datagrams = self.payload_bytes = 0

    def close(self) -> None:
        self._socket.close()

    async def put(self, datagrams: Sequence[bytes]) -> None:
        """Send datagrams, all but the last one full, when the rate allows it."""
        payload = sum(map(len, datagrams)) - OVERHEAD * len(datagrams)
        sent = len(datagrams)
        if self._segments:
            self._segments = await self._send(b"".join(datagrams))
        if not self._segments:
            sent = sum([await self._send(datagram) for datagram in datagrams])
        self.datagrams += sent
        self.payload_bytes += payload if sent else 0
        await self._pace.take(payload)
        await self._upload.take(payload)

    async def _send(self, data: bytes) -> bool:
        """Send; say whether the kernel took it. What is lost the receivers get from the swarm."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await loop.sock_sendto(self._socket, data, self._to)
        except OSError as exc:  # no route, a full queue, or no such offload on this interface
            _log.debug("multicast: %r", exc)
            return False
        return True


async def send(
    share: Share,
    session: Session,
    *,
    interface: str,
    upload: RateLimiter,
    ready: Awaitable[int],
) -> SendReport:
    """Send spans once, in order, when `ready` is done.

    Args:
        share: has every span.
        session: the group, the rate.
        interface: IPv4 address of this machine towards the receivers; "": the kernel's choice.
        upload: the limit of all that this node sends.
        ready: returns the set of spans that are wanted; until then the group hears that there
            is a sender.

    Raises:
        OSError: there is no multicast on this machine.
    """
    outlet = _Outlet(session, interface, upload)
    try:
        seal = Seal(share.task.keys.current, session.session)
        async with background(_say_waiting(outlet, seal)):
            wanted = await ready
        began = time.monotonic()
        await _send_spans(share, outlet, seal, wanted)
        for _ in range(_ENDS):
            await outlet.put([seal.make(Kind.END, sequence=outlet.datagrams)])
            await asyncio.sleep(_BATCH_S)
        return SendReport(
            seconds=time.monotonic() - began,
            sent_bytes=outlet.payload_bytes,
            datagrams=outlet.datagrams,
        )
    finally:
        outlet.close()


async def _say_waiting(outlet: _Outlet, seal: Seal) -> None:
    while True:
        await outlet.put([seal.make(Kind.WAITING, sequence=outlet.datagrams)])
        await asyncio.sleep(_WAITING_EVERY_S)


async def _send_spans(share: Share, outlet: _Outlet, seal: Seal, wanted: int) -> None:
    """Send span after span; the next one is read and sealed while one is sent."""
    queue: asyncio.Queue[list[bytes] | None] = asyncio.Queue(maxsize=1)
    conduct = share.task.conduct

    async def read() -> None:
        sequence = outlet.datagrams
        for span in spans_of(wanted & full(len(share.sizes))):
            pieces = await asyncio.to_thread(_sealed_span, share, seal, span, sequence)
            sequence += len(pieces)
            await queue.put(pieces)
        await queue.put(None)

    async with background(read()):
        while (pieces := await queue.get()) is not None:
            for first in range(0, len(pieces), outlet.batch):
                batch = pieces[first : first + outlet.batch]
                await conduct.running()
                await outlet.put(batch)
                await conduct.upload.take(sum(map(len, batch)))


def _sealed_span(share: Share, seal: Seal, span: int, sequence: int) -> list[bytes]:
    """Return the datagrams of a span; none where it cannot be read: the swarm says why."""
    refs = share.task.spans[span]
    try:
        body = b"".join(share.store.get_many([ref.frame_id for ref in refs]))
    except (NodectlError, OSError) as exc:
        _log.error("span %d is not sent by multicast: %s", span, exc)
        return []
    return list(seal.pieces(span, memoryview(body), sequence))


# --- the receiver ----------------------------------------------------------------------------


class MulticastFeed:
    """What comes from one session; made by `listening`."""

    name = NAME

    def __init__(self, share: Share, session: Session, clock: Callable[[], float]) -> None:
        """Begin with nothing heard."""
        self._share = share
        self._seal = Seal(share.task.keys.current, session.session)
        lacking = ~share.have & full(len(share.sizes))
        self._assembler = Assembler(share.sizes, lacking)
        self._clock = clock
        self._heard = clock()
        self._quiet_s = _BEGIN_S
        self._over = False
        self._unread: deque[Closed] = deque()
        self._unread_bytes = 0
        self._news = asyncio.Event()
        self._told = (-1, False)  # position and silence that the fetch knows of
        self._came_bytes = self._whole_bytes = 0
        self.leave: Callable[[], None] = lambda: None  # the group
        self.refused = 0  # datagrams that are none of this session
        self.let_go = 0  # spans that came while too much was unread

    @property
    def expected(self) -> int:
        """The set of spans that the sender will bring still; empty when it is not heard."""
        expected = 0
        if not (self._over or self._silent):
            expected = self._assembler.expected & ~self._share.have
        return expected | bits_of(closed.span for closed in self._unread)

    @property
    def _silent(self) -> bool:
        return self._clock() - self._heard > self._quiet_s

    async def more(self) -> Sequence[Brought] | None:
        """Return what came since the last call; waits for it, or for the sender to move on."""
        while not self._unread:
            if self._over:
                return None
            state = (self._assembler.position, self._silent)
            if state != self._told:
                self._told = state
                if self._silent:
                    self._take_closed(self._assembler.give_up())
                break
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._news.wait()
        return self._brought()

    def _brought(self) -> list[Brought]:
        """Return what is unread, with the frames that came whole."""
        brought = []
        while self._unread:
            closed = self._unread.popleft()
            self._unread_bytes -= len(closed.body)
            lengths = [ref.sealed_len for ref in self._share.task.spans[closed.span]]
            whole = whole_frames(closed.pieces, lengths)
            self._judge(len(closed.body), sum(lengths[index] for index in whole))
            brought.append(Brought(closed.span, memoryview(closed.body), whole))
        return brought

    def _judge(self, came: int, whole: int) -> None:
        """Leave the session when hardly a frame comes whole: the swarm needs the link."""
        self._came_bytes += came
        self._whole_bytes += whole
        if self._came_bytes >= _JUDGE_BYTES and self._whole_bytes < _WORTH * self._came_bytes:
            _log.warning("multicast: too many datagrams are lost; the swarm does the rest")
            self._over = True
            self.leave()

    def to_json(self) -> dict[str, int]:
        """Return what a receipt says beside the bytes."""
        return {
            "datagrams": self._assembler.came,
            "whole_bytes": self._whole_bytes,
            "part_bytes": self._came_bytes - self._whole_bytes,
            "refused_datagrams": self.refused,
            "let_go_spans": self.let_go,
        }

    # --- datagrams ----------------------------------------------------------------------------

    def take(self, data: memoryview) -> None:
        """Take one datagram, whoever sent it."""
        datagram = self._seal.open(data)
        if datagram is None:
            self.refused += 1
            return
        self._heard = self._clock()
        self._quiet_s = _SILENCE_S
        match datagram.kind:
            case Kind.PIECE:
                before = self._assembler.position
                self._take_closed(
                    self._assembler.take(datagram.span, datagram.offset, datagram.payload)
                )
                if self._assembler.position != before:
                    self._news.set()
            case Kind.END:
                self._take_closed(self._assembler.end())
                self._over = True
                self._news.set()
            case Kind.WAITING:
                pass

    def _take_closed(self, closed: Sequence[Closed]) -> None:
        for one in closed:
            if self._unread_bytes + len(one.body) > _UNREAD_MAX:
                self.let_go += 1
                continue
            self._unread.append(one)
            self._unread_bytes += len(one.body)
            self._news.set()

    def read(self, source: socket.socket) -> None:
        """Read what a socket has; called by the event loop."""
        for _ in range(_READS):
            try:
                data, ancillary, _, _ = source.recvmsg(65536, _CMSG_SPACE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                _log.debug("multicast: %r", exc)
                return
            size = _segment(ancillary) or len(data) or 1
            view = memoryview(data)
            for at in range(0, len(data), size):
                self.take(view[at : at + size])


def _segment(ancillary: Sequence[tuple[int, int, bytes]]) -> int:
    """Return the size of the datagrams that the kernel joined, 0 where it joined none."""
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return int(struct.unpack_from("=i", data)[0])
    return 0


@contextlib.asynccontextmanager
async def listening(
    share: Share,
    session: Session,
    *,
    interface: str,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[MulticastFeed]:
    """Be in the group of a session while the context lasts.

    Args:
        share: what is here, and what is lacking.
        session: the group and its key.
        interface: IPv4 address of this machine towards the sender; "": the kernel's choice.
        clock: counts seconds.

    Raises:
        OSError: there is no multicast on this machine.
    """
    feed = MulticastFeed(share, session, clock)
    loop = asyncio.get_running_loop()
    with _socket(interface, session.ttl) as source:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            source.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        with contextlib.suppress(OSError):
            source.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        source.bind((session.group, session.port))  # not what goes to other groups
        at = socket.inet_aton(interface or "0.0.0.0")  # noqa: S104 - any interface, to the kernel
        membership = socket.inet_aton(session.group) + at
        source.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        feed.leave = lambda: source.setsockopt(
            socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, membership
        )
        loop.add_reader(source, feed.read, source)
        try:
            yield feed
        finally:
            loop.remove_reader(source)
