"""How a fetch goes, and what it waits for: enough to say why a node is slow. Pure."""

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

# A control message is a request or an answer that moves no frame: the question what a peer has and
# its answer, a request for a span that is answered with 404 or 429 (two), a question for peers to
# the tracker (two). What a peer has, told beside a span, is none; nor is a request that brought
# frames. The node that asks counts both. The simulation counts the same.


_LEAST_S = 0.05  # less is not told


class Wait(StrEnum):
    """What holds a fetch up right now."""

    NOTHING = "nothing"  # it is complete
    DISK = "disk"  # as much was checked as may wait to be stored
    PAUSE = "pause"  # an operator paused the swarm
    LIMIT = "limit"  # the download rate that this node was given
    CPU = "cpu"  # spans are here and not checked yet
    PEER = "peer"  # nobody gives what is missing, or all are busy
    LINK = "link"  # bytes come as fast as the links and the peers send them


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchStatistics:
    """One moment of a fetch."""

    missing_spans: int
    bytes_per_s: float  # of the last second or so
    bytes_from: dict[str, int]  # peer: good bytes since the fetch began
    neighbours: int
    asked: int  # requests that are on their way
    unchecked: int  # spans that came and are not checked yet
    unstored_bytes: int  # checked, not durable yet
    unstored_max: int  # bytes; then no more is asked for
    limited: int  # requests that wait for the download rate
    paused: bool
    control: int  # messages beside spans, as told above
    failures: dict[str, int]  # kind of failure: how often
    expected: int = 0  # spans that a feed, such as multicast, will bring

    def wait(self) -> Wait:
        """Say what holds it up: of what applies, the first in the order of the data's way back."""
        if not self.missing_spans and not self.unstored_bytes:
            return Wait.NOTHING
        if self.paused:
            return Wait.PAUSE
        if self.unstored_bytes > self.unstored_max or not self.missing_spans:
            return Wait.DISK
        if self.limited:
            return Wait.LIMIT
        if self.unchecked and 2 * self.unchecked >= self.asked:
            return Wait.CPU
        return Wait.LINK if self.asked or self.expected else Wait.PEER

    def to_json(self) -> dict[str, Any]:
        """Return what machines read: whole numbers, and the word for what it waits for."""
        return {
            "waits_for": self.wait().value,
            "missing_spans": self.missing_spans,
            "bytes_per_s": round(self.bytes_per_s),
            "from": dict(self.bytes_from),
            "neighbours": self.neighbours,
            "asked": self.asked,
            "expected": self.expected,
            "unstored_bytes": self.unstored_bytes,
            "control_messages": self.control,
            "failures": dict(self.failures),
        }


class Waited:
    """How long a fetch waited for what: its disk, its link, its peers, its CPU.

    It is looked at now and then; what holds it up at a look counts for the time since the last one.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._at: float | None = None
        self._seconds: defaultdict[Wait, float] = defaultdict(float)

    def look(self, wait: Wait, now: float) -> None:
        """Take note of what holds the fetch up at `now`, in seconds."""
        if self._at is not None:
            self._seconds[wait] += now - self._at
        self._at = now

    def to_json(self) -> dict[str, int]:
        """Return the milliseconds for each thing waited for, the longest first."""
        longest = sorted(self._seconds.items(), key=lambda pair: -pair[1])
        return {wait.value: round(1000 * s) for wait, s in longest if s >= _LEAST_S}


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
