"""Multicast sessions on a node: who is awaited, at which interface, and what is reported.

A job whose options hold a session is sent by its seeder to the session's group. Its nodes say by
their step that they listen; the sender waits for those that have taken the job, and for nobody
long.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import operator
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from nodectl.catalog.records import FINAL, Job, JobState, Task, WorkState
from nodectl.errors import ControllerUnreachable, InvalidInput
from nodectl.events import Note, Observer
from nodectl.multicast.datagram import Session
from nodectl.multicast.receiver import MulticastFeed, listening
from nodectl.multicast.sender import send
from nodectl.node.client import ControlClient, JobView, WorkRow
from nodectl.swarm.bitfield import full
from nodectl.swarm.client import FetchOptions
from nodectl.swarm.model import PeerInfo
from nodectl.swarm.rate import RateLimiter
from nodectl.swarm.share import Share
from nodectl.swarm.transfer import Transfer, open_session

_log = logging.getLogger(__name__)

MULTICAST_STEP = "multicast"  # of a node that listens, and of the sender
OPTION = "multicast"

_TAKE_S = 2.0  # who has not taken the job by then is off
_ASKED = 12  # receivers that are asked what they lack
_LOOK_S = 1.0  # the controller may hold one question so long


def session_of(job: Job) -> Session | None:
    """Return the session of a job, None where it has none.

    Raises:
        InvalidInput: what its options say is no session.
    """
    document = job.options.get(OPTION)
    if document is None:
        return None
    try:
        return Session.from_options(document)
    except ValueError as exc:
        raise InvalidInput(f"job {job.job_id}: {exc}") from exc


def interface_of(url: str) -> str:
    """Return the address of the interface that a peer's own URL names; "" where it is a name."""
    host = urlsplit(url).hostname or ""
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return ""


@contextlib.asynccontextmanager
async def receiving(
    share: Share, session: Session | None, url: str, observer: Observer
) -> AsyncIterator[MulticastFeed | None]:
    """Listen to a session, where there is one and something is lacking; yields the feed.

    Without multicast on this machine the swarm does all of it.
    """
    async with contextlib.AsyncExitStack() as stack:
        feed = None
        if session is not None and not share.complete:
            try:
                listener = listening(share, session, interface=interface_of(url))
                feed = await stack.enter_async_context(listener)
            except OSError as exc:
                _log.warning("no multicast here: %s", exc)
                observer.on(Note(text=f"no multicast here ({exc.strerror}); the swarm does it"))
        yield feed


async def sending(
    share: Share, session: Session, url: str, upload: RateLimiter, ready: Awaitable[int]
) -> Mapping[str, Any]:
    """Send all spans of a share to a session's group; return what was sent."""
    try:
        done = await send(share, session, interface=interface_of(url), upload=upload, ready=ready)
    except OSError as exc:
        _log.warning("multicast: %s", exc)
        return {"error": exc.strerror or str(exc), "sent_bytes": 0}
    return asdict(done)


async def lacked(share: Share, peers: Sequence[PeerInfo], options: FetchOptions) -> int:
    """Return the set of spans that at least one of `peers` lacks; all, where none can be asked.

    A few are asked at random: after an update the others lack the same, and what only they lack
    comes from the swarm.
    """
    asked = sorted(peers, key=lambda _: options.rng.random())[:_ASKED]
    limits = share.limits
    everything = full(len(share.sizes))
    async with open_session(limits) as http:
        rate = RateLimiter(None, options.clock)
        transfer = Transfer(share, options.me, http, limits, options.now_ms, rate)
        async with asyncio.TaskGroup() as tasks:
            # Who has nothing yet must say so now: the session begins when all have answered.
            asking = [tasks.create_task(transfer.have(peer, "", patient=False)) for peer in asked]
    replies = [reply for task in asking if (reply := task.result()) is not None]
    held = functools.reduce(operator.and_, [reply.have for reply in replies], everything)
    return everything & ~held if replies else everything


async def gathered(client: ControlClient, job: Job, session: Session) -> Collection[str]:
    """Wait until the nodes of a job listen, but not for the dead, and not long for the busy.

    Returns the names of those that listen.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    rows: dict[str, WorkRow] = {}
    since = 0
    while (waited := loop.time() - began) < session.wait_s:
        left = _TAKE_S - waited if waited < _TAKE_S else min(_LOOK_S, session.wait_s - waited)
        try:
            view = await client.job_events(job.job_id, since=since, wait_s=left)
        except ControllerUnreachable as exc:
            _log.info("multicast begins for whoever listens: %s", exc)
            break
        since = view.version
        rows |= {row.work.node: row for row in view.rows}
        if _all_there(view, rows, patient=loop.time() - began < _TAKE_S):
            break
    return [node for node, row in rows.items() if _listens(row)]


def _all_there(view: JobView, rows: Mapping[str, WorkRow], *, patient: bool) -> bool:
    """Say whether nobody is to be waited for; who has not taken the job is, for a while."""
    if view.state is not JobState.RUNNING:
        return True
    return all(
        _listens(row)
        or row.work.state in FINAL
        or (row.work.state is WorkState.WAITING and not patient)
        for row in rows.values()
        if row.work.task is not Task.SEED
    )


def _listens(row: WorkRow) -> bool:
    return row.work.task is not Task.SEED and row.work.step == MULTICAST_STEP
