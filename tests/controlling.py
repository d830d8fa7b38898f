"""A controller and members for tests: real HTTPS on loopback, in the test's own event loop."""

import asyncio
import contextlib
import dataclasses
import random
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.cli.realm import make_controller
from nodectl.controller.api import Clocks
from nodectl.controller.jobs import Patience
from nodectl.controller.members import Members
from nodectl.controller.serve import BootWish, control_server
from nodectl.door import DoorLimits
from nodectl.events import Event, Observer, StepProgress
from nodectl.ids import Root
from nodectl.listen import Address
from nodectl.multicast.datagram import Session
from nodectl.node.agent import Holding
from nodectl.node.client import ControlClient, Limits, Peer
from nodectl.node.join import join
from nodectl.node.state import HeldRoot, Membership, StateFolder
from nodectl.swarm.terms import Terms
from nodectl.trust.realm import load_realm
from nodectl.trust.token import Role, Token

T = TypeVar("T")

LIMITS = Limits(connect_s=5, answer_s=10)
ROOT_BLOCK = b"a root block of a test"
ROOT = Root(blake3(ROOT_BLOCK).digest())


def run_async(main: Coroutine[Any, Any, T], *, within_s: float = 60) -> T:
    """Run a test's coroutine, bounded in time."""

    async def bounded() -> T:
        async with asyncio.timeout(within_s):
            return await main

    return asyncio.run(bounded())


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A controller that runs."""

    state: StateFolder
    url: str
    port: int

    def token(self, *, role: Role = Role.NODE, ttl_s: int = 600, uses: int = 1) -> Token:
        """Issue a token as `nodectl token create` does."""
        realm = load_realm(self.state.realm)
        with SqliteCatalog(self.state.catalog) as catalog:
            members = Members(catalog, realm, time.time)
            return members.issue_token((self.url,), role=role, ttl_s=ttl_s, uses=uses)

    def operator(self, *, now: Callable[[], float] = time.time) -> ControlClient:
        """Return a client for the machine that made the realm."""
        membership = dataclasses.replace(self.state.membership(), controllers=(self.url,))
        return ControlClient(membership, limits=LIMITS, now=now)

    async def member(self, folder: Path, name: str, *, role: Role = Role.NODE) -> Membership:
        """Let a new node join."""
        return await join(StateFolder(folder), self.token(role=role), name=name, limits=LIMITS)


def new_controller(folder: Path, *, realm_name: str = "lab") -> StateFolder:
    """Make a realm whose first node is `c`."""
    make_controller(folder, realm_name=realm_name, node="c", listen="127.0.0.1:0")
    return StateFolder(folder)


@contextlib.asynccontextmanager
async def running(
    state: StateFolder,
    *,
    port: int = 0,
    patience: Patience | None = None,
    now: Callable[[], float] = time.time,
    door: DoorLimits | None = None,
    boot: BootWish | None = None,
) -> AsyncIterator[Controller]:
    """Run the controller of a state folder."""
    clocks = Clocks(now=now, rng=random.Random(1))
    with SqliteCatalog(state.catalog) as catalog:
        async with control_server(
            catalog,
            state.realm,
            Address("127.0.0.1", port),
            clocks=clocks,
            patience=patience,
            door=door,
            boot=boot,
        ) as bound:
            yield Controller(state=state, url=bound.url("https"), port=bound.port)


class Recorder:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on(self, event: Event) -> None:
        self.events.append(event)


class FakeSwarm:
    """A swarm in which everything comes at once, when the gate is open."""

    def __init__(self) -> None:
        self.stored: set[Root] = set()
        self.roots: dict[Root, Holding] = {}
        self.met: list[Peer] = []
        self.seeds: list[Path | None] = []
        self.met_at: set[Root] = set()
        self.fetched: list[str] = []
        self.sessions: list[Session | None] = []
        self.keys: dict[Root, bytes] = {}
        self.terms: dict[Root, Terms] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def seed(self, held: HeldRoot) -> None:
        complete = held.root in self.stored
        self.roots[held.root] = Holding(have_bytes=10 * complete, complete=complete)

    async def fetch(
        self,
        held: HeldRoot,
        peers: Sequence[Peer],
        observer: Observer,
        *,
        multicast: Session | None = None,
        seed: Path | None = None,
    ) -> Mapping[str, Any]:
        self.sessions.append(multicast)
        self.seeds.append(seed)
        self.met.extend(peers)
        observer.on(StepProgress(step="fetch", done=5, total=10))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.fetched.append(f"{held.name} {held.generation}")
        self.stored.add(held.root)
        await self.seed(held)
        return {"sealed_bytes": 10, "seconds": 0.1, "from": {"c": 10}}

    async def send(
        self, root_id: Root, session: Session, ready: Awaitable[Collection[str]]
    ) -> Mapping[str, Any]:
        self.sessions.append(session)
        return {"root": root_id.hex(), "listening": sorted(await ready)}

    def meet(self, root: Root, peers: Sequence[Peer]) -> None:
        self.met.extend(peers)
        self.met_at.add(root)

    def drop(self, root: Root) -> None:
        del self.roots[root]

    def rekey(self, root: Root, key: bytes) -> bool:
        return self.keys.get(root) != self.keys.setdefault(root, key)

    def agree(self, root: Root, terms: Terms) -> None:
        self.terms[root] = terms

    def holding(self, root: Root) -> Holding:
        return self.roots.get(root, Holding(have_bytes=0, complete=False))
