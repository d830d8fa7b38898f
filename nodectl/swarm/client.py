"""The side that fetches: runs the core over aiohttp, checks frames, stores them, tells the share.

`fetch` ends when every span is durably in the store. Nothing but the store is needed to go on after
a restart. The tracker is asked for peers now and then; when it does not answer, the peers tell of
each other. A peer that sends a bad frame is dropped for the job and named in the report.
"""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import aiohttp

from nodectl.errors import NodectlError, SwarmStalled
from nodectl.events import Note, NullObserver, Observer, StepProgress
from nodectl.swarm.bitfield import Rng, bits_of
from nodectl.swarm.core import Core
from nodectl.swarm.feed import Brought, Feed
from nodectl.swarm.limits import Limits
from nodectl.swarm.line import Lines
from nodectl.swarm.model import (
    Action,
    AskAny,
    AskForPeers,
    Cancel,
    Drop,
    Event,
    Expected,
    Failure,
    Finished,
    NothingChosen,
    PeerGone,
    PeerHave,
    PeerInfo,
    PeerNews,
    PeerSource,
    PeerSpoke,
    PeersSeen,
    Poll,
    Request,
    SpanArrived,
    SpanChosen,
    SpanFailed,
    Tick,
    Unfollow,
)
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share
from nodectl.swarm.statistics import FetchStatistics
from nodectl.swarm.transfer import (
    Good,
    SpanReply,
    Transfer,
    Wanted,
    check_frames,
    cut_frames,
    open_session,
)
from nodectl.swarm.wire import TOLD_MAX
from nodectl.swarm.writer import Writer
from nodectl.units import format_duration

_log = logging.getLogger(__name__)

_THREADS = 2
_ASK_TIMEOUT_S = 10.0
_ANY_AGAIN_S = 0.05  # after a peer had no span for us, at least


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How a node fetches."""

    me: PeerInfo
    source: PeerSource
    step: str = "fetch"  # the name of the step in progress events
    limits: Limits | None = None  # None: those of the share
    download: RateLimiter | None = None  # of all fetches together; None: by `download_rate`
    feed: Feed | None = None  # what brings spans unasked
    observer: Observer = field(default_factory=NullObserver)
    on_stored: Callable[[int], None] = lambda _: None  # told each span that is durably here
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000  # the controller's time
    clock: Callable[[], float] = time.monotonic
    rng: Rng = field(default_factory=random.SystemRandom)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """What a fetch did."""

    seconds: float
    spans: int  # fetched now
    bytes_from: dict[str, int]  # peer: good bytes that it sent
    dropped: tuple[tuple[str, str], ...]  # (peer, reason)
    failures: dict[str, int]  # kind of failure: how often


async def fetch(share: Share, options: FetchOptions) -> FetchReport:
    """Fetch what `share` lacks into its store.

    Raises:
        SwarmStalled: nothing came from anybody for `Limits.stall_s`.
        NoSpace: the store is full. In all cases what was stored stays, and `fetch` can be called
            again.
    """
    began = options.clock()
    limits = options.limits or share.limits
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="swarm-fetch") as threads:
        async with open_session(limits) as session:
            fetcher = _Fetcher(share, options, limits, session, threads)
            try:
                await fetcher.run()
            except BaseExceptionGroup as group:
                raise _first_cause(group) from group
            finally:
                share.on_spoke = share.statistics = None
                share.chill()
    return fetcher.report(options.clock() - began)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that matters: one that a user can act upon before all others."""
    ours = group.subgroup(NodectlError)
    found: BaseException = ours if ours is not None else group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


class _Fetcher:
    """Runs one core: its actions become tasks, their ends become events."""

    def __init__(
        self,
        share: Share,
        options: FetchOptions,
        limits: Limits,
        session: Lines,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._share = share
        self._options = options
        self._limits = limits
        self._threads = threads
        self._clock = options.clock
        self._rate = options.download or RateLimiter(limits.download_rate, self._clock)
        self._transfer = Transfer(share, options.me, session, limits, options.now_ms, self._rate)
        self._core = Core(
            me=options.me, sizes=share.sizes, have=share.have, limits=limits, rng=options.rng
        )
        self._tasks: asyncio.TaskGroup
        self._requests: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._questions: dict[str, asyncio.Task[None]] = {}  # peer: what it has, or any span
        self._since: dict[str, str] = {}  # peer: the mark of its last answer
        self._control = 0  # messages that carried no span
        self._asking = False
        self._finished = asyncio.Event()
        self._tick_moved = asyncio.Event()
        self._wake_at = 0.0
        self._writer = Writer(share, limits, self._clock, threads)
        self._unchecked = 0  # spans that came
        self._last_came = self._clock()
        self._held = share.held_bytes
        self._total = sum(share.sizes)
        self._spans = 0
        self._bytes_from: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._dropped: list[tuple[str, str]] = []
        self._expected = 0  # set of spans that a feed will bring
        self._fed_parts = 0  # set of spans of which a feed brought a part that is not stored yet

    async def run(self) -> None:
        """Fetch until all is stored."""
        self._progress()
        async with asyncio.TaskGroup() as self._tasks:
            writer = self._tasks.create_task(self._writer.run(self._stored))
            clock = self._tasks.create_task(self._tick())
            self._share.statistics = self.statistics
            self._share.on_spoke = lambda peer, have: self._tell(PeerSpoke(peer, have))
            self._tell(PeersSeen(self._share.peers, alive=True))
            feeding = self._tasks.create_task(self._take_feed(self._options.feed))
            await writer
            for task in (clock, feeding, *self._requests.values(), *self._questions.values()):
                task.cancel()

    def report(self, seconds: float) -> FetchReport:
        """Return what was done."""
        return FetchReport(
            seconds=seconds,
            spans=self._spans,
            bytes_from=dict(self._bytes_from),
            dropped=tuple(self._dropped),
            failures=dict(self._failures),
        )

    def statistics(self) -> FetchStatistics:
        """Return how it goes right now."""
        core = self._core
        return FetchStatistics(
            missing_spans=core.missing.bit_count(),
            bytes_per_s=core.rate(self._clock()),
            bytes_from=dict(self._bytes_from),
            neighbours=len(core.followed),
            asked=len(self._requests),
            unchecked=self._unchecked,
            unstored_bytes=self._writer.waiting_bytes,
            unstored_max=self._limits.store_queue_bytes,
            limited=self._rate.waiting + self._share.task.conduct.download.waiting,
            paused=self._share.task.conduct.terms.paused,
            control=self._control,
            failures=dict(self._failures),
            expected=(self._expected & core.missing).bit_count(),
        )

    # --- the core -----------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        """Give the core an event and do what it says."""
        for action in self._core.step(event, self._clock()):
            self._do(action)
        wake_at = self._core.wake_at()
        if wake_at != self._wake_at:
            self._wake_at = wake_at
            self._tick_moved.set()

    def _do(self, action: Action) -> None:
        match action:
            case Request(peer, span, urgent):
                task = self._tasks.create_task(self._request(peer, span, urgent=urgent))
                self._requests[peer.name, span] = task
            case Cancel(peer_name, span):
                self._requests.pop((peer_name, span)).cancel()
            case Poll(peer):
                self._questions[peer.name] = self._tasks.create_task(self._poll(peer))
            case AskAny(peer, wanted):
                self._questions[peer.name] = self._tasks.create_task(self._any(peer, wanted))
            case Unfollow() | Drop() | AskForPeers() | Finished():
                self._do_rare(action)

    def _do_rare(self, action: Unfollow | Drop | AskForPeers | Finished) -> None:
        match action:
            case Unfollow(peer_name):
                self._since.pop(peer_name, None)
                if (question := self._questions.pop(peer_name, None)) is not None:
                    question.cancel()
            case Drop(peer, reason):
                self._dropped.append((peer.name, reason))
                self._share.forget(peer.name)
                _log.warning("dropped peer %s at %s: it %s", peer.name, peer.url, reason)
                self._options.observer.on(Note(text=f"dropped peer {peer.name}: it {reason}"))
            case AskForPeers():
                if not self._asking:
                    self._asking = True
                    self._control += 2
                    self._tasks.create_task(self._ask())
            case Finished():
                self._finished.set()
                self._writer.end()

    async def _tick(self) -> None:
        """Tell the core of time, when it wants it; give up when nothing comes for long."""
        while not self._finished.is_set():
            self._tick_moved.clear()
            try:
                async with asyncio.timeout(max(0.001, self._wake_at - self._clock())):
                    await self._tick_moved.wait()
                continue
            except TimeoutError:
                self._tell(Tick())
            silent = self._clock() - max(self._last_came, self._share.task.conduct.awake_since)
            if silent > self._limits.stall_s:
                missing = self._core.missing.bit_count()
                raise SwarmStalled(
                    f"no peer sent anything for {format_duration(silent)}; "
                    f"{missing} of {len(self._share.sizes)} spans are missing",
                    hint="see that a node that has the image runs 'nodectl serve' and can be "
                    "reached; what was fetched is kept",
                )

    async def _ask(self) -> None:
        """Ask the tracker for peers; without an answer the known ones must do."""
        try:
            async with asyncio.timeout(_ASK_TIMEOUT_S):
                peers = await self._options.source.peers()
        except (NodectlError, OSError, aiohttp.ClientError) as exc:
            _log.debug("no answer to the question for peers: %r", exc)
        else:
            self._tell(PeersSeen(tuple(peers)))
        finally:
            self._asking = False

    # --- peers --------------------------------------------------------------------------------

    async def _poll(self, peer: PeerInfo) -> None:
        """Ask one peer what it has; it answers when there is something."""
        reply = await self._transfer.have(peer, self._since.get(peer.name, ""))
        self._control += 2
        del self._questions[peer.name]
        if reply is None:
            self._tell(PeerGone(peer.name))
            return
        self._since[peer.name] = reply.since
        self._tell(PeerHave(peer.name, reply.have, replaces=reply.whole, origin=reply.origin))
        if reply.peers:
            self._tell(PeersSeen(reply.peers))

    async def _any(self, peer: PeerInfo, wanted: int) -> None:
        """Ask one peer for any span of those; once it began, it is a request like others."""
        wanted &= ~self._share.partial
        if len(self._share.sizes) > TOLD_MAX:
            await self._poll(peer)
            return
        chosen: list[int] = []
        await self._share.task.conduct.running()

        def begin(span: int) -> None:
            chosen.append(span)
            self._requests[peer.name, span] = self._questions.pop(peer.name)
            self._tell(SpanChosen(peer.name, span))  # it may cancel this very task

        await self._writer.room()
        reply = await self._transfer.any_span(peer, wanted, begin)
        if chosen:
            await self._take(peer, chosen[0], range(self._share.counts[chosen[0]]), reply)
            return
        self._control += 2
        del self._questions[peer.name]
        if reply.failure in {Failure.TIMEOUT, Failure.GONE}:
            self._tell(PeerGone(peer.name))
        elif reply.failure is Failure.BAD:
            self._tell(SpanFailed(peer.name, 0, Failure.BAD))
        else:
            none = reply.failure is Failure.MISSING
            self._tell(NothingChosen(peer.name, max(reply.retry_after, _ANY_AGAIN_S), none))

    async def _request(self, peer: PeerInfo, span: int, *, urgent: bool) -> None:
        """Fetch one span from one peer."""
        await self._share.task.conduct.running()
        await self._writer.room()
        wanted = self._share.missing_frames(span)
        size = sum(self._share.task.spans[span][i].sealed_len for i in wanted)
        reply = await self._transfer.span(peer, span, wanted, size, urgent=urgent)
        await self._take(peer, span, wanted, reply)

    async def _take(
        self, peer: PeerInfo, span: int, wanted: Sequence[int], reply: SpanReply
    ) -> None:
        """Check what came, queue it for the store, tell the core."""
        bad = False
        if reply.body:
            refs = [self._share.task.spans[span][i] for i in wanted]
            bad = await self._check(peer.name, Wanted(span, wanted, refs), reply.body)
            self._transfer.buffers.give(reply.body)
        else:
            self._control += 2
        failure = Failure.BAD if bad else reply.failure
        self._requests.pop((peer.name, span), None)
        if failure is None:
            if reply.have is not None:
                self._tell(PeerNews(peer.name, reply.have, replaces=True))
            self._tell(SpanArrived(peer.name, span))
            return
        self._failures[failure] += 1
        self._tell(SpanFailed(peer.name, span, failure, reply.retry_after, reply.alternatives))

    async def _check(self, source: str, wanted: Wanted, body: memoryview) -> bool:
        """Check frames in a thread and queue the good ones; say whether there was a bad one."""
        self._unchecked += 1
        try:
            frames, places, bad = await asyncio.get_running_loop().run_in_executor(
                self._threads, check_frames, body, wanted.refs
            )
        finally:
            self._unchecked -= 1
        if frames:
            size = sum(wanted.refs[place].sealed_len for place in places)
            indexes = {wanted.indexes[place] for place in places}
            self._writer.put(Good(wanted.span, frames, indexes, size))
            self._bytes_from[source] += size
            self._last_came = self._clock()
            if len(frames) == self._share.counts[wanted.span]:
                self._share.warm(wanted.span, [frame.sealed for frame in frames])
        return bad

    # --- a feed -------------------------------------------------------------------------------

    async def _take_feed(self, feed: Feed | None) -> None:
        """Take what a feed brings until it ends; peers are not asked for what it will bring."""
        while feed is not None:
            self._expect(feed.expected)
            brought = await feed.more()
            if brought is None:
                break
            for one in brought:
                await self._take_brought(feed.name, one)
        self._expect(0)

    def _expect(self, spans: int) -> None:
        self._expected = spans
        self._tell(Expected(spans | self._fed_parts))

    async def _take_brought(self, name: str, one: Brought) -> None:
        """Check and queue what is lacking here of one span that a feed brought."""
        await self._writer.room()
        lacking = self._share.missing_frames(one.span)
        indexes = sorted(set(one.indexes) & set(lacking))
        if not indexes:
            return
        refs = self._share.task.spans[one.span]
        body = cut_frames(one.body, refs, indexes)
        wanted = Wanted(one.span, indexes, [refs[i] for i in indexes])
        bad = await self._check(name, wanted, body)
        if bad:
            self._failures[Failure.BAD] += 1
        elif len(indexes) == len(lacking):
            self._tell(SpanArrived(name, one.span))
        else:
            self._fed_parts |= 1 << one.span

    # --- the store ----------------------------------------------------------------------------

    def _stored(self, batch: list[Good]) -> None:
        """Tell the share and the caller what is durable now."""
        share = self._share
        before = share.have
        whole = [g.span for g in batch if len(g.indexes) == share.counts[g.span]]
        share.mark(whole)
        for good in batch:
            if not share.have >> good.span & 1:
                share.mark_frames(good.span, good.indexes)
        for span in dict.fromkeys(good.span for good in batch):
            if (share.have & ~before) >> span & 1:
                self._spans += 1
                self._options.on_stored(span)
        self._held = share.held_bytes
        if self._fed_parts:
            self._fed_parts &= ~bits_of(good.span for good in batch)
            self._expect(self._expected)
        self._progress()

    def _progress(self) -> None:
        self._options.observer.on(
            StepProgress(step=self._options.step, done=self._held, total=self._total)
        )
