"""Jobs: made here, given to nodes, and concluded from what each node reports.

A node's state for a job changes a few times, and each change is written to the catalog before
anybody hears of it. Progress in bytes changes all the time and stays in memory: a controller that
restarts has every job and state, and hears the progress again from the nodes.

Silence is concluded here: a node that does not take its work within `take_within_s` has failed at
step "take"; one that took it and is not heard of for `silent_s` has failed at step "report" - but
when such a node reports after all, what it says counts. A clone is done when its new system has
told of its start (`first_boots.py`), and has failed when that does not come.

Jobs that ended are forgotten in the end (`old_jobs.py`).

A row's `version` says when it changed last: a counter that goes on growing over restarts, so that
a watcher asks "what changed after V".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.records import (
    BEGUN_BY_NODE,
    FINAL,
    Job,
    JobKind,
    JobState,
    ReleaseRecord,
    Task,
    Work,
    WorkState,
    job_key,
    work_key,
)
from nodectl.controller import first_boots
from nodectl.controller.old_jobs import Forgotten, Keep
from nodectl.errors import InvalidInput, UnknownJob, WriteConflict

_NUMBER_TRIES = 100
_GOING_DOWN_S = 60.0  # in which a node that restarts may still be heard of


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the controller waits for a silent node; seconds."""

    take_within_s: float = 60.0
    silent_s: float = 300.0
    applied_s: float = 86_400.0  # until a node restarts, once a clone is on its disk
    boot_s: float = 1_800.0  # from then until its new system tells of its start
    start_within_s: float = 86_400.0  # until a machine that is to clone itself is started
    start_silent_s: float = 3600.0  # it may lose its power, and be started again

    def for_work(self, work: Work, *, begun: bool) -> tuple[float, float]:
        """Return how long work may be left untaken, and how long its node may be silent.

        `begun` says that the node began it by itself.
        """
        if work.task is Task.CLONE and not begun:
            return self.start_within_s, self.start_silent_s
        return self.take_within_s, self.silent_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What is known about one node's work: the durable part, and how far it is right now."""

    work: Work
    version: int
    touched: float  # monotonic clock, when the node was last heard about this work
    done: int = 0  # bytes of the current step
    total: int | None = None  # bytes, where known
    swarm: dict[str, Any] = field(default_factory=dict)  # how its fetch goes, in its own words

    def to_json(self) -> dict[str, Any]:
        """Return the row as the API sends it."""
        document = self.work.to_json()
        how_far = {"done": self.done, "total": self.total, "swarm": self.swarm}
        return {**document, **how_far, "version": self.version}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a node says about its work."""

    state: WorkState
    step: str = ""
    sentence: str = ""
    lines: tuple[str, ...] = ()
    receipt: dict[str, Any] | None = None
    done: int = 0
    total: int | None = None
    swarm: dict[str, Any] = field(default_factory=dict)
    awaits: dict[str, str] | None = None  # of a clone that is applied: what its start will be


class Jobs:
    """All jobs of one realm; one owner: the controller's event loop."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        patience: Patience | None = None,
        keep: Keep | None = None,
    ) -> None:
        """Load every job from the catalog; the waiting times begin anew."""
        self._catalog = catalog
        self._now = now
        self._monotonic = monotonic
        self._patience = patience or Patience()
        self._keep = keep or Keep()
        # Microseconds since 1970: more than any controller before could have counted up to.
        self._version = int(now() * 1e6)
        self._jobs: dict[int, Job] = {}
        self._rows: dict[int, dict[str, Row]] = {}
        # Counted along, so that a report costs the same however many nodes a job has: the nodes
        # (seeders apart) that are not done yet, and those that failed. A job without open nodes
        # has ended, and is in `_open` no more.
        self._open: dict[int, set[str]] = {}
        self._failed: dict[int, set[str]] = {}
        self._forgotten = Forgotten(catalog, self._keep)
        for document in catalog.list("jobs/"):
            self._remember(Job.from_json(document.value))
        for document in catalog.list("work/"):
            work = Work.from_json(document.value)
            if work.job_id in self._rows:
                self._show(self._row(work))
            else:
                self._forgotten.litter.append(document.key)
        for job in tuple(self._jobs.values()):
            self._mend(job)
        self._forget_old()

    @property
    def version(self) -> int:
        """Return the version of the last change of any row."""
        return self._version

    def create(
        self,
        kind: JobKind,
        record: ReleaseRecord,
        nodes: Iterable[str],
        *,
        options: dict[str, Any],
        by: str,
    ) -> Job:
        """Make a job; the nodes are known to exist. Durable when it returns."""
        release = record.signed.release
        targets = tuple(dict.fromkeys(nodes))
        works = {node: Task(kind.value) for node in targets}
        begun = BEGUN_BY_NODE in options
        if record.origin and not begun:
            works.setdefault(record.origin, Task.SEED)
        draft = Job(
            job_id=max(self._jobs, default=0) + 1,
            kind=kind,
            name=release.name,
            generation=release.generation,
            root=release.root,
            nodes=targets,
            options=options,
            created=int(self._now()),
            created_by=by,
        )
        job = self._number(draft)
        self._remember(job)
        for node, task in works.items():
            work = Work(job_id=job.job_id, node=node, task=task)
            if task is Task.CLONE:
                self._supersede(node, job.job_id)
            if begun:
                work = replace(work, state=WorkState.RUNNING, step="begin")
            self._catalog.put(work_key(node, job.job_id), work.to_json(), expected=ABSENT)
            self._show(self._row(work))
        self._forget_old()
        return job

    def get(self, job_id: int) -> Job:
        """Return a job.

        Raises:
            UnknownJob: there is none of that id.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJob(f"there is no job {job_id}", hint="nodectl job list shows all")
        return job

    def list(self) -> tuple[Job, ...]:
        """Return all jobs, oldest first."""
        return tuple(self._jobs[job_id] for job_id in sorted(self._jobs))

    def rows(self, job_id: int, *, since: int = 0) -> tuple[Row, ...]:
        """Return the rows of a job that changed after version `since`, by node name."""
        self.get(job_id)
        # A version from the future is from another clock: then everything is new.
        after = since if since <= self._version else 0
        new = [row for row in self._rows[job_id].values() if row.version > after]
        return tuple(sorted(new, key=lambda row: row.work.node))

    def state(self, job_id: int) -> JobState:
        """Return how far a job is: it is ok only when every node is; seeding does not count."""
        self.get(job_id)
        if job_id in self._open:
            return JobState.RUNNING
        return JobState.FAILED if self._failed[job_id] else JobState.OK

    def work_for(self, node: str) -> tuple[tuple[Job, Work], ...]:
        """Return what a node has to do, oldest first."""
        return tuple(
            (self._jobs[job_id], self._rows[job_id][node].work)
            for job_id in sorted(self._open)  # a seeder has nothing to do for one that ended
            if node in self._rows[job_id] and self._is_to_do(self._rows[job_id][node].work)
        )

    def open_work(self, task: Task) -> tuple[tuple[Job, Work], ...]:
        """Return the unfinished work of one kind, oldest job first."""
        return tuple(
            (self._jobs[job_id], row.work)
            for job_id in sorted(self._open)
            for row in self._rows[job_id].values()
            if row.work.task is task and row.work.state not in FINAL
        )

    def concerns(self, job_id: int, node: str) -> bool:
        """Say whether a job has, or had, something to do for a node."""
        return node in self._rows.get(job_id, {})

    def names(self, node: str, image: str) -> bool:
        """Say whether a job, over or not, names a node for an image."""
        return any(
            job.name == image and node in self._rows[job.job_id] for job in self._jobs.values()
        ) or self._forgotten.named(node, image)

    def cloning(self, image: str) -> bool:
        """Say whether a node is being cloned from an image now."""
        jobs = (self._jobs[job_id] for job_id in self._open)
        return any(job.kind is JobKind.CLONE and job.name == image for job in jobs)

    def report(self, job_id: int, node: str, report: Report) -> Row:
        """Take a node's word about its work.

        Raises:
            UnknownJob: the job is not for this node.
        """
        self.get(job_id)
        row = self._rows[job_id].get(node)
        if row is None:
            raise UnknownJob(f"job {job_id} has nothing to do for {node}")
        if row.work.state in FINAL and not self._may_be_corrected(row.work):
            return row  # said before; an answer was lost on the way
        self._check_state(row.work, report.state)
        receipt = row.work.receipt if report.receipt is None else report.receipt
        work = replace(
            row.work,
            state=report.state,
            step=report.step,
            sentence=report.sentence,
            lines=report.lines,
            receipt=receipt,
            by_controller=False,
        )
        if report.awaits is not None:
            until = int(self._now()) + first_boots.TICKET_LIFE_S
            work = replace(work, awaits=first_boots.awaited(report.awaits, until))
        changed = self._change(row, work, done=report.done, total=report.total)
        changed = replace(changed, swarm=report.swarm)
        self._show(changed)
        return changed

    def booted(self, told: first_boots.Told) -> Row:
        """Take the word of a new system, which shows the ticket that was left on its disk.

        Raises:
            TokenRefused: no job waits for it.
        """
        row = self._rows.get(told.job_id, {}).get(told.node)
        work = first_boots.check_ticket(row.work if row else None, told, self._now())
        if row is None or (new := first_boots.concluded(work, told.seen)) == work:
            return self._rows[told.job_id][told.node]
        return self._change(row, new)

    def expire(self, heard: Callable[[str], float]) -> tuple[Row, ...]:
        """Conclude about silent nodes; return what changed.

        Args:
            heard: when a node was last heard of at all, on the monotonic clock.
        """
        changed = []
        for job_id in tuple(self._open):
            for row in tuple(self._rows[job_id].values()):
                work = self._concluded(row, heard(row.work.node))
                if work is not None:
                    changed.append(self._change(row, work))
        self._forgotten.sweep()
        return tuple(changed)

    def _forget_old(self) -> None:
        """Forget jobs that ended, the oldest first, until there are no more than are kept."""
        ended = [job_id for job_id in sorted(self._jobs) if job_id not in self._open]
        rows = sum(map(len, self._rows.values()))
        for job_id in ended[: -self._keep.jobs_least]:
            if len(self._jobs) <= self._keep.jobs and rows <= self._keep.rows:
                return
            rows -= len(self._rows[job_id])
            self._forgotten.take(self._jobs[job_id], self._rows[job_id].keys())
            del self._jobs[job_id], self._rows[job_id], self._failed[job_id]

    def _concluded(self, row: Row, heard: float) -> Work | None:
        work, now = row.work, self._monotonic()
        begun = BEGUN_BY_NODE in self._jobs[work.job_id].options
        take_s, silent_s = self._patience.for_work(work, begun=begun)
        match work.state:
            case WorkState.WAITING if now - row.touched > take_s:
                sentence = f"{work.node} did not take the job within {take_s:g} s"
                if now - heard > take_s:
                    sentence += ": it is off, cut off, or nodectl serve does not run there"
                return _failed(work, "take", sentence)
            # An agent that still polls says nothing about a clone: that is another process.
            case WorkState.RUNNING if (
                now - (row.touched if work.task is Task.CLONE else max(row.touched, heard))
                > silent_s
            ):
                sentence = f"{work.node} took the job and was not heard of for {silent_s:g} s"
                return _failed(work, "report", f"{sentence} (it was at: {work.step})")
            case WorkState.APPLIED | WorkState.REBOOTING:
                limits = (self._patience.applied_s, self._patience.boot_s)
                back = heard > row.touched + _GOING_DOWN_S
                return first_boots.silence(work, now - row.touched, limits, back=back)
            case _:
                return None

    @staticmethod
    def _may_be_corrected(work: Work) -> bool:
        return first_boots.may_be_corrected(work)

    def _is_to_do(self, work: Work) -> bool:
        """Say whether a node is to be told of a work; what it began or has applied it knows."""
        applied = {WorkState.APPLIED, WorkState.REBOOTING}
        begun = BEGUN_BY_NODE in self._jobs[work.job_id].options
        return work.state not in FINAL | applied and not begun

    @staticmethod
    def _check_state(work: Work, state: WorkState) -> None:
        """Refuse a state that the node's task does not have.

        Raises:
            InvalidInput: so it is.
        """
        if work.task is not Task.CLONE and state in {WorkState.APPLIED, WorkState.REBOOTING}:
            raise InvalidInput(f"report: {work.task} is never {state}")
        if state is WorkState.REBOOTING and work.awaits is None:
            raise InvalidInput("report: nothing was applied that could be started")

    def _supersede(self, node: str, job_id: int) -> None:
        """Conclude a node's clones that were under way: there is another one now."""
        for other in tuple(self._open):
            row = self._rows[other].get(node)
            if other != job_id and row is not None and first_boots.is_open_clone(row.work):
                self._change(row, first_boots.superseded(row.work, job_id))

    def _number(self, draft: Job) -> Job:
        """Write the job under the next free id."""
        for job_id in range(draft.job_id, draft.job_id + _NUMBER_TRIES):
            job = replace(draft, job_id=job_id)
            try:
                self._catalog.put(job_key(job_id), job.to_json(), expected=ABSENT)
            except WriteConflict:
                continue
            return job
        raise WriteConflict("too many jobs are made at once", hint="try again")

    def _remember(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        self._rows[job.job_id] = {}
        self._failed[job.job_id] = set()
        self._open[job.job_id] = set(job.nodes)

    def _mend(self, job: Job) -> None:
        """Give each node without a row one that failed: the controller stopped in `create`."""
        for node in job.nodes:
            if node not in self._rows[job.job_id]:
                work = Work(job_id=job.job_id, node=node, task=Task(job.kind.value))
                sentence = "the controller stopped while it made this job"
                self._change(self._row(work), _failed(work, "create", sentence))

    def _show(self, row: Row) -> None:
        """Make a row the one that counts."""
        work = row.work
        self._rows[work.job_id][work.node] = row
        if work.task is Task.SEED:
            return
        nodes, failed = self._open.setdefault(work.job_id, set()), self._failed[work.job_id]
        (nodes.discard if work.state in FINAL else nodes.add)(work.node)
        (failed.add if work.state is WorkState.FAILED else failed.discard)(work.node)
        if not nodes:
            del self._open[work.job_id]

    def _row(self, work: Work) -> Row:
        self._version += 1
        return Row(work=work, version=self._version, touched=self._monotonic())

    def _change(self, row: Row, work: Work, *, done: int = 0, total: int | None = None) -> Row:
        """Write what changed durably, then show it."""
        if work != row.work:
            key = work_key(work.node, work.job_id)
            present = self._catalog.get(key)
            expected = ABSENT if present is None else present.revision
            self._catalog.put(key, work.to_json(), expected=expected)
        changed = replace(self._row(work), done=done, total=total)
        self._show(changed)
        return changed


def _failed(work: Work, step: str, sentence: str) -> Work:
    return replace(work, state=WorkState.FAILED, step=step, sentence=sentence, by_controller=True)
