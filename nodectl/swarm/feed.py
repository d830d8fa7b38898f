"""What brings spans unasked, beside the peers that are asked: the form that `client.fetch` takes.

Multicast is such a feed. What it is about to bring is not asked of peers meanwhile; what it did not
bring is. Nothing depends on it: a feed that ends, or never begins, leaves everything to the swarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Brought:
    """One span, or a part of it: not checked yet."""

    span: int
    body: memoryview  # of the whole span; only the frames of `indexes` are there
    indexes: Sequence[int]  # of the frames that came whole, ascending


class Feed(Protocol):
    """Somebody who brings spans."""

    name: str  # under which its bytes are counted; no node can have it

    @property
    def expected(self) -> int:
        """The set of spans that it will bring still."""
        ...

    async def more(self) -> Sequence[Brought] | None:
        """Wait until something came or `expected` changed; None: nothing will come any more."""
        ...
