"""The swarm on this node, as the agent wants it: one peer server and its fetches over one store.

A root has two swarms: its manifest's parts (known from the root block), then the frames of its
files (known from the parts).
"""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from nodectl.content.frame import FrameCodec
from nodectl.content.opening import Manifest, open_manifest
from nodectl.content.spans import SpanTable
from nodectl.errors import NodectlError
from nodectl.events import NullObserver, Observer
from nodectl.ids import FrameId, Root
from nodectl.listen import Address, listening
from nodectl.multicast.datagram import Session
from nodectl.node.agent import Holding
from nodectl.node.client import ControlClient, Peer
from nodectl.node.multicasting import MULTICAST_STEP, lacked, receiving, sending
from nodectl.node.seeds import take_seed
from nodectl.node.state import HeldRoot, Membership
from nodectl.store.model import NO_CHUNK, Store, StoredFrame
from nodectl.swarm.bitfield import to_hex
from nodectl.swarm.client import FetchOptions, FetchReport, fetch
from nodectl.swarm.conduct import Conduct
from nodectl.swarm.feed import Feed
from nodectl.swarm.keys import SwarmKeys
from nodectl.swarm.model import PeerInfo, Phase
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.server import SwarmServer
from nodectl.swarm.share import Share, SwarmTask
from nodectl.swarm.statistics import Waited
from nodectl.swarm.terms import Terms

STEPS = {Phase.META: "fetch manifest", Phase.DATA: "fetch"}


@dataclass(slots=True)
class _Root:
    """What is known of one root."""

    held: HeldRoot
    keys: SwarmKeys
    manifest: Manifest
    conduct: Conduct = field(default_factory=Conduct)
    waited: Waited = field(default_factory=Waited)
    peers: dict[str, PeerInfo] = field(default_factory=dict)  # as the tracker named them
    meta: Share | None = None
    data: Share | None = None
    table: SpanTable | None = None


class _Tracker:
    """Answers the client's question for peers: by the controller, else as it said last."""

    def __init__(self, swarm: "NodeSwarm", root: Root) -> None:
        self._swarm = swarm
        self._root = root

    async def peers(self) -> Sequence[PeerInfo]:
        return await self._swarm.ask_for_peers(self._root)


class NodeSwarm:
    """All roots that this process serves and fetches."""

    def __init__(self, client: ControlClient, membership: Membership, store: Store) -> None:
        """Know no root yet; `listening_swarm` sets `url` to where others reach this peer.

        `upload` and `download` limit all roots together, and may be changed at any time.
        """
        self.url = ""
        self.upload = RateLimiter(None, time.monotonic)
        self.download = RateLimiter(None, time.monotonic)
        self._client = client
        self._name = membership.node
        self._store = store
        self.server = SwarmServer(now_ms=client.now_ms, upload=self.upload)
        self._roots: dict[Root, _Root] = {}

    async def seed(self, held: HeldRoot) -> None:
        """Offer to others what the store holds of a root, until the process ends."""
        root = await self._root(held)
        await self._open_meta(root)
        if root.meta is not None and root.meta.complete:
            await self._open_data(root)

    async def fetch(
        self,
        held: HeldRoot,
        peers: Sequence[Peer],
        observer: Observer,
        *,
        multicast: Session | None = None,
        seed: Path | None = None,
    ) -> Mapping[str, Any]:
        """Get every frame of a root into the store, offering meanwhile what is here.

        What a multicast session brings is taken from it. `seed` names a tree or an image that may
        have some of it already.
        """
        root = await self._root(held)
        self.meet(held.root, peers)
        meta = await self.fetch_meta(held, observer)
        seeded = 0 if seed is None else await self.take_seed(held.root, seed)
        table = await self.open_table(held.root)
        share = await self._open_data(root)
        async with receiving(share, multicast, self.url, observer) as feed:
            data = await fetch(share, self._options(root, Phase.DATA, observer, feed=feed))
        bytes_from = Counter(meta.bytes_from) + Counter(data.bytes_from)
        meta_bytes = 0 if root.meta is None else sum(root.meta.sizes)
        return {
            "sealed_bytes": table.sealed_bytes + meta_bytes,
            "fetched_bytes": bytes_from.total(),
            "seeded_bytes": seeded,
            "from": dict(bytes_from),
            "seconds": meta.seconds + data.seconds,
            "dropped": [list(pair) for pair in (*meta.dropped, *data.dropped)],
            "waited_ms": root.waited.to_json(),
            **({} if feed is None else {"multicast": feed.to_json()}),
        }

    async def send(
        self, root_id: Root, session: Session, ready: Awaitable[Collection[str]]
    ) -> Mapping[str, Any]:
        """Send a root that is here by multicast; return the receipt.

        `ready` returns the nodes that listen. What all that are asked have already is not sent.
        """
        root = self._roots[root_id]
        share = await self._open_data(root)

        async def wanted() -> int:
            listeners = set(await ready)
            known = root.peers | {peer.name: peer for peer in share.peers}
            peers = [known[name] for name in known.keys() & listeners]
            return await lacked(share, peers, self._options(root, Phase.DATA, NullObserver()))

        return await sending(share, session, self.url, self.upload, wanted())

    async def fetch_meta(self, held: HeldRoot, observer: Observer) -> FetchReport:
        """Get the parts of a manifest."""
        root = await self._root(held)
        share = await self._open_meta(root)
        return await fetch(share, self._options(root, Phase.META, observer))

    async def take_seed(self, root_id: Root, seed: Path) -> int:
        """Store what a tree or an image on the spot has of a root; return its sealed bytes.

        The manifest must be here.
        """
        root = self._roots[root_id]
        if root.data is not None and root.data.complete:
            return 0
        keys = self._client.membership.content_keys
        stopped = threading.Event()  # a thread is not cancelled, and the process waits for it
        try:
            taken = await asyncio.to_thread(
                take_seed, root.manifest, self._store, seed, keys, stopped=stopped.is_set
            )
        finally:
            stopped.set()
        if taken and root.data is not None:  # it is served already, as it was found before
            found = await asyncio.to_thread(Share.open, root.data.task, self._store)
            root.data.mark_found(found)
        return taken

    async def open_table(self, root_id: Root) -> SpanTable:
        """Return the spans of a root whose manifest is here, and offer those in the store."""
        root = self._roots[root_id]
        await self._open_data(root)
        if root.table is None:
            raise RuntimeError("the spans are known when the data swarm is open")
        return root.table

    async def fetch_data(
        self, root_id: Root, observer: Observer, on_stored: Callable[[int], None]
    ) -> FetchReport:
        """Get the frames of a root's files; `on_stored` is told each span that was not here."""
        root = self._roots[root_id]
        share = await self._open_data(root)
        options = self._options(root, Phase.DATA, observer, on_stored)
        return await fetch(share, options)

    def here(self, root_id: Root) -> int:
        """Return the set of spans of a root's data that are here (bit n: span n)."""
        share = self._roots[root_id].data
        return 0 if share is None else share.have

    def meet(self, root: Root, peers: Sequence[Peer]) -> None:
        """Take note of peers that the tracker named."""
        known = self._roots.get(root)
        if known is None:
            return
        for peer in peers:
            # What comes from the tracker came from a peer first: it may be no address at all.
            with contextlib.suppress(ValueError):
                known.peers[peer.node] = PeerInfo(
                    name=peer.node, url=peer.url, rack=peer.rack, seeds=peer.complete
                )
        known.peers.pop(self._name, None)

    def drop(self, root: Root) -> None:
        """Serve a root no more, and forget it; it is not being fetched."""
        self._roots.pop(root, None)
        for phase in Phase:
            self.server.drop_swarm(root, phase)

    def rekey(self, root: Root, key: bytes) -> bool:
        """Take note of a swarm's present key; say whether it is another one."""
        known = self._roots.get(root)
        return known is not None and known.keys.change(key)

    def agree(self, root: Root, terms: Terms) -> None:
        """Keep to the terms of a swarm."""
        known = self._roots.get(root)
        if known is not None:
            known.conduct.change(terms)

    async def announce(self, root: Root) -> float:
        """Tell the tracker what is here of a root, and meet the peers that it names.

        Returns the seconds after which it wants to hear again.

        Raises:
            NodectlError: the controller does not answer, or refuses.
        """
        holding = self.holding(root)
        answer = await self._client.announce(
            root, url=self.url, have_bytes=holding.have_bytes, complete=holding.complete
        )
        self.meet(root, answer.peers)
        self.agree(root, answer.terms)
        self.rekey(root, answer.swarm_key)
        return answer.interval_s

    async def ask_for_peers(self, root: Root) -> Sequence[PeerInfo]:
        """Return the peers that the tracker names, or named when it last answered."""
        with contextlib.suppress(NodectlError):
            await self.announce(root)
        return tuple(self._roots[root].peers.values())

    def holding(self, root: Root) -> Holding:
        """Return how much of a root that is seeded or fetched is here."""
        known = self._roots.get(root)
        if known is None:
            return Holding(have_bytes=0, complete=False)
        shares = [share for share in (known.meta, known.data) if share is not None]
        complete = known.data is not None and all(share.complete for share in shares)
        return Holding(
            have_bytes=sum(share.held_bytes for share in shares),
            complete=complete,
            fetch=_fetch(known, shares),
        )

    def status(self) -> dict[str, Any]:
        """Return the limits and how each root goes, as JSON values."""
        sent = self.server.statistics()
        return {
            "node": self._name,
            "upload_rate": self.upload.rate,
            "download_rate": self.download.rate,
            "sent_bytes": sent.bytes_sent,
            "to": sent.bytes_to,
            "busy": sent.busy,
            "refused": sent.refused,
            "images": [_status(root) for root in self._roots.values()],
        }

    # ------------------------------------------------------------ inside

    async def _root(self, held: HeldRoot) -> _Root:
        known = self._roots.get(held.root)
        if known is not None:
            return known

        def keep_block() -> Manifest:
            block = held.root_block
            frame = StoredFrame(FrameId(held.root), NO_CHUNK, len(block), block)
            self._store.put_many([frame])
            # The keys of now: they may have changed since this process began.
            codec = FrameCodec(self._client.membership.content_keys)
            return open_manifest(held.root, self._store, codec)

        manifest = await asyncio.to_thread(keep_block)
        return self._roots.setdefault(held.root, _Root(held, SwarmKeys(held.swarm_key), manifest))

    async def _open_meta(self, root: _Root) -> Share:
        if root.meta is None:
            spans = root.manifest.meta_table()
            root.meta = await self._open(root, Phase.META, spans)
        return root.meta

    async def _open_data(self, root: _Root) -> Share:
        if root.data is None:
            root.table = await asyncio.to_thread(root.manifest.span_table)
            root.data = await self._open(root, Phase.DATA, root.table)
        return root.data

    async def _open(self, root: _Root, phase: Phase, spans: SpanTable) -> Share:
        task = SwarmTask(
            root=root.held.root, phase=phase, keys=root.keys, spans=spans, conduct=root.conduct
        )
        return await self.server.add_swarm(task, self._store)

    def _options(
        self,
        root: _Root,
        phase: Phase,
        observer: Observer,
        on_stored: Callable[[int], None] = lambda _: None,
        feed: Feed | None = None,
    ) -> FetchOptions:
        return FetchOptions(
            me=PeerInfo(name=self._name, url=self.url, rack=self._client.rack),
            source=_Tracker(self, root.held.root),
            step=STEPS[phase] if feed is None else MULTICAST_STEP,
            download=self.download,
            feed=feed,
            observer=observer,
            on_stored=on_stored,
            now_ms=self._client.now_ms,
        )


def _status(root: _Root) -> dict[str, Any]:
    shares = [share for share in (root.meta, root.data) if share is not None]
    peers = {peer.name: peer.url for share in shares for peer in share.peers}
    return {
        "name": root.held.name,
        "generation": root.held.generation,
        "root": root.held.root.hex(),
        "held_bytes": sum(share.held_bytes for share in shares),
        "total_bytes": sum(sum(share.sizes) for share in shares),
        "complete": root.data is not None and all(share.complete for share in shares),
        "spans": 0 if root.data is None else len(root.data.sizes),
        "have": "" if root.data is None else to_hex(root.data.have),  # as in docs/protocol.md
        "peers": peers | {peer.name: peer.url for peer in root.peers.values()},
        "terms": root.conduct.terms.to_json(),
        "fetch": _fetch(root, shares),
    }


def _fetch(root: _Root, shares: Sequence[Share]) -> dict[str, Any] | None:
    """Return how the fetch of a root goes, None where there is none; reporting looks at it."""
    fetches = [share.statistics() for share in shares if share.statistics is not None]
    if not fetches:
        return None
    root.waited.look(fetches[-1].wait(), time.monotonic())
    return {**fetches[-1].to_json(), "waited_ms": root.waited.to_json()}


@contextlib.asynccontextmanager
async def listening_swarm(
    swarm: NodeSwarm, listen: Address, host_of: Callable[[Address], str]
) -> AsyncIterator[NodeSwarm]:
    """Serve to peers while the context lasts.

    `host_of` says under which host others reach a listening address.

    Raises:
        PortInUse: the address is taken.
    """
    app = web.Application()
    swarm.server.mount(app)
    async with listening(app, listen, what="the peer") as bound:
        swarm.url = Address(host_of(bound), bound.port).url("http")
        yield swarm
