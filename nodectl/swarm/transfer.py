"""One request to one peer: signed, bounded, timed; and the check of what came.

Nothing here decides anything: answers become `Reply` values, failures become `Failure`s.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from nodectl.content.frame import FrameRef, check_frame_id
from nodectl.store.model import StoredFrame
from nodectl.swarm import wire
from nodectl.swarm.bitfield import from_bytes, to_ranges
from nodectl.swarm.limits import Limits
from nodectl.swarm.line import Lines, Patience, Reply
from nodectl.swarm.model import Failure, PeerInfo
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share
from nodectl.trust.mac import TIME_HEADER, Signed, sign_request

_log = logging.getLogger(__name__)

_CLOCK_DIGITS = 15
_PARTS_S = 1.0
_TIME, _SPAN = TIME_HEADER.lower(), wire.SPAN_HEADER.lower()
_LIMITED_PIECE = 32 * 1024  # bytes read at once under a rate limit


@dataclass(frozen=True, slots=True)
class SpanReply:
    """What came of a request for a span."""

    body: memoryview  # the frames behind each other; short where the connection broke
    failure: Failure | None = None
    retry_after: float = 0.0  # seconds
    alternatives: tuple[PeerInfo, ...] = ()
    have: int | None = None  # set of spans that the peer has, where all came


NOTHING = memoryview(b"")


class Buffers:
    """Buffers for spans, used again: fresh memory costs more (page faults) than the copy."""

    def __init__(self, size: int, count: int) -> None:
        """Begin with none; keep at most `count`, each of `size` bytes."""
        self._size = size
        self._count = count
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """Return a buffer that nobody else uses."""
        return self._free.pop() if self._free else memoryview(bytearray(self._size))

    def give(self, buffer: memoryview) -> None:
        """Give back what `take` returned, or the front of it, when nobody reads it any more."""
        owner = buffer.obj
        if isinstance(owner, bytearray) and len(self._free) < self._count:
            self._free.append(memoryview(owner))


def open_session(limits: Limits) -> Lines:
    """Return what holds the connections of a fetch; a context manager."""
    return Lines(limits.peer_requests_max + 2)


class Transfer:
    """Requests of one node in one swarm."""

    def __init__(
        self,
        share: Share,
        me: PeerInfo,
        session: Lines,
        limits: Limits,
        now_ms: Callable[[], int],
        rate: RateLimiter,
    ) -> None:
        """Prepare; `now_ms` is the time as the controller counts it, `rate` limits what comes."""
        self._share = share
        self._task = task = share.task
        self._me = me
        self._session = session
        self._limits = limits
        self._now_ms = now_ms
        self._rate = rate
        largest = max(share.sizes, default=0)
        self._tail = wire.tail_len(len(share.sizes))
        self.buffers = Buffers(largest + self._tail, limits.window_max_bytes // max(largest, 1))
        self._base = wire.swarm_path(task.root, task.phase)
        self._key_of: dict[str, bytes] = {}  # peer: the key that it accepted last
        self._skew_ms: dict[str, int] = {}  # peer: its clock minus ours

    @contextlib.asynccontextmanager
    async def _get(
        self, peer: PeerInfo, target: str, *, answer_s: float | None = None
    ) -> AsyncIterator[Reply]:
        """Ask; where the peer says that our clock is wrong, ask once more by its clock."""
        patience = Patience(
            connect_s=self._limits.connect_s,
            answer_s=answer_s or self._limits.progress_s,
            progress_s=self._limits.progress_s,
        )
        keys = list(self._task.keys.accepted())  # a peer may not know the present one yet
        keys.sort(key=lambda key: key != self._key_of.get(peer.name))
        again = True
        while True:
            unix_ms = self._now_ms() + self._skew_ms.get(peer.name, 0)
            mac = sign_request(
                Signed("GET", target), client=self._me.name, key=keys[0], unix_ms=unix_ms
            )
            async with self._session.get(peer.url, target, mac, patience) as reply:
                time_there = reply.headers.get(_TIME, "")
                if reply.status != 401 or not _is_time(time_there):  # noqa: PLR2004
                    self._key_of[peer.name] = keys[0]
                    yield reply
                    return
            if not again:
                keys.pop(0)
            if not keys:
                raise PermissionError("the peer knows none of our keys")
            self._skew_ms[peer.name] = int(time_there) - self._now_ms()
            again = False

    async def have(
        self, peer: PeerInfo, since: str, *, patient: bool = True
    ) -> wire.HaveReply | None:
        """Return what a peer has. None: it does not answer as it should.

        `patient`: it may answer when there is news after `since`, else it does at once.
        """
        wait_s = self._limits.have_wait_s if patient else 0.0
        target = wire.have_target(
            self._base, since=since, wait_ms=round(wait_s * 1000), speaker=self._speaker()
        )
        try:
            async with self._get(peer, target, answer_s=wait_s + self._limits.progress_s) as reply:
                if reply.status != 200:  # noqa: PLR2004
                    _log.debug("%s answers %d", peer.name, reply.status)
                    return None
                body = await reply.body(wire.BODY_MAX)
            return wire.HaveReply.from_bytes(body, spans=len(self._task.spans))
        except (OSError, ValueError) as exc:
            _log.debug("%s does not say what it has: %r", peer.name, exc)
            return None

    async def span(
        self, peer: PeerInfo, span: int, wanted: Sequence[int], size: int, *, urgent: bool
    ) -> SpanReply:
        """Fetch the frames `wanted` (indexes, ascending) of a span: exactly `size` bytes."""
        frames = "" if len(wanted) == self._share.counts[span] else to_ranges(wanted)
        target = wire.span_target(
            self._base, span, frames=frames, urgent=urgent, speaker=self._speaker()
        )
        return await self._exchange(peer, target, lambda _: size, self._limits.progress_s)

    async def any_span(
        self, peer: PeerInfo, wanted: int, on_chosen: Callable[[int], None]
    ) -> SpanReply:
        """Fetch one of the spans `wanted`, whole; `on_chosen` is told which when it begins."""
        if not wanted:  # of all that is lacking a part is here: that is asked for by name
            return SpanReply(NOTHING, Failure.MISSING, _PARTS_S)
        wait_s = self._limits.have_wait_s
        target = wire.any_target(
            self._base, wanted, wait_ms=round(wait_s * 1000), speaker=self._speaker()
        )

        def chosen(reply: Reply) -> int:
            span = int(reply.headers.get(_SPAN, "-1"))
            if span < 0 or not wanted >> span & 1:
                raise ValueError("a span that was not asked for")
            on_chosen(span)
            return self._share.sizes[span]

        return await self._exchange(peer, target, chosen, wait_s + self._limits.progress_s)

    def _speaker(self) -> str:
        """Return who asks, and what it has, as a part of the query."""
        share = self._share
        told = len(share.sizes) <= wire.TOLD_MAX
        return wire.Speaker(info=self._me, have=share.offered if told else None).query()

    async def _exchange(
        self,
        peer: PeerInfo,
        target: str,
        size_of: Callable[[Reply], int],
        answer_s: float,
    ) -> SpanReply:
        try:
            async with self._get(peer, target, answer_s=answer_s) as reply:
                if reply.status == 200:  # noqa: PLR2004
                    return await self._read_span(reply, size_of(reply))
                return await self._read_refusal(peer, reply)
        except TimeoutError:
            return SpanReply(NOTHING, Failure.TIMEOUT)
        except ValueError:
            return SpanReply(NOTHING, Failure.BAD)
        except OSError as exc:
            _log.debug("%s did not send a span: %r", peer.name, exc)
            return SpanReply(NOTHING, Failure.GONE)

    async def _read_span(self, reply: Reply, size: int) -> SpanReply:
        """Read `size` bytes and what the peer has; where it breaks off, return what came."""
        whole = size + self._tail
        if reply.length != whole:
            return SpanReply(NOTHING, Failure.BAD)
        buffer = self.buffers.take()[:whole]
        failure: Failure | None = None
        try:
            async with asyncio.timeout(self._limits.span_s):
                await self._fill(reply, buffer)
        except TimeoutError:
            failure = Failure.TIMEOUT
        except OSError:
            failure = Failure.GONE
        at = whole - reply.left
        if failure is not None:
            return SpanReply(buffer[: min(at, size)], failure)
        try:
            have = from_bytes(buffer[size:], len(self._share.sizes))
        except ValueError:
            return SpanReply(buffer[:size], Failure.BAD)
        return SpanReply(buffer[:size], have=have)

    async def _fill(self, reply: Reply, buffer: memoryview) -> None:
        """Read a body as fast as the limits allow; those of other swarms count, too."""
        own = self._task.conduct.download
        at = 0
        while at < len(buffer):
            limited = self._rate.limited or own.limited
            piece = buffer[at : at + _LIMITED_PIECE] if limited else buffer[at:]
            await reply.fill(piece)
            at += len(piece)
            await self._rate.take(len(piece))
            await own.take(len(piece))

    async def _read_refusal(self, peer: PeerInfo, reply: Reply) -> SpanReply:
        if reply.status == 404:  # noqa: PLR2004
            await reply.body(wire.BODY_MAX)
            return SpanReply(NOTHING, Failure.MISSING)
        if reply.status != 429:  # noqa: PLR2004
            _log.debug("%s answers %d", peer.name, reply.status)
            return SpanReply(NOTHING, Failure.GONE)
        try:
            refusal = wire.Refusal.from_bytes(await reply.body(wire.BODY_MAX))
        except ValueError:
            return SpanReply(NOTHING, Failure.BUSY)
        failure = Failure.REFUSED if refusal.elsewhere else Failure.BUSY
        return SpanReply(NOTHING, failure, refusal.retry_after_ms / 1000, refusal.peers)


@dataclass(frozen=True, slots=True)
class Good:
    """Frames of one span, checked and not yet stored."""

    span: int
    frames: list[StoredFrame]
    indexes: set[int]
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a span."""

    span: int
    indexes: Sequence[int]  # in the span, ascending
    refs: Sequence[FrameRef]  # the same frames


def cut_frames(body: memoryview, refs: Sequence[FrameRef], indexes: Sequence[int]) -> memoryview:
    """Return the frames `indexes` (ascending) of a span behind each other; `body` is all of it."""
    if len(indexes) == len(refs):
        return body
    ends = list(accumulate(ref.sealed_len for ref in refs))
    parts = [body[ends[i] - refs[i].sealed_len : ends[i]] for i in indexes]
    return memoryview(b"".join(parts))


def check_frames(
    body: memoryview, refs: Sequence[FrameRef]
) -> tuple[list[StoredFrame], list[int], bool]:
    """Cut a body into frames and check each; runs in a thread.

    Args:
        body: the frames `refs` behind each other; what is missing at the end is passed over.
        refs: what they should be.

    Returns:
        The good frames, their indexes in `refs`, and whether there was a bad one.
    """
    good: list[StoredFrame] = []
    indexes: list[int] = []
    bad = False
    at = 0
    for index, (chunk_id, frame_id, plain_len, sealed_len) in enumerate(refs):
        end = at + sealed_len
        if end > len(body):
            break
        sealed = bytes(body[at:end])
        if check_frame_id(sealed, frame_id):
            good.append(StoredFrame(frame_id, chunk_id, plain_len, sealed))
            indexes.append(index)
        else:
            bad = True
        at = end
    return good, indexes, bad


def _is_time(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _CLOCK_DIGITS
