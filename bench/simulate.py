"""A swarm in simulated time, run by the very core, picker and admission that the product runs.

    python bench/simulate.py --nodes 1000 --racks 20 --loss 0.01 --liars 0.02 --seed 1 --json

One seeder and N nodes. The transfers of a link share it as TCP would: equally, and what one of them
cannot use (its other end is busier) goes to the others. Links differ (--uneven), nodes crash
(--killed), lie (--liars), transfers break (--loss), and the tracker dies (--tracker-dies-s). With
--racks the nodes and the tracker know of racks; each has an uplink of --uplink times the rate of a
node, in each direction, and what crosses it is counted. All of it is on by default, with the
numbers that --help shows.

Prints makespan over the bound F/B (B: the rate of the slowest link that is not --slow; an uplink of
less than one would be slower), the copies that the seeder sent, the copies that came into each
rack, and the control messages for each node and second: all that is said beside spans (what a peer
has, refusals, questions to the tracker).
"""

import argparse
import functools
import gc
import heapq
import itertools
import json
import math
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nodectl.swarm import importers
from nodectl.swarm.admission import Admission, Verdict
from nodectl.swarm.bitfield import full, random_span
from nodectl.swarm.core import Core
from nodectl.swarm.limits import Limits
from nodectl.swarm.model import (
    Action,
    AskAny,
    AskForPeers,
    Cancel,
    Drop,
    Event,
    Failure,
    Finished,
    NothingChosen,
    PeerGone,
    PeerHave,
    PeerInfo,
    PeerNews,
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

HANDED_OUT = 80  # peers that the tracker names in one answer
TRUNK_S = 0.1  # between two looks at an uplink that is full
RIPPLE = 4  # links looked at again when one transfer begins or ends (12: the same within 0.3 %)
GIVE_UP_S = 100_000.0  # simulated


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is simulated."""

    nodes: int
    spans: int = 512
    span_bytes: int = 4 << 20
    rate: float = 25e6  # bytes/s of each link, up and down
    racks: int = 1
    uplink: float = math.inf  # of each rack, up and down, in rates of one node
    loss: float = 0.0  # share of the transfers that break on the way
    liars: float = 0.0  # share of the nodes that send bad frames
    killed: float = 0.0  # share of the nodes that die at half of the bound
    slow: float = 0.0  # share of the nodes with a tenth of the rate
    uneven: float = 0.0  # links differ by so much of the rate, up and down
    tracker_dies_s: float = GIVE_UP_S
    seeder_dies_after_copy: bool = False
    latency: float = 0.0005  # seconds, one way
    store_s: float = 0.01  # from the last byte to durable
    seed: int = 0
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came out of it."""

    nodes: int
    spans: int
    makespan_s: float = 0.0  # until the last honest living node was complete
    bound_s: float = 0.0
    ratio: float = 0.0
    seeder_copies: float = 0.0
    uplink_copies: float = 0.0  # came into a rack from others, on average
    control_per_node_s: float = 0.0  # messages
    complete: int = 0
    expected: int = 0
    dropped_liars: int = 0
    wasted: float = 0.0  # bytes sent beyond what was needed, as a share of that
    busy: int = 0
    refused: int = 0
    polls: int = 0
    wishes: int = 0
    tracker: int = 0
    repeated: int = 0  # requests of one span to one peer after it was served there
    steps: int = 0
    control: int = 0  # messages
    wall_s: float = 0.0


@dataclass(slots=True, eq=False)
class Link:
    """One direction of one node's link."""

    capacity: float  # bytes/s
    flows: dict["Flow", "Link"] = field(default_factory=dict)  # -> the link at its other end
    level: float = 0.0  # bytes/s that any one transfer may use here

    def __post_init__(self) -> None:
        self.level = self.capacity

    def fair_level(self) -> float:
        """Return the level at which the link is full, given what limits its flows elsewhere."""
        limits = [min(flow.cap, other.level) for flow, other in self.flows.items()]
        return fair_level(self.capacity, limits)


def fair_level(capacity: float, limits: list[float]) -> float:
    """Return the level at which flows with these limits fill a capacity together."""
    left, count, limit = capacity, len(limits), 0.0
    limits.sort()
    for limit in limits:
        if limit * count >= left:
            return left / count
        left -= limit
        count -= 1
    return left + limit  # all of them are held up elsewhere: what one more could have


@dataclass(slots=True, eq=False)
class Trunk:
    """One direction of a rack's uplink; while it is full it is looked at every TRUNK_S."""

    capacity: float  # bytes/s
    flows: dict["Flow", None] = field(default_factory=dict)
    load: float = 0.0  # bytes/s that its flows have now
    level: float = math.inf  # bytes/s that any one of them may have
    watched: bool = False


@dataclass(slots=True, eq=False)
class Flow:
    """One span on its way."""

    source: "Node"
    target: "Node"
    span: int
    left: float  # bytes
    breaks: bool
    rate: float = 0.0
    at: float = 0.0
    ends: float = 0.0  # at the present rate
    wakes: float = math.inf  # when the event that looks at it is due
    version: int = 0
    trunks: tuple[Trunk, ...] = ()  # that it passes
    cap: float = math.inf  # what they leave to it


@dataclass(slots=True, eq=False)
class Node:
    """One machine: its core, its admission, and its two link directions."""

    info: PeerInfo
    core: Core | None
    admission: Admission
    have: int
    up: Link
    down: Link
    liar: bool = False
    alive: bool = True
    done_at: float | None = None
    sending: dict[tuple[str, int], Flow] = field(default_factory=dict)
    receiving: dict[tuple[str, int], Flow] = field(default_factory=dict)
    waiting: dict[tuple[str, int], float] = field(default_factory=dict)  # -> queued at
    asking: dict[str, "Node"] = field(default_factory=dict)  # polls that wait for news
    wishes: dict[str, tuple["Node", int]] = field(default_factory=dict)  # -> wanted spans
    chosen: set[tuple[str, int]] = field(default_factory=set)  # of those that wait for a slot
    met: dict[str, PeerInfo] = field(default_factory=dict)  # who asked here
    told: dict[str, int] = field(default_factory=dict)  # peer: what of `have` it was told
    answered_at: dict[str, float] = field(default_factory=dict)  # client: last answer to a poll
    wake: float = 0.0
    sent: float = 0.0  # bytes
    served: set[tuple[str, int]] = field(default_factory=set)


class Simulation:
    """The event loop of simulated time."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rng = random.Random(scene.seed)
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = itertools.count()
        self.outcome = Outcome(nodes=scene.nodes, spans=scene.spans)
        self.nodes: dict[str, Node] = {}
        self.names: list[str] = []
        self.racks: defaultdict[str, list[str]] = defaultdict(list)  # the names of each
        self.crossed = 0.0  # bytes between racks
        capacity = scene.uplink * scene.rate
        places = [f"r{number}" for number in range(scene.racks)] if scene.racks > 1 else []
        self.trunks = {(place, up): Trunk(capacity) for place in places for up in (True, False)}
        self.liars_dropped: set[str] = set()
        self.seeder = self._add("seeder", 0, have=full(scene.spans))
        for i in range(scene.nodes):
            self._add(f"n{i}", i, have=0)
        people = [n for n in self.nodes.values() if n.core is not None]
        for node in self.rng.sample(people, round(scene.liars * scene.nodes)):
            node.liar = True
        self.pending = {n.info.name for n in people if not n.liar}
        if scene.uneven:
            for node in people:
                rate = scene.rate * (1 + scene.uneven * (2 * self.rng.random() - 1))
                node.up, node.down = Link(rate), Link(rate)
        for node in self.rng.sample(people, round(scene.slow * scene.nodes)):
            node.up, node.down = Link(scene.rate / 10), Link(scene.rate / 10)
        bound = scene.spans * scene.span_bytes / (scene.rate * (1 - scene.uneven))
        self.outcome.bound_s = bound
        for node in self.rng.sample(people, round(scene.killed * scene.nodes)):
            self.after(bound / 2 * (0.5 + self.rng.random()), lambda n=node: self.kill(n))
        for node in people:
            self.after(self.rng.random() * 0.05, lambda n=node: self.tell(n, Tick()))

    def _add(self, name: str, number: int, have: int) -> Node:
        scene = self.scene
        rack = f"r{number % scene.racks}" if scene.racks > 1 else ""
        info = PeerInfo(name=name, url=f"http://{name}:1", rack=rack, seeds=bool(have))
        core = None
        if not have:
            sizes = [scene.span_bytes] * scene.spans
            core = Core(me=info, sizes=sizes, have=0, limits=scene.limits, rng=self.rng)
        admission = Admission(limits=scene.limits, origin=bool(have))
        node = Node(info, core, admission, have, Link(scene.rate), Link(scene.rate))
        self.nodes[name] = node
        self.names.append(name)
        self.racks[rack].append(name)
        return node

    # --- time

    def after(self, delay: float, call: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self.counter), call))

    def run(self) -> Outcome:
        began = time.perf_counter()
        while self.pending and self.queue and self.now < GIVE_UP_S:
            self.now, _, call = heapq.heappop(self.queue)
            call()
        out, scene = self.outcome, self.scene
        honest = [n for n in self.nodes.values() if n.core and n.alive and not n.liar]
        times = [n.done_at for n in honest if n.done_at is not None]
        out.makespan_s = max(times, default=0.0)
        out.ratio = out.makespan_s / out.bound_s
        out.complete, out.expected = len(times), len(honest)
        size = scene.spans * scene.span_bytes
        out.seeder_copies = self.seeder.sent / size
        out.uplink_copies = self.crossed / size / scene.racks
        out.control += 2 * (out.busy + out.refused)
        out.control_per_node_s = out.control / scene.nodes / max(out.makespan_s, 1e-9)
        total = sum(n.sent for n in self.nodes.values())
        needed = sum(n.have.bit_count() for n in self.nodes.values() if n.core) * scene.span_bytes
        out.wasted = total / needed - 1 if needed else 0.0
        out.dropped_liars = len(self.liars_dropped)
        out.wall_s = time.perf_counter() - began
        return out

    # --- cores

    def tell(self, node: Node, event: Event) -> None:
        if not node.alive or node.core is None:
            return
        self.outcome.steps += 1
        for action in node.core.step(event, self.now):
            self.do(node, action)
        if node.done_at is None:
            wake = max(node.core.wake_at(), self.now + 0.001)
            if not self.now < node.wake <= wake:
                node.wake = wake
                self.after(wake - self.now, lambda: self._tick(node, wake))

    def _tick(self, node: Node, wake: float) -> None:
        if node.wake == wake:
            self.tell(node, Tick())

    def do(self, node: Node, action: Action) -> None:
        latency = self.scene.latency
        match action:
            case Poll(peer):
                self.after(latency, lambda: self.poll(node, peer))
            case AskAny(peer, wanted):
                self.after(latency, lambda: self.ask_any(node, self.nodes[peer.name], wanted))
            case Unfollow(name):
                self.nodes[name].wishes.pop(node.info.name, None)
                self.nodes[name].asking.pop(node.info.name, None)
                self.nodes[name].told.pop(node.info.name, None)
            case Request(peer):
                self.after(latency, lambda: self.ask(node, self.nodes[peer.name], action))
            case Cancel(name, span):
                self.cancel(node, self.nodes[name], span)
            case _:
                self.do_rare(node, action)

    def do_rare(self, node: Node, action: Action) -> None:
        latency = self.scene.latency
        match action:
            case Drop(peer, _):
                assert self.nodes[peer.name].liar, f"{peer.name} is honest and was dropped"
                self.liars_dropped.add(peer.name)
            case AskForPeers():
                self.after(latency, lambda: self.track(node))
            case Finished():
                node.done_at = self.now
                self.pending.discard(node.info.name)

    def track(self, node: Node) -> None:
        """Answer for the tracker."""
        if self.now >= self.scene.tracker_dies_s:
            return
        self.outcome.control += 2
        self.outcome.tracker += 1
        mates = self.racks[node.info.rack] if node.info.rack else []
        chosen = self.rng.sample(mates, min(HANDED_OUT // 2, len(mates)))
        chosen += self.rng.sample(self.names, min(HANDED_OUT - len(chosen), len(self.names)))
        peers = tuple(self.nodes[n].info for n in chosen if self.nodes[n].alive)
        self.after(self.scene.latency, lambda: self.tell(node, PeersSeen(peers)))

    def poll(self, node: Node, peer: PeerInfo) -> None:
        """Take the question what a peer has; it is answered when there is something new."""
        target = self.nodes[peer.name]
        if not target.alive:
            self.after(1.0, lambda: self.tell(node, PeerGone(peer.name)))
            return
        self.outcome.control += 2
        self.outcome.polls += 1
        name = node.info.name
        self.spoke(node, target)
        target.asking[name] = node
        if target.have & ~target.told.get(name, 0):
            self.answer_later(target, node)
        else:
            wait = self.scene.limits.have_wait_s
            self.after(wait, lambda: self.answer(target, node))

    def answer_later(self, target: Node, node: Node) -> None:
        """Answer a poll, but not sooner than the gap after the last answer allows."""
        gap = self.scene.limits.have_gap_s
        due = target.answered_at.get(node.info.name, -gap) + gap
        self.after(max(0.0, due - self.now), lambda: self.answer(target, node))

    def answer(self, target: Node, node: Node) -> None:
        """Answer a poll, with some peers that the target knows."""
        name, latency = node.info.name, self.scene.latency
        if target.asking.pop(name, None) is None or not target.alive:
            return
        first = name not in target.answered_at
        target.answered_at[name] = self.now
        target.told[name] = target.have
        origin = target.admission.origin
        event = PeerHave(target.info.name, target.have, replaces=True, origin=origin)
        self.after(latency, lambda: self.tell(node, event))
        if first:
            known = [info for info in target.met.values() if info.name != name]
            known += target.core.peers if target.core else ()
            told = tuple(self.rng.sample(known, min(8, len(known))))
            self.after(latency, lambda: self.tell(node, PeersSeen(told)))

    def spoke(self, node: Node, target: Node) -> None:
        """Let a peer know who asks it, and what is new there."""
        target.met[node.info.name] = node.info
        target.admission.saw(node.info.name, self.now)
        news = node.have & ~node.told.get(target.info.name, 0)
        if target.core is None or target.done_at is not None:
            return
        if news or target.info.name not in node.told:
            node.told[target.info.name] = node.have
            self.tell(target, PeerSpoke(node.info, news))

    def news(self, node: Node, peer: Node) -> None:
        """Tell what is new at `peer` with its answer to a request of `node`."""
        name = node.info.name
        news = peer.have & ~peer.told.get(name, 0)
        if news:
            peer.told[name] = peer.have
            event = PeerNews(peer.info.name, news)
            self.after(self.scene.latency, lambda: self.tell(node, event))

    # --- spans

    def fail(self, node: Node, event: SpanFailed, delay: float) -> None:
        self.after(delay, lambda: self.tell(node, event))

    def ask(self, node: Node, peer: Node, request: Request) -> None:
        span, urgent = request.span, request.urgent
        name, latency = peer.info.name, self.scene.latency
        if not peer.alive:
            self.fail(node, SpanFailed(name, span, Failure.TIMEOUT), 1.0)
            return
        if not peer.have >> span & 1:
            self.fail(node, SpanFailed(name, span, Failure.MISSING), latency)
            return
        client = node.info.name
        self.spoke(node, peer)
        if (client, span) in peer.served:
            self.outcome.repeated += 1
        match peer.admission.ask(client, span, urgent=urgent, now=self.now):
            case Verdict.SERVE:
                self.start(peer, node, span)
            case Verdict.WAIT:
                peer.waiting[client, span] = at = self.now
                wait = self.scene.limits.upload_queue_s
                self.after(wait, lambda: self.expire(peer, node, span, at))
            case Verdict.BUSY:
                self.outcome.busy += 1
                self.fail(node, SpanFailed(name, span, Failure.BUSY, 0.02), latency)
            case Verdict.REFUSED:
                self.outcome.refused += 1
                holder = self.nodes[peer.admission.holder(span) or ""].info
                event = SpanFailed(name, span, Failure.REFUSED, 0.0, (holder,))
                self.fail(node, event, latency)

    def ask_any(self, node: Node, peer: Node, wanted: int) -> None:
        """Take a request for any of these spans; it waits until there is one."""
        if not peer.alive:
            self.after(1.0, lambda: self.tell(node, PeerGone(peer.info.name)))
            return
        name = node.info.name
        self.outcome.wishes += 1
        self.spoke(node, peer)
        peer.wishes[name] = (node, wanted)
        if peer.have & wanted:
            self.grant(peer, name)
        else:
            self.after(self.scene.limits.have_wait_s, lambda: self.nothing(peer, name, wanted))

    def grant(self, peer: Node, name: str) -> None:
        node, wanted = peer.wishes.pop(name)
        latency, limits = self.scene.latency, self.scene.limits
        found = peer.admission.fresh(peer.have & wanted)
        if not found:
            self.tell_nothing(peer, node)
            return
        span = random_span(found, self.rng)
        match peer.admission.ask(name, span, urgent=True, now=self.now):
            case Verdict.SERVE:
                self.start(peer, node, span, chosen=True)
            case Verdict.WAIT:
                peer.waiting[name, span] = at = self.now
                peer.chosen.add((name, span))
                self.after(limits.upload_queue_s, lambda: self.expire(peer, node, span, at))
            case _:
                self.outcome.busy += 1
                self.after(latency, lambda: self.tell(node, NothingChosen(peer.info.name, 0.05)))

    def nothing(self, peer: Node, name: str, wanted: int) -> None:
        if name in peer.wishes and peer.wishes[name][1] == wanted:
            node, _ = peer.wishes.pop(name)
            self.tell_nothing(peer, node)

    def tell_nothing(self, peer: Node, node: Node) -> None:
        self.outcome.control += 2
        event = NothingChosen(peer.info.name, none=True)
        self.after(self.scene.latency, lambda: self.tell(node, event))

    def expire(self, peer: Node, node: Node, span: int, at: float) -> None:
        key = (node.info.name, span)
        if peer.waiting.get(key) == at:
            del peer.waiting[key]
            peer.admission.give_up(*key)
            self.outcome.busy += 1
            if key in peer.chosen:
                peer.chosen.discard(key)
                self.tell(node, NothingChosen(peer.info.name, 0.05))
                return
            self.fail(node, SpanFailed(peer.info.name, span, Failure.BUSY), self.scene.latency)

    def start(self, peer: Node, node: Node, span: int, *, chosen: bool = False) -> None:
        if chosen or (node.info.name, span) in peer.chosen:
            peer.chosen.discard((node.info.name, span))
            event = SpanChosen(peer.info.name, span)
            self.after(0.0, lambda: self.tell(node, event))  # before its transfer can break
        breaks = self.rng.random() < self.scene.loss
        left = self.scene.span_bytes * (self.rng.random() if breaks else 1.0)
        flow = Flow(peer, node, span, left, breaks, at=self.now)
        if peer.info.rack != node.info.rack:
            flow.trunks = (self.trunks[peer.info.rack, True], self.trunks[node.info.rack, False])
            for trunk in flow.trunks:
                trunk.flows[flow] = None
                flow.cap = min(flow.cap, trunk.level)
        peer.sending[node.info.name, span] = flow
        node.receiving[peer.info.name, span] = flow
        peer.up.flows[flow] = node.down
        node.down.flows[flow] = peer.up
        self.share(peer, node)

    def share(self, source: Node, target: Node) -> None:
        """Share two link directions anew, and whatever that changes elsewhere."""
        work, touched = [source.up, target.down], {}
        for _ in range(RIPPLE):
            if not work:
                break
            link = work.pop(0)
            touched[id(link)] = link
            level = link.fair_level()
            if abs(level - link.level) > 0.05 * link.level:
                before, link.level = link.level, level
                lowest = min(before, level)
                work += [o for o in link.flows.values() if o.level > lowest and o not in work]
        for link in touched.values():
            for flow, other in link.flows.items():
                rate = min(link.level, other.level, flow.cap)
                if abs(rate - flow.rate) > 0.03 * flow.rate:
                    self.set_rate(flow, rate)

    def watch(self, trunk: Trunk) -> None:
        """Share a trunk that is full among its flows; look again as long as it is."""
        limits = [min(flow.source.up.level, flow.target.down.level) for flow in trunk.flows]
        level = fair_level(trunk.capacity, limits) if sum(limits) > trunk.capacity else math.inf
        trunk.level = level
        for flow in trunk.flows:
            flow.cap = min(one.level for one in flow.trunks)
            rate = min(flow.source.up.level, flow.target.down.level, flow.cap)
            if abs(rate - flow.rate) > 0.03 * flow.rate:
                self.set_rate(flow, rate)
        trunk.watched = level < math.inf
        if trunk.watched:
            self.after(TRUNK_S, lambda: self.watch(trunk))

    def carry(self, flow: Flow, more: float) -> None:
        """Count `more` bytes/s on the trunks that a flow passes."""
        for trunk in flow.trunks:
            trunk.load += more
            if trunk.load > trunk.capacity and not trunk.watched:
                trunk.watched = True
                self.after(0.0, lambda one=trunk: self.watch(one))

    def set_rate(self, flow: Flow, rate: float) -> None:
        self.settle(flow)
        if flow.trunks:
            self.carry(flow, rate - flow.rate)
        flow.rate = rate
        flow.ends = self.now + max(flow.left, 0.0) / rate
        if flow.ends < flow.wakes:  # else the event that is due looks again
            flow.version += 1
            self.wake(flow)

    def wake(self, flow: Flow) -> None:
        version, flow.wakes = flow.version, flow.ends
        self.after(flow.ends - self.now, lambda: self.ended(flow, version))

    def settle(self, flow: Flow) -> None:
        moved = flow.rate * (self.now - flow.at)
        flow.left -= moved
        flow.source.sent += moved
        if flow.trunks:
            self.crossed += moved
        flow.at = self.now

    def remove(self, flow: Flow, *, sent: bool) -> None:
        """End a transfer, and give its slot to the next."""
        self.settle(flow)
        flow.version = -1
        source, target = flow.source, flow.target
        del source.sending[target.info.name, flow.span]
        del target.receiving[source.info.name, flow.span]
        del source.up.flows[flow], target.down.flows[flow]
        self.carry(flow, -flow.rate)
        for trunk in flow.trunks:
            del trunk.flows[flow]
        self.share(source, target)
        following = source.admission.release(target.info.name, flow.span, sent=sent)
        while following is not None:
            waited = source.waiting.pop(following, None)
            if waited is not None and self.nodes[following[0]].alive:
                self.start(source, self.nodes[following[0]], following[1])
                return
            following = source.admission.release(*following, sent=False)

    def ended(self, flow: Flow, version: int) -> None:
        if flow.version != version:
            return
        if flow.ends > self.now:
            self.wake(flow)
            return
        source, target, name = flow.source, flow.target, flow.source.info.name
        self.news(target, source)
        self.remove(flow, sent=not flow.breaks)
        if flow.breaks:
            self.tell(target, SpanFailed(name, flow.span, Failure.GONE))
        elif source.liar:
            self.tell(target, SpanFailed(name, flow.span, Failure.BAD))
        else:
            source.served.add((target.info.name, flow.span))
            self.tell(target, SpanArrived(name, flow.span))
            self.after(self.scene.store_s, lambda: self.stored(target, flow.span))
        if source is self.seeder and self.scene.seeder_dies_after_copy and self.copied():
            self.kill(source)

    def copied(self) -> bool:
        together = 0
        for node in self.nodes.values():
            if node.core is not None and not node.liar:
                together |= node.have
        return together == full(self.scene.spans)

    def cancel(self, node: Node, peer: Node, span: int) -> None:
        key = (node.info.name, span)
        flow = peer.sending.get(key)
        if flow is not None:
            self.remove(flow, sent=False)
        elif peer.waiting.pop(key, None) is not None:
            peer.admission.give_up(*key)

    def stored(self, node: Node, span: int) -> None:
        node.have |= 1 << span
        for name in [n for n, (_, wanted) in node.wishes.items() if wanted >> span & 1]:
            self.grant(node, name)
        for asker in tuple(node.asking.values()):
            if not node.have & ~node.told.get(asker.info.name, 0) & ~(1 << span):
                self.answer_later(node, asker)  # else it is on its way already

    def kill(self, node: Node) -> None:
        """Pull the plug."""
        node.alive = False
        self.pending.discard(node.info.name)
        name = node.info.name
        for flow in tuple(node.sending.values()):
            self.remove(flow, sent=False)
            self.fail(flow.target, SpanFailed(name, flow.span, Failure.TIMEOUT), 5.0)
        for flow in tuple(node.receiving.values()):
            self.remove(flow, sent=False)
        for asker in tuple(node.asking.values()):
            self.after(5.0, lambda f=asker: self.tell(f, PeerGone(name)))


SHARES = {
    "loss": (0.0, "share of the transfers that break on the way"),
    "liars": (0.002, "share of the nodes that send bad frames"),
    "killed": (0.01, "share of the nodes that crash on the way"),
    "slow": (0.0, "share of the nodes with a tenth of the rate"),
    "uneven": (0.2, "links differ by so much of the rate, each way"),
}


def simulate(scene: Scene) -> Outcome:
    """Run one scene to its end."""
    return Simulation(scene).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--spans", type=int, default=256, help="of 4 MiB [256]")
    parser.add_argument("--racks", type=int, default=1)
    for name, (share, says) in SHARES.items():
        text = f"{says} [{share:g}]"
        parser.add_argument(f"--{name}", type=float, default=share, metavar="P", help=text)
    text = "of a rack, in rates of a node [8]"
    parser.add_argument("--uplink", type=float, default=8.0, metavar="X", help=text)
    text = "when the tracker dies [10]"
    parser.add_argument("--tracker-dies-s", type=float, default=10.0, metavar="S", help=text)
    parser.add_argument("--seeder-dies-after-copy", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON line")
    args = vars(parser.parse_args())
    as_json = args.pop("json")
    importers.weights = functools.cache(importers.weights)  # of 10,000 nodes, 40 times each
    gc.disable()  # almost nothing here is in a cycle, and it looks at all of it again and again
    outcome = asdict(simulate(Scene(**args)))
    if as_json:
        print(json.dumps({"work": "simulate", **args, **outcome}))
        return
    for name, value in outcome.items():
        print(f"{name:14} {value:.3f}" if isinstance(value, float) else f"{name:14} {value}")


if __name__ == "__main__":
    main()
