"""The key of a swarm, which changes when a node is removed from the realm.

The controller hands the new key to every node that is still a member, with its next announcement.
The key before it counts for `OVERLAP_S` more, so that nodes which hear of it at different moments
go on without a break; after that a removed node reaches nothing. Where the controller is gone
nobody learns a new key, and the swarm goes on with the one it has.
"""

import time
from collections.abc import Callable

OVERLAP_S = 30.0  # with an announcement every 5 s, a removed node is out well within a minute


class SwarmKeys:
    """The present key of one swarm, and for a while the one before it; each 32 bytes."""

    __slots__ = ("_clock", "_previous", "_until", "current")

    def __init__(self, key: bytes, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with one key; `clock` counts seconds."""
        self.current = key
        self._previous = key
        self._until = 0.0
        self._clock = clock

    def change(self, key: bytes) -> bool:
        """Sign with another key from now on; say whether it is another one."""
        if key == self.current:
            return False
        self._previous, self.current = self.current, key
        self._until = self._clock() + OVERLAP_S
        return True

    def accepted(self) -> tuple[bytes, ...]:
        """Return the keys that count now, the present one first."""
        if self._previous != self.current and self._clock() < self._until:
            return (self.current, self._previous)
        return (self.current,)
