from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.model import Catalog, Document
from nodectl.catalog.records import JobKind, JobState, ReleaseRecord, Task, WorkState
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.jobs import Jobs, Patience, Report
from nodectl.controller.old_jobs import Keep
from nodectl.errors import NoSpace, UnknownJob
from nodectl.ids import Root
from nodectl.trust.release import Release, sign_release

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
RECORD = ReleaseRecord(
    signed=sign_release(
        Release(
            realm="ab" * 16,
            name="golden",
            generation=2,
            root=Root(bytes(32)),
            kind="tree",
            created=1,
            totals={},
        ),
        _KEY,
    ),
    origin="c",
)
RUNNING, DONE, FAILED = WorkState.RUNNING, WorkState.DONE, WorkState.FAILED


class Clocks:
    """Wall and monotonic clock in one, set by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clocks:
    return Clocks()


def _jobs(clock: Clocks, catalog: Catalog | None = None, **patience: float) -> Jobs:
    return Jobs(
        MemoryCatalog() if catalog is None else catalog,
        now=clock,
        monotonic=clock,
        patience=Patience(**patience),
    )


def _create(jobs: Jobs, *nodes: str, **options: bool) -> int:
    return jobs.create(JobKind.FETCH, RECORD, nodes, options=options, by="c").job_id


def _states(jobs: Jobs, job_id: int) -> dict[str, str]:
    return {row.work.node: row.work.state.value for row in jobs.rows(job_id)}


def test_a_job_is_ok_only_when_every_node_is(clock: Clocks) -> None:
    jobs = _jobs(clock)
    job = _create(jobs, "n1", "n2")
    jobs.report(job, "n1", Report(state=DONE))
    assert jobs.state(job) is JobState.RUNNING
    jobs.report(job, "n2", Report(state=FAILED, step="fetch", sentence="no"))
    assert jobs.state(job) is JobState.FAILED
    other = _create(jobs, "n1", "n2")
    for node in ("n1", "n2"):
        jobs.report(other, node, Report(state=DONE))
    assert jobs.state(other) is JobState.OK


def test_the_origin_seeds_and_does_not_count(clock: Clocks) -> None:
    jobs = _jobs(clock)
    job = _create(jobs, "n1")
    assert [w.task for _, w in jobs.work_for("c")] == [Task.SEED]
    jobs.report(job, "n1", Report(state=DONE))
    assert jobs.state(job) is JobState.OK
    assert jobs.work_for("c") == ()


def test_an_origin_that_is_a_target_fetches(clock: Clocks) -> None:
    jobs = _jobs(clock)
    _create(jobs, "c", "c")
    assert [w.task for _, w in jobs.work_for("c")] == [Task.FETCH]


def test_progress_is_a_new_version_and_only_states_are_written(clock: Clocks) -> None:
    catalog = MemoryCatalog()
    jobs = _jobs(clock, catalog)
    job = _create(jobs, "n1", "n2")
    seen = jobs.version
    assert jobs.rows(job, since=seen) == ()
    jobs.report(job, "n1", Report(state=RUNNING, step="fetch", done=1, total=10))
    revision = catalog.revision()
    jobs.report(job, "n1", Report(state=RUNNING, step="fetch", done=5, total=10))
    assert catalog.revision() == revision
    (row,) = jobs.rows(job, since=seen)
    assert (row.work.node, row.done, row.total) == ("n1", 5, 10)
    assert jobs.rows(job, since=jobs.version) == ()
    assert len(jobs.rows(job, since=jobs.version + 10**9)) == 3  # from another clock: all


def test_a_restarted_controller_has_every_job_and_state(clock: Clocks, tmp_path: Path) -> None:
    with SqliteCatalog(tmp_path / "c.sqlite") as catalog:
        jobs = _jobs(clock, catalog)
        job = _create(jobs, "n1", "n2", allow_rollback=True)
        jobs.report(job, "n1", Report(state=DONE, receipt={"bytes": 5}))
        jobs.report(job, "n2", Report(state=RUNNING, step="fetch", done=3))
        before, version = jobs.get(job), jobs.version
    clock.at += 1
    with SqliteCatalog(tmp_path / "c.sqlite") as catalog:
        again = _jobs(clock, catalog)
        assert again.get(job) == before
        assert _states(again, job) == {"c": "waiting", "n1": "done", "n2": "running"}
        assert again.rows(job)[1].work.receipt == {"bytes": 5}
        assert [w.job_id for _, w in again.work_for("n2")] == [job]
        assert len(again.rows(job, since=version)) == 3
        assert _create(again, "n1") == job + 1


def test_a_result_said_twice_is_said_once(clock: Clocks) -> None:
    jobs = _jobs(clock)
    job = _create(jobs, "n1")
    jobs.report(job, "n1", Report(state=DONE, receipt={"a": 1}))
    jobs.report(job, "n1", Report(state=FAILED, step="x", sentence="late"))
    assert _states(jobs, job)["n1"] == "done"


def test_a_node_that_never_takes_the_job_is_named(clock: Clocks) -> None:
    jobs = _jobs(clock, take_within_s=60)
    job = _create(jobs, "n1", "n2")
    jobs.report(job, "n1", Report(state=RUNNING, step="queued"))
    clock.at += 59
    assert not jobs.expire(lambda _node: 0)
    clock.at += 2
    assert jobs.expire(lambda _node: 0)
    row = jobs.rows(job)[2]
    assert (row.work.node, row.work.state, row.work.step) == ("n2", FAILED, "take")
    assert "n2 did not take the job within 60 s" in row.work.sentence
    assert _states(jobs, job)["n1"] == "running"
    assert jobs.work_for("n2") == ()


def test_a_node_that_falls_silent_fails_but_its_late_word_counts(clock: Clocks) -> None:
    jobs = _jobs(clock, silent_s=300)
    job = _create(jobs, "n1")
    jobs.report(job, "n1", Report(state=RUNNING, step="fetch"))
    clock.at += 301
    assert jobs.expire(lambda _node: 1000.0)
    assert jobs.state(job) is JobState.FAILED
    assert "not heard of for 300 s (it was at: fetch)" in jobs.rows(job)[1].work.sentence
    jobs.report(job, "n1", Report(state=DONE))
    assert jobs.state(job) is JobState.OK


def test_a_node_that_is_heard_of_otherwise_is_not_silent(clock: Clocks) -> None:
    jobs = _jobs(clock, silent_s=300)
    job = _create(jobs, "n1")
    jobs.report(job, "n1", Report(state=RUNNING, step="fetch"))
    clock.at += 301
    jobs.expire(lambda _node: clock.at - 5)
    assert _states(jobs, job)["n1"] == "running"


def test_the_waiting_begins_anew_after_a_restart(clock: Clocks) -> None:
    catalog = MemoryCatalog()
    job = _create(_jobs(clock, catalog, take_within_s=60), "n1")
    clock.at += 1000
    jobs = _jobs(clock, catalog, take_within_s=60)
    assert not jobs.expire(lambda _node: 0)
    assert _states(jobs, job)["n1"] == "waiting"


class FullCatalog(MemoryCatalog):
    """Takes so many writes and no more."""

    left = 0

    def put(self, key: str, value: Mapping[str, Any], *, expected: int) -> Document:
        if self.left == 0:
            raise NoSpace("full")
        self.left -= 1
        return super().put(key, value, expected=expected)


def test_a_job_that_was_not_made_whole_is_never_ok(clock: Clocks) -> None:
    """The disk is full, or the plug is pulled, between the first node's row and the second's."""
    catalog = FullCatalog()
    catalog.left = 2
    jobs = _jobs(clock, catalog)
    with pytest.raises(NoSpace):
        _create(jobs, "n1", "n2")
    jobs_now = jobs.list()
    assert [jobs.state(job.job_id) for job in jobs_now] == [JobState.RUNNING]
    catalog.left = 100
    again = _jobs(clock, catalog)
    again.report(1, "n1", Report(state=DONE))
    assert again.state(1) is JobState.FAILED
    assert again.rows(1)[1].work.sentence == "the controller stopped while it made this job"


def test_unknown_jobs_and_foreign_nodes(clock: Clocks) -> None:
    jobs = _jobs(clock)
    job = _create(jobs, "n1")
    with pytest.raises(UnknownJob):
        jobs.get(job + 1)
    with pytest.raises(UnknownJob):
        jobs.report(job, "n9", Report(state=DONE))


def _few(clock: Clocks, catalog: Catalog, **keep: int) -> Jobs:
    kept = Keep(jobs_least=2, swept_at_once=1, **keep)
    return Jobs(catalog, now=clock, monotonic=clock, keep=kept)


def _end(jobs: Jobs, job_id: int, *nodes: str) -> None:
    for node in nodes:
        jobs.report(job_id, node, Report(state=DONE))


def test_of_jobs_that_ended_the_last_ones_are_kept_and_who_had_an_image_has_it(
    clock: Clocks,
) -> None:
    catalog = MemoryCatalog()
    jobs = _few(clock, catalog, jobs=4)
    running = _create(jobs, "slow")
    for number in range(6):
        _end(jobs, _create(jobs, f"n{number}"), f"n{number}")
    _create(jobs, "last")
    assert [job.job_id for job in jobs.list()] == [running, 6, 7, 8]
    with pytest.raises(UnknownJob):
        jobs.get(2)
    for node in ("n0", "n5", "slow"):
        assert jobs.names(node, "golden")
    assert not jobs.names("n0", "other")
    again = _few(clock, catalog, jobs=4)  # the rows that were not deleted yet go then
    assert [job.job_id for job in again.list()] == [running, 6, 7, 8]
    assert again.names("n0", "golden")
    for _ in range(20):
        again.expire(lambda _: clock())
    assert len(catalog.list("work/")) == sum(len(again.rows(j.job_id)) for j in again.list())
    assert len(catalog.list("jobs/")) == 4


def test_the_rows_of_large_jobs_count_but_the_newest_stay(clock: Clocks) -> None:
    jobs = _few(clock, MemoryCatalog(), rows=10)
    nodes = [f"n{number}" for number in range(8)]
    for _ in range(5):
        _end(jobs, _create(jobs, *nodes), *nodes)
    _create(jobs, *nodes)
    assert [job.job_id for job in jobs.list()] == [4, 5, 6]
    assert _create(jobs, "n0") == 7
