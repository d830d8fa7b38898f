"""What this node holds of one swarm, and whom it knows there: seen by the server and the client.

The store is the truth: `Share.open` asks it, and nothing else is kept over a restart. The client
that fetches marks spans as they become durable. A span whose frames were all checked is *warm*: it
is offered and served from memory before it is durable, and for a while after, since a swarm is as
fast as it passes on what is new. Only what is durable counts as held. A share belongs to one event
loop; only `open` may run in a thread.
"""

import asyncio
import secrets
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nodectl.content.frame import FrameRef, check_frame_id
from nodectl.ids import Root
from nodectl.store.model import Store
from nodectl.swarm.bitfield import bits_of, full, spans_of
from nodectl.swarm.conduct import Conduct
from nodectl.swarm.keys import SwarmKeys
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.statistics import FetchStatistics

Span = Sequence[FrameRef]

_GROUP = 64  # spans asked of the store at one time


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmTask:
    """One list of spans that a group of nodes wants."""

    root: Root
    phase: Phase
    keys: SwarmKeys = field(repr=False)
    spans: Sequence[Span]  # each frame in one span only
    conduct: Conduct = field(default_factory=Conduct)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a look at the spans and the store gave."""

    have: int  # set of spans
    partial: dict[int, list[int]]  # span: indexes of the frames that are not here
    sizes: Sequence[int]  # bytes of each span
    counts: Sequence[int]  # frames of each span
    held: int  # bytes that are here


class Share:
    """The spans that are here, the frames that are here of others, and the peers of the swarm."""

    def __init__(self, task: SwarmTask, store: Store, found: _Found, limits: Limits) -> None:
        """Begin with what `open` found; see there."""
        self.task = task
        self.store = store
        self.limits = limits
        # Looking at a span may cost the making of its frame references, so it is done once.
        self.sizes: Sequence[int] = found.sizes  # bytes of each span
        self.counts: Sequence[int] = found.counts  # frames of each span
        self.origin = found.have == full(len(task.spans))
        self.on_spoke: Callable[[PeerInfo, int | None], None] | None = (
            None  # a peer asked: what it has
        )
        self.statistics: Callable[[], FetchStatistics] | None = None  # while a fetch runs
        self.checked = 0  # set of spans whose frames were checked in this process
        self._have = found.have
        self._held = found.held
        self._partial = found.partial  # span: the indexes of its frames that are not here
        self._epoch = secrets.token_hex(4)
        self._order: list[int] = []  # spans in the order in which they came; its length: version
        self._offered = found.have
        self._warm: dict[int, Sequence[bytes]] = {}  # span: its sealed frames; the oldest first
        self._warm_bytes = 0
        self._news = asyncio.Event()
        self._closed = False
        self._peers: dict[str, PeerInfo] = {}

    @classmethod
    def open(cls, task: SwarmTask, store: Store, *, limits: Limits | None = None) -> "Share":
        """Ask the store what is here of each span; may run in a thread.

        The spans are asked for in groups, so that memory does not grow with the image.
        """
        have = held = 0
        partial: dict[int, list[int]] = {}
        sizes, counts = array("Q"), array("Q")
        for first in range(0, len(task.spans), _GROUP):
            group = [task.spans[n] for n in range(first, min(first + _GROUP, len(task.spans)))]
            missing = set(store.missing(ref.frame_id for span in group for ref in span))
            for number, span in enumerate(group, first):
                absent = [i for i, ref in enumerate(span) if ref.frame_id in missing]
                sizes.append(sum(ref.sealed_len for ref in span))
                counts.append(len(span))
                held += sizes[-1] - sum(span[i].sealed_len for i in absent)
                if not absent:
                    have |= 1 << number
                elif len(absent) < len(span):
                    partial[number] = absent
        found = _Found(have=have, partial=partial, sizes=sizes, counts=counts, held=held)
        return cls(task, store, found, limits or Limits())

    # --- spans --------------------------------------------------------------------------------

    @property
    def have(self) -> int:
        """The set of spans that are durably here, whole."""
        return self._have

    @property
    def offered(self) -> int:
        """The set of spans that others may ask for: durable, or checked and in memory."""
        return self._offered

    @property
    def complete(self) -> bool:
        """Whether every span is here."""
        return self._have == full(len(self.task.spans))

    @property
    def held_bytes(self) -> int:
        """Sealed bytes of this swarm that are here, those of incomplete spans too."""
        return self._held

    @property
    def partial(self) -> int:
        """The set of spans of which some frames are here, and some are not."""
        return bits_of(self._partial)

    def missing_frames(self, span: int) -> Sequence[int]:
        """Return the indexes of the frames of `span` that are not here, ascending."""
        if self._have >> span & 1:
            return ()
        return self._partial.get(span) or range(self.counts[span])

    def _lacking(self, span: int) -> int:
        """Return the bytes of `span` that are not here."""
        if span not in self._partial:
            return 0 if self._have >> span & 1 else self.sizes[span]
        refs = self.task.spans[span]
        return sum(refs[i].sealed_len for i in self._partial[span])

    def mark(self, spans: Sequence[int]) -> None:
        """Note that these spans are durably here now, and tell those who wait for news."""
        new = [span for span in spans if not self._have >> span & 1]
        if not new:
            return
        for span in new:
            self._held += self._lacking(span)
            self._partial.pop(span, None)
        bits = bits_of(new)
        self._have |= bits
        self.checked |= bits
        self._cool()
        self._offer(new)

    def warm(self, span: int, frames: Sequence[bytes]) -> None:
        """Offer a span; `frames` are all of its sealed frames, in order, and checked."""
        if span in self._warm or self._have >> span & 1:
            return
        self._warm[span] = frames
        self._warm_bytes += self.sizes[span]
        self._cool()
        self._offer([span])

    def warm_frames(self, span: int) -> Sequence[bytes] | None:
        """Return the sealed frames of a span that is in memory."""
        return self._warm.get(span)

    def chill(self) -> None:
        """Keep nothing in memory, and take back what was offered and is not durable."""
        self._warm.clear()
        self._warm_bytes = 0
        if self._offered & ~self._have:
            self._begin_anew()

    def _cool(self) -> None:
        """Let go of what is durable, the oldest first, down to what may stay in memory."""
        if self._warm_bytes <= self.limits.warm_bytes:
            return
        for span in [span for span in self._warm if self._have >> span & 1]:
            del self._warm[span]
            self._warm_bytes -= self.sizes[span]
            if self._warm_bytes <= self.limits.warm_bytes:
                return

    def _offer(self, spans: Sequence[int]) -> None:
        """Tell those who wait for news of spans that were not offered yet."""
        new = [span for span in spans if not self._offered >> span & 1]
        if new:
            self._offered |= bits_of(new)
            self._order += new
            self._wake()

    def _begin_anew(self) -> None:
        """Offer what is durable, and nothing else: all must hear the whole of it again."""
        self._offered = self._have
        self._epoch = secrets.token_hex(4)
        self._order = []
        self._wake()

    def mark_frames(self, span: int, stored: set[int]) -> None:
        """Note that some frames of a span are durably here."""
        absent = [i for i in self.missing_frames(span) if i not in stored]
        if absent:
            before = self._lacking(span)
            self._partial[span] = absent
            self._held += before - self._lacking(span)
        else:
            self.mark([span])

    def mark_found(self, found: "Share") -> None:
        """Note what a later look at the same spans and the same store found here."""
        self.mark(list(spans_of(found.have & ~self._have)))
        for span in found._partial:  # noqa: SLF001 - its own class
            absent = set(found.missing_frames(span))
            self.mark_frames(span, set(range(self.counts[span])) - absent)

    def unmark(self, span: int, absent: Sequence[int]) -> None:
        """Take back a span of which some frames turned out to be missing or damaged."""
        self._have &= ~(1 << span)
        self._partial[span] = list(absent)
        self._held -= self._lacking(span)
        self.origin = False
        self._begin_anew()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    @property
    def since(self) -> str:
        """The mark that stands for what is here now."""
        return f"{self._epoch}-{len(self._order)}"

    def news_since(self, since: str) -> tuple[bool, int]:
        """Return (whole, set): all that is here, or only what came after the mark `since`."""
        epoch, _, version = since.partition("-")
        if epoch == self._epoch and version.isascii() and version.isdigit():
            return False, bits_of(self._order[int(version) :])
        return True, self._offered

    async def wait_offer(self, wanted: int, seconds: float) -> int:
        """Wait until some of the spans `wanted` are offered, or the time is over; return them."""
        try:
            async with asyncio.timeout(seconds):
                while not self._offered & wanted and not self._closed:
                    await self._news.wait()
        except TimeoutError:
            pass
        return self._offered & wanted

    async def wait_news(self, since: str, seconds: float) -> None:
        """Wait until there is something after `since` ("": anything), or the time is over."""
        if (since != self.since and (since or self._offered)) or self._closed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Let nobody wait any more: the server ends."""
        self._closed = True
        self._wake()

    # --- peers --------------------------------------------------------------------------------

    @property
    def peers(self) -> tuple[PeerInfo, ...]:
        """The peers known, the ones heard last at the end."""
        return tuple(self._peers.values())

    def peer(self, name: str | None) -> PeerInfo | None:
        """Return a peer by name, if it is known."""
        return self._peers.get(name) if name else None

    def meet(self, peer: PeerInfo, have: int | None = None) -> None:
        """Remember a peer that was heard itself, and tell the fetch what it `have`s, if it said."""
        known = self._peers.pop(peer.name, None)
        if known is None and len(self._peers) >= self.limits.peers_known:
            del self._peers[next(iter(self._peers))]
        self._peers[peer.name] = peer
        if self.on_spoke is not None and (have is not None or known != peer):
            self.on_spoke(peer, have)

    def forget(self, name: str) -> None:
        """Forget a peer that misbehaved."""
        self._peers.pop(name, None)


def read_frames(
    store: Store,
    refs: Sequence[FrameRef],
    check: bool,  # noqa: FBT001 - for an executor
) -> tuple[list[bytes], list[FrameRef]]:
    """Return the sealed frames, and those of them that are not what their id says."""
    sealed = list(store.get_many([ref.frame_id for ref in refs]))
    absent = [
        ref
        for ref, data in zip(refs, sealed, strict=True)
        if len(data) != ref.sealed_len or (check and not check_frame_id(data, ref.frame_id))
    ]
    return sealed, absent
