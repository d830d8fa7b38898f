"""The sender of a multicast session: span after span, once, at a rate.

The form of a datagram stands in `datagram.py`; who sends what to whom, and when it begins, is the
controller's and the job's to say.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from nodectl.background import background
from nodectl.errors import NodectlError
from nodectl.multicast.datagram import DATAGRAM, OVERHEAD, PIECE, Kind, Seal, Session
from nodectl.multicast.sockets import SOL_UDP, UDP_SEGMENT, multicast_socket
from nodectl.swarm.bitfield import full, spans_of
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share

_log = logging.getLogger(__name__)

_SEGMENTS_MAX = 44  # datagrams of one call: 64 KiB
_BATCH_S = 0.002  # of the rate goes out at once: a switch has small buffers
_WAITING_EVERY_S = 0.5
_ENDS = 3  # any one of them may be lost
_PATIENCE_S = 0.5  # for the kernel to take one call


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """What a sender sent."""

    seconds: float
    sent_bytes: int  # of payload
    datagrams: int


class _Outlet:
    """Sends datagrams at a rate of payload bytes."""

    def __init__(self, session: Session, interface: str, upload: RateLimiter) -> None:
        self._to = (session.group, session.port)
        self._socket = multicast_socket(interface, session.ttl)
        self._pace = RateLimiter(session.rate, time.monotonic)
        self._upload = upload
        self._segments = True
        self.batch = max(1, min(_SEGMENTS_MAX, int(session.rate * _BATCH_S) // PIECE))
        try:
            self._socket.setsockopt(SOL_UDP, UDP_SEGMENT, DATAGRAM)
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
            async with asyncio.timeout(_PATIENCE_S):
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
