"""The agent of a node: asks the controller for work, does it, and reports.

It goes on with what it has when no controller answers, and reports when one does again. Every root
that the node holds or fetches is served to others, and announced to the tracker; after a restart
that goes on with what `StateFolder.held_roots` remembers.

One fetch or restore at a time, in the order of the jobs; seeding needs no turn.
"""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blake3 import blake3

from nodectl.catalog.records import Job, Task
from nodectl.errors import (
    ContentInvalid,
    ControllerUnreachable,
    FrameMissing,
    NodectlError,
    OlderRelease,
    RestoreFailed,
    UnknownImage,
)
from nodectl.events import Observer, StepStarted
from nodectl.ids import Root
from nodectl.multicast.datagram import Session
from nodectl.node.client import Assigned, ControlClient, Peer, Peers
from nodectl.node.multicasting import MULTICAST_STEP, gathered, session_of
from nodectl.node.ordered import check_order
from nodectl.node.renew import renew
from nodectl.node.report import Pace, Reporter
from nodectl.node.restore import RestoreArgv, run_restore, target_of
from nodectl.node.retention import last_of_each
from nodectl.node.state import HeldRoot, Membership, StateFolder
from nodectl.store.lease import lease
from nodectl.swarm.terms import Terms
from nodectl.trust.publisher import trusted_keys
from nodectl.trust.release import Release, verify_release

log = logging.getLogger(__name__)

_POLL_S = 20.0  # how long the controller may hold a request for work
_OFFERED_MAX = 8  # generations of one image at a time: those that jobs named last
_ANNOUNCE_S = 5.0  # while no tracker says otherwise
_ENOUGH_PEERS = 12  # as many as a node wants as neighbours
_HUNGRY_S = 1.0  # between announcements of a node that lacks frames and knows fewer peers
_FORGOTTEN_S = 600.0  # between announcements of a root whose release the controller has not
_ALONE_S = 0.1  # between questions of one that begins and knows no seeder
_BUG_LINES = 8

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """How much of a root is here."""

    have_bytes: int  # sealed bytes
    complete: bool
    fetch: Mapping[str, Any] | None = None  # how it goes, while it is fetched: JSON values


class Swarm(Protocol):
    """The swarm as the agent sees it: its peer server and its fetches share one store."""

    async def seed(self, held: HeldRoot) -> None:
        """Offer to others what the store holds of a root, until the process ends.

        Raises:
            ContentInvalid: the root block is not the root's.
        """
        ...

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

        Returns the receipt: JSON values such as `sealed_bytes`, and `from` (node to bytes).

        Raises:
            SwarmStalled: no peer gave anything for too long; what was fetched is kept.
        """
        ...

    async def send(
        self, root_id: Root, session: Session, ready: Awaitable[Collection[str]]
    ) -> Mapping[str, Any]:
        """Send a root by multicast when `ready` says who listens; return the receipt."""
        ...

    def meet(self, root: Root, peers: Sequence[Peer]) -> None:
        """Take note of peers that the tracker named."""
        ...

    def drop(self, root: Root) -> None:
        """Serve a root no more; it is not being fetched."""
        ...

    def rekey(self, root: Root, key: bytes) -> bool:
        """Take note of a swarm's present key; say whether it is another one."""
        ...

    def agree(self, root: Root, terms: Terms) -> None:
        """Keep to the terms of a swarm."""

    def holding(self, root: Root) -> Holding:
        """Return how much of a root that is seeded or fetched is here."""
        ...


class Agent:
    """What `nodectl serve` does for the controller on this node."""

    def __init__(
        self,
        state: StateFolder,
        client: ControlClient,
        swarm: Swarm,
        *,
        peer_url: str,
        restore_argv: RestoreArgv,
        pace: Pace | None = None,
    ) -> None:
        """Work for the member whose state this is; others reach its peer server at `peer_url`."""
        self._state = state
        self._membership: Membership = state.membership()
        self._client = client
        self._swarm = swarm
        self._peer_url = peer_url
        self._restore_argv = restore_argv
        self._pace = pace or Pace()
        self._roots: dict[Root, str] = {}  # offered, with the image's name; the last one at the end
        self._looked_at: set[Root] = set()  # held, and offered once if they were to be
        self._fetching: set[Root] = set()
        self._forgotten: dict[Root, float] = {}  # loop time at which to announce it again
        self._turn = asyncio.Semaphore(1)
        self._news = asyncio.Event()  # something is worth announcing at once

    async def run(self) -> None:
        """Serve what is held, and work, until cancelled."""
        async with asyncio.TaskGroup() as group:
            await self._offer_new(self._state.held_roots())
            group.create_task(self._announce_forever())
            await self._poll_forever(group)

    # --- work --------------------------------------------------------------------------------

    async def _poll_forever(self, group: asyncio.TaskGroup) -> None:
        since, pause_s = 0, self._pace.retry_first_s
        while True:
            try:
                for assigned in await self._client.work(since=since, wait_s=_POLL_S):
                    since = max(since, assigned.job.job_id)
                    group.create_task(self._do(assigned))
                if self._client.renewal_due:
                    await renew(self._state, self._client)
                    self._membership = self._client.membership
                pause_s = self._pace.retry_first_s
            except NodectlError as exc:
                log.warning("asking for work: %s; again in %g s", exc, pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._pace.retry_most_s)

    async def _do(self, assigned: Assigned) -> None:
        """Do one work and report it; a failure of it is a report, never the end of the agent."""
        job = assigned.job
        reporter = Reporter(
            self._client,
            job.job_id,
            pace=self._pace,
            speakers=len(job.nodes),
            fetch=lambda: self._swarm.holding(job.root).fetch,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(reporter.run())
            try:
                reporter.succeed(await self._receipt(assigned, reporter))
            except RestoreFailed as exc:
                reporter.fail(str(exc), exc.lines)
            except NodectlError as exc:
                reporter.fail(f"{exc} ({exc.hint})" if exc.hint else str(exc))
            except OSError as exc:
                where = f": {exc.filename}" if exc.filename else ""
                reporter.fail(f"{exc.strerror or type(exc).__name__}{where}")
            except Exception as exc:  # the supervisor of one job may not end the others
                log.exception("job %s failed in an unforeseen way", job.job_id)
                lines = traceback.format_exception(exc)
                reporter.fail(f"an error of nodectl itself: {exc!r}", tuple(lines[-_BUG_LINES:]))

    async def _receipt(self, assigned: Assigned, observer: Observer) -> dict[str, Any]:
        self._check_order(assigned)
        if assigned.work.task is Task.SEED:
            return await self._seed(assigned.job, observer)
        async with self._turn:
            self._fetching.add(assigned.job.root)
            try:
                with lease(self._state.store):
                    return await self._fetch_or_restore(assigned, observer)
            finally:
                self._fetching.discard(assigned.job.root)

    def _check_order(self, assigned: Assigned) -> None:
        check_order(self._membership, assigned, now=self._client.now_ms() / 1000)

    async def _seed(self, job: Job, observer: Observer) -> dict[str, Any]:
        held, _, _ = await self._held_root(job, observer)
        observer.on(StepStarted(step="seed"))
        await self._offer(held)
        holding = self._swarm.holding(held.root)
        if not holding.complete:
            raise FrameMissing(f"{self._membership.node} does not hold all frames of {job.name}")
        self._state.hold_root(replace(held, complete=True))
        self._news.set()
        return {"have_bytes": holding.have_bytes, **await self._multicast(job, observer)}

    async def _multicast(self, job: Job, observer: Observer) -> dict[str, Any]:
        """Send a root to the session of its job, where it has one; return what was sent."""
        session = session_of(job)
        if session is None:
            return {}
        observer.on(StepStarted(step=MULTICAST_STEP))
        ready = gathered(self._client, job, session)
        return {"multicast": dict(await self._swarm.send(job.root, session, ready))}

    async def _fetch_or_restore(self, assigned: Assigned, observer: Observer) -> dict[str, Any]:
        job, work, _ = assigned
        held, peers, origin = await self._held_root(job, observer)
        await self._offer(held)
        if not _has_seeder(peers):
            peers = await self._first_peers(held.root)
        self._news.set()
        observer.on(StepStarted(step="fetch"))
        seed = target_of(job, self._membership.node) if work.task is Task.RESTORE else None
        session = session_of(job)
        fetching = self._swarm.fetch(held, peers, observer, multicast=session, seed=seed)
        receipt = dict(await fetching)
        self._state.hold_root(replace(held, complete=True))
        self._news.set()
        if origin == self._membership.node:  # it is among the nodes of the job: it sends, too
            receipt |= await self._multicast(job, observer)
        receipt |= {"root": held.root.hex(), "generation": held.generation}
        if work.task is Task.RESTORE:
            self._check_order(assigned)  # it may have waited long for its turn and its frames
            observer.on(StepStarted(step="restore"))
            receipt["restore"] = await run_restore(self._restore_argv, job, self._state, observer)
        return receipt

    async def _first_peers(self, root: Root) -> tuple[Peer, ...]:
        """Ask the tracker until it knows a seeder, but not long.

        The seeder is told of the job at the same moment as this node: it is there in an instant,
        or something is wrong with it.
        """
        peers: tuple[Peer, ...] = ()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._pace.seeder_within_s
        while not self._swarm.holding(root).complete and loop.time() < until:
            peers = (await self._announce(root)).peers
            if _has_seeder(peers):
                break
            await asyncio.sleep(_ALONE_S)
        return peers

    async def _held_root(
        self, job: Job, observer: Observer
    ) -> tuple[HeldRoot, tuple[Peer, ...], str]:
        """Get the release and the ticket of a job, check them, and remember the root.

        Returns it with the peers that hold it and the name of the node that published it.
        """
        observer.on(StepStarted(step="ticket"))
        told = await self._patiently(self._client.publishers)
        self._membership = self._state.pin_publishers(told)
        record = await self._patiently(lambda: self._client.release(job.name, job.generation))
        release = self._checked_release(job, record.signed.to_json())
        ticket = await self._patiently(lambda: self._client.ticket(release.root))
        if blake3(ticket.root_block).digest() != release.root:
            raise ContentInvalid(f"the root block of {job.name} is not the one of its release")
        held = HeldRoot(
            root=release.root,
            swarm_key=ticket.swarm_key,
            name=release.name,
            generation=release.generation,
            root_block=ticket.root_block,
            complete=False,
        )
        self._state.hold_root(held)
        return held, ticket.peers, record.origin

    def _checked_release(self, job: Job, document: Mapping[str, Any]) -> Release:
        """Return the release of a job if it is signed, meant, and not older than one seen.

        Raises:
            ContentInvalid: the signature is wrong, or it is another release than the job names.
            OlderRelease: this node has seen a later generation.
        """
        signed = verify_release(
            document,
            realm=self._membership.realm_id,
            publishers=trusted_keys(self._membership.publishers, self._client.now_ms() / 1000),
        )
        release = signed.release
        if (release.name, release.root) != (job.name, job.root):
            raise ContentInvalid(f"job {job.job_id} and the release of {job.name} do not agree")
        seen = self._state.seen_generation(release.name)
        allowed = job.options.get("allow_rollback") is True
        if release.generation < seen and not allowed:
            raise OlderRelease(
                f"generation {release.generation} of {release.name} is older than {seen}, "
                "which this node has seen",
                hint="--allow-rollback goes back on purpose",
            )
        self._state.see_generation(release.name, release.generation, allow_older=allowed)
        return release

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the controller until it answers."""
        pause_s = self._pace.retry_first_s
        while True:
            try:
                return await ask()
            except ControllerUnreachable as exc:
                log.info("%s; again in %g s", exc, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pace.retry_most_s)

    # --- announcing --------------------------------------------------------------------------

    async def _offer(self, held: HeldRoot) -> None:
        """Serve a root to others, and announce it from now on."""
        await self._swarm.seed(held)
        self._roots.pop(held.root, None)
        self._roots[held.root] = held.name
        self._forgotten.pop(held.root, None)

    async def _offer_new(self, known: Sequence[HeldRoot]) -> None:
        """Serve what came to be held, captured by now too; one bad root hides no other."""
        held_roots = sorted(known, key=lambda held: held.generation)
        kept = last_of_each({held.root: held.name for held in held_roots}, _OFFERED_MAX)
        new = kept - self._looked_at - self._roots.keys() - self._fetching
        self._looked_at = {held.root for held in held_roots}
        for held in [held for held in held_roots if held.root in new]:
            try:
                await self._offer(held)
            except NodectlError as exc:
                log.warning("cannot serve %s (%s): %s", held.name, held.root.hex()[:16], exc)

    async def _announce_forever(self) -> None:
        """Announce every root at once when there is news, else every interval.

        Who lacks something and knows few peers asks more often: a swarm begins at once. A root
        whose release was deleted is kept, and served to who knows of it, but hardly ever announced.
        """
        now = asyncio.get_running_loop().time
        while True:
            self._news.clear()
            held_roots = self._state.held_roots()
            self._drop_outdated(held_roots)  # before anything waits, and a job adds to them
            await self._offer_new(held_roots)
            interval_s = _ANNOUNCE_S
            for root in [one for one in self._roots if self._forgotten.get(one, 0.0) <= now()]:
                interval_s = min(interval_s, self._interval(root, await self._announce(root)))
            try:
                async with asyncio.timeout(interval_s):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _drop_outdated(self, known: Sequence[HeldRoot]) -> None:
        """Serve no more what this node's state holds no more, nor all that was captured here.

        Else a node that runs for months would keep in memory, and announce, each generation that
        ever was. One that a job names is offered again.
        """
        held = {one.root for one in known}
        kept = (held & last_of_each(self._roots, _OFFERED_MAX)) | self._fetching
        for root in [root for root in self._roots if root not in kept]:
            self._swarm.drop(root)
            del self._roots[root]
            self._forgotten.pop(root, None)

    async def _announce(self, root: Root) -> Peers:
        """Announce one root and meet the peers that the tracker names, if it answers."""
        holding = self._swarm.holding(root)
        try:
            answer = await self._client.announce(
                root,
                url=self._peer_url,
                have_bytes=holding.have_bytes,
                complete=holding.complete,
            )
        except ControllerUnreachable as exc:
            log.info("announcing: %s", exc)
        except UnknownImage as exc:
            log.info("announcing %s: %s; again in %g s", root.hex()[:16], exc, _FORGOTTEN_S)
            self._forgotten[root] = asyncio.get_running_loop().time() + _FORGOTTEN_S
        except NodectlError as exc:
            log.warning("announcing %s: %s", root.hex()[:16], exc)
        else:
            self._forgotten.pop(root, None)
            self._swarm.meet(root, answer.peers)
            self._swarm.agree(root, answer.terms)
            if self._swarm.rekey(root, answer.swarm_key):
                self._state.rekey_root(root, answer.swarm_key)
            return answer
        return Peers(peers=(), known=0, interval_s=_ANNOUNCE_S)

    def _interval(self, root: Root, answer: Peers) -> float:
        """Return after how many seconds to announce a root again."""
        hungry = not self._swarm.holding(root).complete and len(answer.peers) < _ENOUGH_PEERS
        return _HUNGRY_S if hungry else max(answer.interval_s, _HUNGRY_S)


def _has_seeder(peers: Sequence[Peer]) -> bool:
    return any(peer.complete for peer in peers)
