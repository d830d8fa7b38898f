"""The side that serves: what is here, and spans of it, over aiohttp.

`SwarmServer.mount` adds its routes to any application. Decisions stand in `admission.py`, the
bytes of requests and answers in `wire.py`, what is here in `share.py`. Frames are sealed, so plain
HTTP is enough; each request carries a MAC keyed with the swarm key, and without it gets 401 and
nothing else. Frames that lay in the store when this process began are checked when they are read
for the first time: a damaged one is not spread, and does not cost this node its good name.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aiohttp import web

from nodectl.content.frame import FrameRef
from nodectl.door import prove
from nodectl.errors import MacRefused, NodectlError
from nodectl.ids import Root, id_from_hex
from nodectl.store.model import Store
from nodectl.swarm import wire
from nodectl.swarm.admission import Admission, Verdict
from nodectl.swarm.bitfield import from_base64, from_ranges, random_span, to_bytes
from nodectl.swarm.door import Door
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.outlet import send_all, send_slowly
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share, SwarmTask, read_frames
from nodectl.swarm.statistics import ServerStatistics
from nodectl.trust.mac import TIME_HEADER, Signed

_log = logging.getLogger(__name__)

Frames = Sequence[bytes]

_THREADS = 2
_PAUSED_MS = 1000  # while the swarm is paused here
_RETRY_MS = 50  # what a peer without a free slot suggests


@dataclass(slots=True, eq=False)
class _Served:
    """One swarm that is served."""

    share: Share
    admission: Admission
    door: Door
    turns: dict[tuple[str, int], asyncio.Future[None]] = field(default_factory=dict)
    told_at: dict[str, float] = field(default_factory=dict)  # client: last answer to "have"
    told_peers: dict[str, int] = field(default_factory=dict)  # client: how many it was told
    giving: dict[str, int] = field(default_factory=dict)  # client: set of spans on their way to it
    polls: int = 0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a client gets."""

    client: str
    number: int  # of the span
    refs: Sequence[FrameRef]  # all of its frames, or some
    urgent: bool


class SwarmServer:
    """Serves the swarms that are added to it; belongs to one event loop."""

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        upload: RateLimiter | None = None,
    ) -> None:
        """Begin with no swarm.

        Args:
            limits: the numbers.
            now_ms: unix milliseconds as the controller counts them, for the MACs.
            clock: seconds, for waits.
            upload: the limit of all that is sent; None: one by `limits.upload_rate`.
        """
        self._limits = limits or Limits()
        self._now_ms = now_ms
        self._clock = clock
        self._served: dict[tuple[Root, Phase], _Served] = {}
        self._rng = random.SystemRandom()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="swarm-serve")
        self._rate = upload or RateLimiter(self._limits.upload_rate, clock)
        self._count: Counter[str] = Counter()
        self._bytes_to: Counter[str] = Counter()

    def mount(self, app: web.Application) -> None:
        """Add the routes of the data plane to `app`, and the end of this server to its end."""
        base = wire.PREFIX + "/{root}/{phase}"
        app.router.add_get(base + "/have", self._on_have, allow_head=False)
        app.router.add_get(base + "/any", self._on_any, allow_head=False)
        app.router.add_get(base + r"/spans/{span:\d{1,9}}", self._on_span, allow_head=False)

        async def stop(_: web.Application) -> None:  # noqa: RUF029 - aiohttp wants a coroutine
            for served in self._served.values():
                served.share.close()

        async def close(_: web.Application) -> None:  # noqa: RUF029 - aiohttp wants a coroutine
            self._threads.shutdown(wait=False, cancel_futures=True)

        app.on_shutdown.append(stop)
        app.on_cleanup.append(close)

    async def add_swarm(self, task: SwarmTask, store: Store) -> Share:
        """Serve what `store` holds of a swarm from now on; return its state, for `fetch`.

        A swarm that is served already is returned as it is.
        """
        known = self._served.get((task.root, task.phase))
        if known is not None:
            return known.share
        loop = asyncio.get_running_loop()
        share = await loop.run_in_executor(
            self._threads, lambda: Share.open(task, store, limits=self._limits)
        )
        admission = Admission(limits=self._limits, origin=share.origin)
        served = _Served(share, admission, Door(task.keys, self._now_ms))
        return self._served.setdefault((task.root, task.phase), served).share

    def drop_swarm(self, root: Root, phase: Phase) -> None:
        """Serve a swarm no more; requests under way are answered, the next ones get 404."""
        served = self._served.pop((root, phase), None)
        if served is not None:
            served.share.close()

    def statistics(self) -> ServerStatistics:
        """Return what was done so far."""
        count = self._count
        return ServerStatistics(
            swarms=len(self._served),
            spans_sent=count["spans"],
            bytes_sent=count["bytes"],
            busy=count["busy"],
            refused=count["refused"],
            unauthorised=count["unauthorised"],
            damaged=count["damaged"],
            bytes_to=dict(self._bytes_to),
        )

    # --- requests -----------------------------------------------------------------------------

    def _authorise(self, request: web.Request) -> tuple[_Served, str]:
        """Return the swarm and the client of a request, or answer 404 or 401 without content."""
        try:
            key = (
                Root(id_from_hex(request.match_info["root"])),
                Phase(request.match_info["phase"]),
            )
            served = self._served[key]
        except (ValueError, KeyError):
            raise web.HTTPNotFound(text="") from None
        try:
            # GET has no body; one that is sent nevertheless is never read.
            signed = Signed(request.method, request.raw_path)
            client = served.door.client(request.headers.get("Authorization"), signed)
        except MacRefused as exc:
            self._count["unauthorised"] += 1
            _log.info("refused %s: %s", request.remote, exc)
            headers = {TIME_HEADER: str(self._now_ms())}
            refusal = web.HTTPUnauthorized(text="", headers=headers)
            refusal.force_close()
            raise refusal from None
        prove(request.transport)
        served.admission.saw(client, self._clock())
        return served, client

    async def _on_have(self, request: web.Request) -> web.Response:
        """Answer what is here; waits for news, and for the gap between two answers."""
        served, client = self._authorise(request)
        share, limits = served.share, self._limits
        wait_s = self._listen(served, client, request)
        since = request.query.get("since", "")
        if since == share.since and served.polls >= limits.have_polls_max:
            raise web.HTTPTooManyRequests(text="", headers={"Retry-After": "1"})
        served.polls += 1
        try:
            await share.wait_news(since, wait_s)
            gap = served.told_at.get(client, -limits.have_gap_s) + limits.have_gap_s
            if since and gap > self._clock():
                await asyncio.sleep(gap - self._clock())
        finally:
            served.polls -= 1
        served.told_at[client] = self._clock()
        whole, have = share.news_since(since)
        reply = wire.HaveReply(
            since=share.since,
            whole=whole,
            origin=served.admission.origin and share.origin,
            have=have,
            peers=self._introduce(served, client, whole=whole),
        )
        return web.Response(body=reply.to_bytes(), content_type="application/json")

    def _listen(self, served: _Served, client: str, request: web.Request) -> float:
        """Take note of who asks and what it has; return how long it waits, in seconds."""
        share = served.share
        try:
            speaker = wire.Speaker.from_query(client, request.query, spans=len(share.sizes))
            wait_s = int(request.query.get("wait_ms", "0")) / 1000
        except ValueError as exc:
            raise web.HTTPBadRequest(text=str(exc)) from None
        if speaker is not None:
            share.meet(speaker.info, speaker.have)
        return min(wait_s, self._limits.have_wait_s)

    def _introduce(self, served: _Served, client: str, *, whole: bool) -> tuple[PeerInfo, ...]:
        """Return peers that `client` was not told of yet, the ones heard last first."""
        known = served.share.peers
        if not whole and served.told_peers.get(client) == len(known):
            return ()
        served.told_peers[client] = len(known)
        others = [peer for peer in reversed(known) if peer.name != client]
        return tuple(others[: self._limits.peers_told])

    async def _on_span(self, request: web.Request) -> web.StreamResponse:
        """Send the frames of a span, when there is a slot."""
        served, client = self._authorise(request)
        share = served.share
        self._listen(served, client, request)
        try:
            number = int(request.match_info["span"])
            refs = share.task.spans[number]
            frames = request.query.get("frames")
            if frames is not None:
                refs = [refs[i] for i in from_ranges(frames, len(refs))]
        except (ValueError, IndexError):
            raise web.HTTPBadRequest(text="no such span") from None
        if not share.offered >> number & 1:
            raise web.HTTPNotFound(text="span not here")
        wanted = _Wanted(client, number, refs, urgent="urgent" in request.query)
        return await self._give(request, served, wanted)

    async def _on_any(self, request: web.Request) -> web.StreamResponse:
        """Send one of the spans that a client lacks, as soon as there is one."""
        served, client = self._authorise(request)
        share = served.share
        wait_s = self._listen(served, client, request)
        try:
            wanted = from_base64(request.query.get("wanted", ""), len(share.sizes))
        except ValueError as exc:
            raise web.HTTPBadRequest(text=str(exc)) from None
        if served.polls >= self._limits.have_polls_max:
            return _refuse(self._busy())
        served.polls += 1
        try:
            found = await share.wait_offer(wanted, wait_s)
        finally:
            served.polls -= 1
        found &= served.admission.fresh(~served.giving.get(client, 0))
        if not found:
            raise web.HTTPNotFound(text="nothing of that here")
        number = random_span(found, self._rng)
        chosen = _Wanted(client, number, share.task.spans[number], urgent=True)
        return await self._give(request, served, chosen)

    async def _give(
        self, request: web.Request, served: _Served, wanted: _Wanted
    ) -> web.StreamResponse:
        """Wait for a slot and send; the span given to a client is not chosen for it once more."""
        client, bit = wanted.client, 1 << wanted.number
        served.giving[client] = served.giving.get(client, 0) | bit
        try:
            refusal = await self._wait_turn(served, client, wanted.number, urgent=wanted.urgent)
            if refusal is not None:
                return _refuse(refusal)
            return await self._give_now(request, served, wanted)
        finally:
            served.giving[client] &= ~bit
            if not served.giving[client]:
                del served.giving[client]

    async def _give_now(
        self, request: web.Request, served: _Served, wanted: _Wanted
    ) -> web.StreamResponse:
        share, sent = served.share, 0
        try:
            if request.transport is None:
                return web.Response(status=400)  # it went away while it waited; nobody reads this
            frames = await self._read(share, wanted.number, wanted.refs)
            response = web.StreamResponse(
                headers={
                    "Content-Type": "application/octet-stream",
                    wire.SPAN_HEADER: str(wanted.number),
                }
            )
            size = sum(len(frame) for frame in frames)
            response.content_length = size + wire.tail_len(len(share.sizes))
            if await self._send(request, response, frames, share):
                sent = size
        finally:
            self._next_turn(served, wanted.client, wanted.number, sent=sent > 0)
        if not sent and request.transport is not None:
            request.transport.abort()  # a half body must not look like a whole one
        self._count.update(spans=1 if sent else 0, bytes=sent)
        self._bytes_to[wanted.client] += sent
        return response

    # --- slots --------------------------------------------------------------------------------

    async def _wait_turn(
        self, served: _Served, client: str, span: int, *, urgent: bool
    ) -> wire.Refusal | None:
        """Return None when this request has a slot, else what to answer."""
        admission = served.admission
        if served.share.task.conduct.terms.paused:
            return self._busy(_PAUSED_MS)
        admission.slots = self._slots(served)
        holder = served.share.peer(admission.holder(span))
        key = (client, span)
        if key in served.turns:  # asked twice on two connections: the first is enough
            return self._busy()
        urgent = urgent or holder is None  # nobody can be sent to a peer without an address
        match admission.ask(client, span, urgent=urgent, now=self._clock()):
            case Verdict.SERVE:
                return None
            case Verdict.REFUSED:
                self._count["refused"] += 1
                retry_ms = int(self._limits.refused_s * 1000)
                peers = (holder,) if holder else ()
                return wire.Refusal(elsewhere=True, retry_after_ms=retry_ms, peers=peers)
            case Verdict.BUSY:
                return self._busy()
            case Verdict.WAIT:
                pass
        return None if await self._have_turn(served, key) else self._busy()

    async def _have_turn(self, served: _Served, key: tuple[str, int]) -> bool:
        """Wait in the queue for a slot, but not long; say whether there is one."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        served.turns[key] = turn
        try:
            async with asyncio.timeout(self._limits.upload_queue_s):
                await turn
        except TimeoutError:
            return False
        finally:
            served.turns.pop(key, None)
            if not turn.done() or turn.cancelled():
                served.admission.give_up(*key)
        return True

    def _slots(self, served: _Served) -> int:
        """Return how many slots a swarm has beside the others that send now, by their weights."""
        busy = [
            other.share.task.conduct.terms.weight
            for other in self._served.values()
            if other is not served and (other.admission.active or other.admission.waiting)
        ]
        weight = served.share.task.conduct.terms.weight
        return max(1, round(self._limits.upload_slots * weight / (weight + sum(busy))))

    def _busy(self, retry_ms: int = _RETRY_MS) -> wire.Refusal:
        self._count["busy"] += 1
        return wire.Refusal(elsewhere=False, retry_after_ms=retry_ms)

    def _next_turn(self, served: _Served, client: str, span: int, *, sent: bool) -> None:
        """Give a slot back; whoever waits longest has it at once."""
        following = served.admission.release(client, span, sent=sent)
        while following is not None:
            turn = served.turns.get(following)
            if turn is not None and not turn.done():
                turn.set_result(None)
                return
            following = served.admission.release(*following, sent=False)

    # --- bytes --------------------------------------------------------------------------------

    async def _send(
        self, request: web.Request, response: web.StreamResponse, frames: Frames, share: Share
    ) -> bool:
        """Send frames; say whether the client took all of them.

        Behind them comes what is here by then: the client learns of it when it can ask for more.
        """
        try:
            await response.prepare(request)
            if request.transport is None:
                return False
            rates, send_s = (self._rate, share.task.conduct.upload), self._limits.send_s
            if any(rate.limited for rate in rates):
                await send_slowly(response, frames, rates, send_s)
            else:
                request.writer.send_headers()
                await send_all(request.transport, frames, request.writer.drain, send_s)
            async with asyncio.timeout(send_s):
                await response.write(to_bytes(share.offered, len(share.sizes)))
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            return False
        return True

    async def _read(self, share: Share, number: int, refs: Sequence[FrameRef]) -> Frames:
        """Return sealed frames, from memory or the store.

        Damaged ones are taken back, and answered with 404.
        """
        warm = share.warm_frames(number)
        if warm is not None:
            if len(refs) == len(warm):
                return warm
            wanted = {ref.frame_id for ref in refs}
            span = share.task.spans[number]
            pairs = zip(span, warm, strict=True)
            return [sealed for ref, sealed in pairs if ref.frame_id in wanted]
        loop = asyncio.get_running_loop()
        check = not share.checked >> number & 1
        try:
            frames, absent = await loop.run_in_executor(
                self._threads, read_frames, share.store, refs, check
            )
        except (NodectlError, OSError) as exc:  # absent, or the disk cannot read it
            _log.error("span %d cannot be read: %s", number, exc)
            frames, absent = [], list(refs)
        if absent:
            self._count["damaged"] += 1
            _log.error("span %d is damaged in the store; it is not served any more", number)
            span = share.task.spans[number]
            gone = set(absent)
            share.unmark(number, [i for i, ref in enumerate(span) if ref in gone])
            raise web.HTTPNotFound(text="span not here")
        if check and len(refs) == len(share.task.spans[number]):
            share.checked |= 1 << number
        return frames


def _refuse(refusal: wire.Refusal) -> web.Response:
    headers = {"Retry-After": str(-(-refusal.retry_after_ms // 1000))}
    return web.Response(
        status=429, body=refusal.to_bytes(), headers=headers, content_type="application/json"
    )
