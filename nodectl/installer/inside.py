"""What runs inside an installer: join with the boot ticket, take the clone that is ordered, do it.

The clone itself is a child process of this same program (`nodectl clone`), as a restore for a job
is. Nothing is written to a disk before the controller's signed order was checked, and what stands
on the disk is named by the plan of that process.

What may go well later (no controller answers) is tried again, each time after a longer pause and
not for ever; any other failure ends the work at once and is reported, by the child or else here.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nodectl.catalog.records import Job, Task, WorkState
from nodectl.errors import (
    ControllerUnreachable,
    InvalidInput,
    NodectlError,
    RestoreFailed,
    TokenRefused,
)
from nodectl.events import Observer, step
from nodectl.fsio import write_private
from nodectl.installer.cmdline import BootWords
from nodectl.node.child import Child, run_child
from nodectl.node.client import Assigned, ControlClient
from nodectl.node.join import join
from nodectl.node.ordered import check_order
from nodectl.node.state import Membership, StateFolder
from nodectl.node.told_clone import tell_restart
from nodectl.trust.token import parse_token

log = logging.getLogger(__name__)

_WORK_WAIT_S = 20.0  # how long the controller may hold one request for work
_WORK_TRIES = 6
_WORK_PAUSE_S = 1.0
_CLOCK_OFF_S = 2.0  # a difference that is worth a change of the clock
# Nothing was begun then. A swarm that stalls has been waited for long enough by the child.
_LATER = frozenset({ControllerUnreachable.exit_code})
_SENTENCE_MAX = 4000

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often, and how soon, to try again; seconds."""

    tries: int = 6
    first_s: float = 2.0  # doubled each time
    most_s: float = 60.0


class CloneArgv(Protocol):
    """Makes the command line of the child."""

    def __call__(self, job: Job, state: StateFolder, layout: Path) -> Sequence[str]:
        """Return argv; with `--json` lines on stderr, and one JSON object on stdout."""
        ...


class Installing:
    """One machine on its way to be the node that it is said to be."""

    def __init__(
        self,
        words: BootWords,
        state: StateFolder,
        argv_of: CloneArgv,
        observer: Observer,
        patience: Patience | None = None,
    ) -> None:
        """Prepare; `state` is a folder in memory, gone with this system."""
        self._words = words
        self._state = state
        self._argv_of = argv_of
        self._observer = observer
        self._patience = patience or Patience()

    async def run(self) -> dict[str, Any]:
        """Do what the controller ordered for this machine; return the clone's report.

        Raises:
            InvalidInput: the command line has no name or ticket, or nothing is ordered.
            TokenRefused: the ticket was used, has expired or is for another machine.
            NodectlError: whatever ended the clone; it was reported where a controller answered.
        """
        if not self._words.name or not self._words.ticket:
            raise InvalidInput(
                "the kernel's command line has no nodectl.name= and nodectl.ticket=",
                hint="arm the machine: nodectl netboot --nodes NAME --set cloner",
            )
        with step(self._observer, "join"):
            membership = await _patiently(self._join, self._patience)
        async with ControlClient(membership) as client:
            with step(self._observer, "ask what to do"):
                assigned = await _patiently(lambda: _ordered(client), self._patience)
            set_clock(client.now_ms() / 1000)
            return await self._do(client, assigned)

    async def _join(self) -> Membership:
        if self._state.is_member():  # the answer came, and a later step is tried again
            return self._state.membership()
        return await join(self._state, parse_token(self._words.ticket), name=self._words.name)

    async def _do(self, client: ControlClient, assigned: Assigned) -> dict[str, Any]:
        """Clone; what fails before the child tells of it itself is reported here."""
        job_id = assigned.job.job_id
        try:
            report = await self._clone(client, assigned)
        except NodectlError as exc:
            lines = exc.lines if isinstance(exc, RestoreFailed) else ()
            failure = _failure(f"{exc} ({exc.hint})" if exc.hint else str(exc), lines)
            await _patiently(lambda: client.report(job_id, failure), self._patience)
            raise
        if report.get("boot") is not None:
            with contextlib.suppress(NodectlError):  # what boots says more than this
                await tell_restart(client.membership, client.node, job_id)
        return report

    async def _clone(self, client: ControlClient, assigned: Assigned) -> dict[str, Any]:
        job = assigned.job
        layout = self._state.folder / f"layout-{job.job_id}.toml"
        write_private(layout, str(job.options.get("layout", "")).encode())
        pause_s = self._patience.first_s
        for _ in range(self._patience.tries - 1):
            child = await self._child(client, assigned, layout)
            if child.status not in _LATER:
                break
            log.warning("%s; again in %g s", child.sentence, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._patience.most_s)
        else:
            child = await self._child(client, assigned, layout)
        if child.status == 0:
            return child.result
        raise RestoreFailed(child.sentence or f"status {child.status}", lines=child.lines)

    async def _child(self, client: ControlClient, assigned: Assigned, layout: Path) -> Child:
        """Try the clone once; it is ordered still."""
        check_order(client.membership, assigned, now=client.now_ms() / 1000)
        return await run_child(self._argv_of(assigned.job, self._state, layout), self._observer)


def _failure(sentence: str, lines: Sequence[str]) -> dict[str, Any]:
    """Return the report of a clone that failed; the job of one that was told already keeps that."""
    return {
        "state": WorkState.FAILED.value,
        "step": "clone",
        "sentence": sentence[:_SENTENCE_MAX],
        "lines": [line[:_SENTENCE_MAX] for line in lines],
    }


async def _ordered(client: ControlClient) -> Assigned:
    """Return the clone that is ordered of this machine."""
    for _ in range(_WORK_TRIES):
        assigned = await client.work(since=0, wait_s=_WORK_WAIT_S)
        clones = [one for one in assigned if one.work.task is Task.CLONE]
        if clones:
            return clones[-1]
        await asyncio.sleep(_WORK_PAUSE_S)
    raise InvalidInput(
        f"the controller has nothing to do for {client.node}",
        hint="arm the machine again: nodectl netboot --nodes NAME --set cloner",
    )


def set_clock(now: float, *, clock: Callable[[], float] = time.time) -> None:
    """Set this machine's clock to the controller's, which its authenticated answer told."""
    if abs(now - clock()) > _CLOCK_OFF_S:
        with contextlib.suppress(OSError):  # only root may; times of files are then this machine's
            time.clock_settime(time.CLOCK_REALTIME, now)


async def _patiently(ask: Callable[[], Awaitable[T]], patience: Patience) -> T:
    """Ask until a controller answers, as often as patience lasts."""
    pause_s = patience.first_s
    for _ in range(patience.tries - 1):
        try:
            return await ask()
        except TokenRefused:
            raise
        except ControllerUnreachable as exc:
            log.warning("%s; again in %g s", exc, pause_s)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, patience.most_s)
    return await ask()
