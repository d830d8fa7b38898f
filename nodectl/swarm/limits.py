"""Every number of the swarm in one frozen record: with its unit, and why it is what it is.

Pure; both the state machines (core, admission) and the network parts read it.
"""

import math
from dataclasses import dataclass

from nodectl.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much, how long, how many."""

    # Neighbours. The degree must exceed ln N, or islands form (200 peers with degree 5 did).
    neighbours_min: int = 12
    neighbours_first: int = 6  # chosen at once; the others come by choosing this node
    seed_followers: int = 16  # nodes of a swarm that follow one that has everything, about
    neighbours_outside: int = 3  # of another rack, where racks are known
    neighbours_outside_share: float = 0.3  # of all neighbours; about 70 % stay in the rack

    # A span comes into a rack once: one node brings it in, and others only if that takes too long.
    import_s: float = 1.0  # seconds at least for this
    import_spans: float = 6.0  # and so many times what nine of ten spans take (2: 1.6 copies)
    import_second: float = 1.1  # a node with nothing to do imports as second, up to so many shares
    import_idle_s: float = 1.0  # a node to which nobody gives anything asks outside after this

    # Windows of one node that fetches, in bytes: what a fast network needs, and no more than a
    # slow one carries in `window_s`, since a span can be passed on only when it is complete.
    window_s: float = 0.1  # seconds of the observed rate
    window_min_spans: int = 8  # spans, at least: over several neighbours, whatever the rate
    window_gain: float = 0.5  # spans more for each span that a node is behind its neighbours
    window_max_bytes: int = 16 * MIB
    peer_requests_min: int = 2  # so that the next answer is ready when one ends
    peer_requests_max: int = 8  # connections to one peer, at most
    rate_tau_s: float = 1.0  # seconds over which the rate is averaged

    # Time, in seconds.
    connect_s: float = 1.0  # a dead machine must cost no more (users met 30 s)
    progress_s: float = 5.0  # without one byte
    span_s: float = 120.0  # one span altogether; stops a peer that drips, keeps what it gave
    hedge_factor: float = 2.0  # times the 90th percentile of span times: then ask another, too
    race_factor: float = 1.0  # the same for the last spans, when there is nothing else to ask
    hedge_min_s: float = 0.2
    anys_max: int = 4  # requests at one time for any span, of peers that seem to have none for us
    copies_max: int = 2  # requests of one span at one time
    busy_first_s: float = 0.02  # after 429; doubles with each
    busy_max_s: float = 1.0
    refused_s: float = 0.5  # a seeder that sent the span to somebody else is not asked before
    broken_first_s: float = 0.1  # after a connection that broke; doubles with each
    dead_first_s: float = 1.0  # before a lost neighbour is tried again; doubles with each
    dead_max_s: float = 30.0
    failures_max: int = 3  # in a row: then another neighbour takes the place
    missing_max: int = 8  # spans announced and then not there: dropped
    starving_s: float = 0.5  # nothing to ask anyone for: then look for another neighbour
    ask_first_s: float = 0.2  # between questions for peers; doubles while none is new
    ask_max_s: float = 30.0
    stall_s: float = 600.0  # nothing came from anybody: give up, keep what is here

    # The side that serves.
    upload_slots: int = 5  # spans sent at one time: the fewer, the sooner each is passed on
    upload_queue: int = 16  # requests that wait for a slot; the next gets 429 at once
    upload_reserve: int = 1  # slots, and places of the queue, that one client among others has not
    upload_queue_s: float = 3.0  # seconds in the queue, at most; well under `progress_s`
    send_s: float = 10.0  # until a client took 128 KiB; then its slot goes to another
    holder_s: float = 15.0  # a client not seen for so long no longer counts as holding a span
    have_gap_s: float = 0.15  # seconds between two answers to one client that asks what is here
    have_wait_s: float = 30.0  # such a question is answered after this, news or not
    have_polls_max: int = 4096  # long polls at one time
    peers_told: int = 24  # peers named in one answer
    peers_known: int = 10_000  # peers remembered
    upload_rate: int | None = None  # bytes/s of spans; None: no limit
    download_rate: int | None = None  # bytes/s of spans; None: no limit

    # Passing on. What came last is what others lack: it is served from memory.
    warm_bytes: int = 16 * MIB  # kept after it was stored; what is not stored yet counts, too

    # Storing. One durable write for all that came while the last one ran.
    store_gap_s: float = 0.2  # seconds between two durable writes, unless there is much
    store_batch_bytes: int = 8 * MIB  # this much is written without waiting for the gap
    store_queue_bytes: int = 16 * MIB  # checked and not yet stored; then the network waits

    def neighbours(self, peers: int) -> int:
        """Return how many neighbours a node wants where `peers` others are known."""
        return max(self.neighbours_min, math.ceil(2 * math.log(max(peers, 1))))
