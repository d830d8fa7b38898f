"""The receiver of a multicast session: a `Feed` for the fetch of a swarm.

Which datagrams belong together is decided in `assembler.py`; here are the socket and the clock.
"""

import asyncio
import contextlib
import logging
import socket
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from nodectl.multicast.assembler import Assembler, Closed, whole_frames
from nodectl.multicast.datagram import Kind, Seal, Session
from nodectl.multicast.sockets import SOL_UDP, UDP_GRO, multicast_socket
from nodectl.swarm.bitfield import bits_of, full
from nodectl.swarm.feed import Brought
from nodectl.swarm.share import Share

_log = logging.getLogger(__name__)

NAME = "(multicast)"  # no name of a node has brackets

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: beyond net.core.rmem_max, for root
_RECEIVE_BUFFER = 32 << 20  # bytes: half a second at 200 Mbit/s, as the kernel counts them
_READS = 8  # calls in one go; then others have their turn
_CMSG_SPACE = socket.CMSG_SPACE(4)
_UNREAD_MAX = 16 << 20  # bytes of spans that came and were not taken yet; more is let go
_BEGIN_S = 4.0  # without a first datagram: there is no sender
_SILENCE_S = 2.0  # without one in between: it is gone, or the network keeps them back
_LOOK_EVERY_S = 0.5
_JUDGE_BYTES = 32 << 20  # came so much, and so little of it whole: it is not worth its bandwidth
_WORTH = 0.25


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
        if level == SOL_UDP and kind == UDP_GRO:
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
    with multicast_socket(interface, session.ttl) as source:
        source.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            source.setsockopt(SOL_UDP, UDP_GRO, 1)
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
