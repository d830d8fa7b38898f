"""How a fetch goes, and what it waits for: enough to say why a node is slow. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Wait(StrEnum):
    """What holds a fetch up right now."""

    NOTHING = "nothing"  # it is complete
    DISK = "disk"  # as much was checked as may wait to be stored
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
    failures: dict[str, int]  # kind of failure: how often
    expected: int = 0  # spans that a feed, such as multicast, will bring

    def wait(self) -> Wait:
        """Say what holds it up: of what applies, the first in the order of the data's way back."""
        if not self.missing_spans and not self.unstored_bytes:
            return Wait.NOTHING
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
            "failures": dict(self.failures),
        }
