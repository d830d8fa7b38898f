"""Tells the controller how far this node is with one job; never lets the job wait for it.

The work puts in what is new; a loop of its own sends the latest at most twice a second, a new step
at once, and goes on trying, with longer and longer pauses, while no controller answers. The result
is sent until it was taken, however long that is.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from nodectl.catalog.records import WorkState
from nodectl.errors import ControllerUnreachable, NodectlError
from nodectl.events import Event, Note, StepFinished, StepProgress, StepStarted

log = logging.getLogger(__name__)

_SENTENCE_MAX = 4000  # characters that the controller takes
_LINES_MAX = 20
_REPORTS_PER_S = 500.0  # of all nodes of a job together, while they work


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to speak, and how long to listen; seconds."""

    interval_s: float = 0.5  # between two reports of progress
    still_here_s: float = 10.0  # a report even when nothing is new
    retry_first_s: float = 1.0  # after no controller answered; doubled each time
    retry_most_s: float = 30.0
    seeder_within_s: float = 3.0  # then a fetch begins also without a seeder


class Takes(Protocol):
    """Whoever takes reports: the controller's client."""

    async def report(self, job_id: int, body: Mapping[str, Any]) -> None:
        """Take one report."""
        ...


class Reporter:
    """The reports of one job; an `Observer` for the work, which may call it from any thread."""

    def __init__(
        self,
        takes: Takes,
        job_id: int,
        *,
        pace: Pace | None = None,
        speakers: int = 1,
        fetch: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        """Start with "running", which tells the controller that the job was taken.

        So many `speakers` report at the same time: the more they are, the less each says. `fetch`
        tells how a fetch goes; it is asked when a report is sent.
        """
        self._takes = takes
        self._fetch = fetch
        self._job_id = job_id
        self._pace = pace or Pace()
        self._interval_s = max(self._pace.interval_s, speakers / _REPORTS_PER_S)
        self._latest: dict[str, Any] = {"state": WorkState.RUNNING.value, "step": "queued"}
        self._finished = asyncio.Event()
        self._stepped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def step(self) -> str:
        """Return the step that the work is at."""
        return str(self._latest["step"])

    def on(self, event: Event) -> None:
        """Take note of progress."""
        match event:
            case StepStarted():
                self._progress(event.step, 0, event.total)
            case StepProgress():
                self._progress(event.step, event.done, event.total)
            case StepFinished() | Note():
                pass

    def _progress(self, step: str, done: int, total: int | None) -> None:
        state = WorkState.RUNNING.value
        if step != self._latest.get("step") and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stepped.set)
        self._latest = {"state": state, "step": step, "done": done, "total": total}

    def succeed(self, receipt: Mapping[str, Any], *, step: str = "", sentence: str = "") -> None:
        """The work is done; `sentence` says what nobody confirmed of it."""
        self._latest = {"state": WorkState.DONE.value, "receipt": dict(receipt)}
        if step:
            self._latest |= {"step": step, "sentence": sentence[:_SENTENCE_MAX]}
        self._finish()

    def applied(self, receipt: Mapping[str, Any], awaits: Mapping[str, str]) -> None:
        """A clone is on its disk; what starts from it will be as `awaits` says."""
        state = WorkState.APPLIED.value
        self._latest = {"state": state, "step": "applied", "receipt": dict(receipt),
                        "awaits": dict(awaits)}  # fmt: skip
        self._finish()

    def fail(self, sentence: str, lines: tuple[str, ...] = ()) -> None:
        """The work failed at the step it was at."""
        self._latest = {
            "state": WorkState.FAILED.value,
            "step": self.step,
            "sentence": sentence[:_SENTENCE_MAX],
            "lines": [line[:_SENTENCE_MAX] for line in lines[-_LINES_MAX:]],
        }
        self._finish()

    def end(self, sentence: str) -> None:
        """No more will be said; what has no result by now has failed."""
        if not self._finished.is_set():
            self.fail(sentence)

    def _finish(self) -> None:
        self._finished.set()
        self._stepped.set()

    async def run(self) -> None:
        """Send reports until the result was taken, or the controller wants none of them."""
        self._loop = asyncio.get_running_loop()
        sent: dict[str, Any] | None = None
        sent_at = 0.0
        while True:
            self._stepped.clear()
            final, latest = self._finished.is_set(), self._latest
            due = time.monotonic() - sent_at >= self._pace.still_here_s
            if latest is not sent or due:
                if not await self._send(latest):
                    return
                sent, sent_at = latest, time.monotonic()
            if final:
                return
            await _wait(self._stepped, self._interval_s)

    async def _send(self, body: Mapping[str, Any]) -> bool:
        """Send one report, trying for ever; say whether the controller wants more of them."""
        pause_s = self._pace.retry_first_s
        while True:
            try:
                fetch = self._fetch() if body["state"] == WorkState.RUNNING.value else None
                await self._takes.report(self._job_id, {**body, "swarm": fetch} if fetch else body)
            except ControllerUnreachable as exc:
                log.info("job %s: %s; trying again in %g s", self._job_id, exc, pause_s)
            except NodectlError as exc:
                log.warning("job %s: the controller takes no report: %s", self._job_id, exc)
                return False
            else:
                return True
            if body["state"] == WorkState.RUNNING.value and await _wait(self._finished, pause_s):
                return True  # the work ended meanwhile: only the result is worth sending
            if body["state"] != WorkState.RUNNING.value:
                await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pace.retry_most_s)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; say whether it came in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def event_of(document: Mapping[str, Any]) -> Event | None:
    """Return the event that a line of `--json` progress says, or None if it is none."""
    kinds: Mapping[str, Callable[..., Event]] = {
        "StepStarted": StepStarted,
        "StepProgress": StepProgress,
        "StepFinished": StepFinished,
        "Note": Note,
    }
    fields = {name: value for name, value in document.items() if name != "event"}
    kind = kinds.get(str(document.get("event")))
    try:
        return None if kind is None else kind(**fields)
    except TypeError:
        return None
