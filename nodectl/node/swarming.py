"""The swarm on this node, as the agent wants it: one peer server and its fetches over one store."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from nodectl.errors import SwarmStalled
from nodectl.events import Observer
from nodectl.ids import Root
from nodectl.listen import Address
from nodectl.node.agent import Holding, Swarm
from nodectl.node.client import Peer
from nodectl.node.state import HeldRoot, StateFolder


class _NoSwarm:
    async def seed(self, held: HeldRoot) -> None:
        """Nothing is served."""

    async def fetch(
        self, held: HeldRoot, _peers: Sequence[Peer], _observer: Observer
    ) -> Mapping[str, Any]:
        """Nothing comes."""
        raise SwarmStalled(f"nothing of {held.name} came")

    def meet(self, root: Root, peers: Sequence[Peer]) -> None:
        """Nobody is met."""

    def holding(self, _root: Root) -> Holding:
        """Nothing is here."""
        return Holding(have_bytes=0, complete=False)


@contextlib.asynccontextmanager
async def open_swarm(_state: StateFolder, listen: Address) -> AsyncIterator[tuple[Swarm, Address]]:
    """Serve the store to peers while the context lasts; yields the swarm and where it listens.

    Raises:
        PortInUse: the address is taken.
    """
    yield _NoSwarm(), listen
