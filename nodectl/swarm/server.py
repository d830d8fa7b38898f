"""The side that serves: what is here, and spans of it, over aiohttp.

`SwarmServer.mount` adds its routes to any application. Decisions stand in `admission.py`, the
bytes of requests and answers in `wire.py`, what is here in `share.py`. Frames are sealed, so plain
HTTP is enough; each request carries a MAC keyed with the swarm key, and without it gets 401 and
nothing else. Frames that lay in the store when this process began are checked when they are read
for the first time: a damaged one is not spread, and does not cost this node its good name.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aiohttp import web

from nodectl.content.frame import FrameRef, check_frame_id
from nodectl.door import STRANGERS
from nodectl.errors import MacRefused, NodectlError
from nodectl.ids import Root, id_from_hex
from nodectl.store.model import Store
from nodectl.swarm import wire
from nodectl.swarm.admission import Admission, Verdict
from nodectl.swarm.bitfield import from_ranges
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share, SwarmTask
from nodectl.trust.mac import TIME_HEADER, MacVerifier, Signed

_log = logging.getLogger(__name__)

_PIECE = 128 * 1024  # bytes given to the transport at once
_LIMITED_PIECE = 32 * 1024  # the same under a rate limit
_THREADS = 2
_RETRY_MS = 50  # what a peer without a free slot suggests


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """What a server did since it began."""

    swarms: int
    spans_sent: int
    bytes_sent: int
    busy: int  # requests answered 429 for want of a slot
    refused: int  # requests sent to another peer
    unauthorised: int
    damaged: int  # spans that were damaged in the store
    bytes_to: dict[str, int] = field(default_factory=dict)  # client: bytes


@dataclass(slots=True, eq=False)
class _Served:
    """One swarm that is served."""

    share: Share
    admission: Admission
    verifiers: dict[bytes, MacVerifier]  # for each key that counts
    turns: dict[tuple[str, int], asyncio.Future[None]] = field(default_factory=dict)
    told_at: dict[str, float] = field(default_factory=dict)  # client: last answer to "have"
    told_peers: dict[str, int] = field(default_factory=dict)  # client: how many it was told
    polls: int = 0


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
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="swarm-serve")
        self._rate = upload or RateLimiter(self._limits.upload_rate, clock)
        self._count: Counter[str] = Counter()
        self._bytes_to: Counter[str] = Counter()

    def mount(self, app: web.Application) -> None:
        """Add the routes of the data plane to `app`, and the end of this server to its end."""
        base = wire.PREFIX + "/{root}/{phase}"
        app.router.add_get(base + "/have", self._on_have, allow_head=False)
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
        served = _Served(share, admission, {})
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
            client = self._verify(served, request.headers.get("Authorization"), signed)
        except MacRefused as exc:
            self._count["unauthorised"] += 1
            _log.info("refused %s: %s", request.remote, exc)
            headers = {TIME_HEADER: str(self._now_ms())}
            refusal = web.HTTPUnauthorized(text="", headers=headers)
            refusal.force_close()
            raise refusal from None
        if STRANGERS in request.app:
            request.app[STRANGERS].prove(request.transport)
        served.admission.saw(client, self._clock())
        return served, client

    def _verify(self, served: _Served, header: str | None, signed: Signed) -> str:
        """Return the client of a request made with a key that counts now.

        Raises:
            MacRefused: it is none.
        """
        keys = served.share.task.keys.accepted()
        for key in keys:
            if key not in served.verifiers:
                served.verifiers = {k: v for k, v in served.verifiers.items() if k in keys}
                served.verifiers[key] = MacVerifier(_always(key), now_ms=self._now_ms)
        *others, last = keys
        for key in others:
            with contextlib.suppress(MacRefused):
                return served.verifiers[key].verify(header, signed)
        return served.verifiers[last].verify(header, signed)

    async def _on_have(self, request: web.Request) -> web.Response:
        """Answer what is here; waits for news, and for the gap between two answers."""
        served, client = self._authorise(request)
        share, limits = served.share, self._limits
        try:
            wait_s = min(int(request.query.get("wait_ms", "0")) / 1000, limits.have_wait_s)
            rack, at = request.query.get("rack", ""), request.query.get("at")
            peer = PeerInfo(name=client, url=at, rack=rack) if at else None
        except ValueError as exc:
            raise web.HTTPBadRequest(text=str(exc)) from None
        if peer is not None:
            share.meet(peer)
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
        refusal = await self._wait_turn(served, client, number, urgent="urgent" in request.query)
        if refusal is not None:
            headers = {"Retry-After": str(-(-refusal.retry_after_ms // 1000))}
            return web.Response(
                status=429,
                body=refusal.to_bytes(),
                headers=headers,
                content_type="application/json",
            )
        sent = 0
        try:
            if request.transport is None:
                return web.Response(status=400)  # it went away while it waited; nobody reads this
            body = await self._read(share, number, refs)
            response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
            response.content_length = len(body)
            sent = await self._send(request, response, body)
        finally:
            self._next_turn(served, client, number, sent=sent > 0)
        if not sent and request.transport is not None:
            request.transport.abort()  # a half body must not look like a whole one
        self._count.update(spans=1 if sent else 0, bytes=sent)
        self._bytes_to[client] += sent
        return response

    # --- slots --------------------------------------------------------------------------------

    async def _wait_turn(
        self, served: _Served, client: str, span: int, *, urgent: bool
    ) -> wire.Refusal | None:
        """Return None when this request has a slot, else what to answer."""
        admission = served.admission
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
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        served.turns[key] = turn
        try:
            async with asyncio.timeout(self._limits.upload_queue_s):
                await turn
        except TimeoutError:
            return self._busy()
        finally:
            served.turns.pop(key, None)
            if not turn.done() or turn.cancelled():
                admission.give_up(client, span)
        return None

    def _busy(self) -> wire.Refusal:
        self._count["busy"] += 1
        return wire.Refusal(elsewhere=False, retry_after_ms=_RETRY_MS)

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

    async def _send(self, request: web.Request, response: web.StreamResponse, body: bytes) -> int:
        """Send a body; return its length, or 0 when the client stopped to take it."""
        piece = _LIMITED_PIECE if self._rate.limited else _PIECE
        view = memoryview(body)
        try:
            await response.prepare(request)
            for begin in range(0, len(body), piece):
                part = view[begin : begin + piece]
                await self._rate.take(len(part))
                async with asyncio.timeout(self._limits.send_s):
                    await response.write(part)
            await response.write_eof()
        except (TimeoutError, ConnectionError):
            return 0
        return len(body)

    async def _read(self, share: Share, number: int, refs: Sequence[FrameRef]) -> bytes:
        """Return the sealed bytes of frames, from memory or the store.

        Damaged ones are taken back, and answered with 404.
        """
        warm = share.warm_frames(number)
        if warm is not None:
            if len(refs) == len(warm):
                return b"".join(warm)
            wanted = {ref.frame_id for ref in refs}
            span = share.task.spans[number]
            pairs = zip(span, warm, strict=True)
            return b"".join(sealed for ref, sealed in pairs if ref.frame_id in wanted)
        loop = asyncio.get_running_loop()
        check = not share.checked >> number & 1
        try:
            body, absent = await loop.run_in_executor(
                self._threads, _read_frames, share.store, refs, check
            )
        except (NodectlError, OSError) as exc:  # absent, or the disk cannot read it
            _log.error("span %d cannot be read: %s", number, exc)
            body, absent = b"", list(refs)
        if absent:
            self._count["damaged"] += 1
            _log.error("span %d is damaged in the store; it is not served any more", number)
            span = share.task.spans[number]
            gone = set(absent)
            share.unmark(number, [i for i, ref in enumerate(span) if ref in gone])
            raise web.HTTPNotFound(text="span not here")
        if check and len(refs) == len(share.task.spans[number]):
            share.checked |= 1 << number
        return body


def _always(key: bytes) -> Callable[[str], bytes]:
    """Return what gives every client the same key: that of the swarm."""
    return lambda _: key


def _read_frames(
    store: Store,
    refs: Sequence[FrameRef],
    check: bool,  # noqa: FBT001 - for an executor
) -> tuple[bytes, list[FrameRef]]:
    """Return the frames behind each other, and those that are not what their id says."""
    sealed = list(store.get_many([ref.frame_id for ref in refs]))
    absent = [
        ref
        for ref, data in zip(refs, sealed, strict=True)
        if len(data) != ref.sealed_len or (check and not check_frame_id(data, ref.frame_id))
    ]
    return b"".join(sealed), absent
