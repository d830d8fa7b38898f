"""Follows a job to its end: what changed at the controller becomes events for an `Observer`."""

import asyncio
import logging
import time

from nodectl.catalog.records import JobState, Task, WorkState
from nodectl.errors import ControllerUnreachable, NodesFailed
from nodectl.events import Note, Observer, StepFinished, StepProgress, StepStarted
from nodectl.node.client import ControlClient, JobView, WorkRow

log = logging.getLogger(__name__)

_WAIT_S = 10.0  # how long the controller may hold one request
_RETRY_S = 2.0
_CLONE_WORDS = {
    WorkState.APPLIED: "the clone is on its disk and was read back; waiting for its first start",
    WorkState.REBOOTING: "goes down in order to start from its new disk",
}
_NAMED = 10  # nodes that one sentence names


class Story:
    """Turns the rows of a job, as they change, into events."""

    def __init__(self, observer: Observer) -> None:
        """Start with nothing told."""
        self._observer = observer
        self._rows: dict[str, WorkRow] = {}
        self._began: dict[str, float] = {}

    def tell(self, row: WorkRow) -> None:
        """Tell what is new about one node."""
        work, old = row.work, self._rows.get(row.work.node)
        self._rows[work.node] = row
        self._tell_clone(row, old)
        if work.state is not WorkState.RUNNING or (old and old.work.step != work.step):
            self._end_step(old)
        match work.state:
            case WorkState.RUNNING:
                self._tell_step(row)
            case WorkState.FAILED if old is None or old.work.state is not WorkState.FAILED:
                text = f"failed at step {work.step}: {work.sentence}"
                self._observer.on(Note(text=text, node=work.node))
            case _:
                pass

    def _tell_clone(self, row: WorkRow, old: WorkRow | None) -> None:
        """Tell how far the start of a clone is."""
        text = _CLONE_WORDS.get(row.work.state)
        if text is not None and (old is None or old.work.state is not row.work.state):
            self._observer.on(Note(text=text, node=row.work.node))

    def _tell_step(self, row: WorkRow) -> None:
        step, node = row.work.step, row.work.node
        if node not in self._began:
            self._began[node] = time.monotonic()
            self._observer.on(StepStarted(step=step, total=row.total, node=node))
        if row.done or row.total:
            self._observer.on(StepProgress(step=step, done=row.done, total=row.total, node=node))

    def _end_step(self, old: WorkRow | None) -> None:
        began = None if old is None else self._began.pop(old.work.node, None)
        if old is not None and began is not None:
            seconds = time.monotonic() - began
            self._observer.on(StepFinished(step=old.work.step, seconds=seconds, node=old.work.node))


async def watch_job(client: ControlClient, job_id: int, observer: Observer) -> JobView:
    """Follow a job until it ends; return it with all its rows.

    While no controller answers it goes on trying, and says so once: the nodes go on by themselves.

    Raises:
        UnknownJob: there is none of that id.
    """
    story, since, silent = Story(observer), 0, False
    while True:
        try:
            view = await client.job_events(job_id, since=since, wait_s=_WAIT_S)
        except ControllerUnreachable as exc:
            if not silent:
                observer.on(Note(text=f"{exc}; the nodes go on, still trying to reach it"))
            silent = True
            await asyncio.sleep(_RETRY_S)
            continue
        for row in view.rows:
            story.tell(row)
        if view.state is not JobState.RUNNING:
            return await client.job(job_id)
        silent, since = False, view.version


def check_all_done(view: JobView) -> None:
    """Raise unless every node of a job that ended is done.

    Raises:
        NodesFailed: names the nodes that are not.
    """
    bad = [
        row.work
        for row in view.rows
        if row.work.task is not Task.SEED and row.work.state is not WorkState.DONE
    ]
    if not bad:
        return
    shown = "; ".join(f"{work.node} at step {work.step}: {work.sentence}" for work in bad[:_NAMED])
    more = f" (and {len(bad) - _NAMED} more)" if len(bad) > _NAMED else ""
    raise NodesFailed(
        f"{len(bad)} of {len(view.job.nodes)} nodes failed: {shown}{more}",
        hint=f"nodectl job show {view.job.job_id} tells more; repeat the command for these nodes",
    )
