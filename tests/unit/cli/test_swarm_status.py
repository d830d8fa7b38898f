from typing import Any

from nodectl.catalog.records import Job, JobKind, JobState, Task, Work, WorkState
from nodectl.cli.swarm import _swarm, _text
from nodectl.ids import Root
from nodectl.node.client import JobView, WorkRow

MIB = 1 << 20


def _row(node: str, done: int, receipt: dict[str, Any] | None = None, **swarm: object) -> WorkRow:
    state = WorkState.RUNNING if receipt is None else WorkState.DONE
    work = Work(job_id=7, node=node, task=Task.FETCH, state=state, receipt=receipt or {})
    return WorkRow(work=work, done=done * MIB, total=100 * MIB, version=1, swarm=swarm)


def _view(*rows: WorkRow) -> JobView:
    job = Job(
        job_id=7,
        kind=JobKind.FETCH,
        name="golden",
        generation=3,
        root=Root(bytes(32)),
        nodes=tuple(row.work.node for row in rows),
        options={},
        created=1,
        created_by="c",
    )
    return JobView(job=job, state=JobState.RUNNING, version=1, rows=rows)


SLOW = _row(
    "node17",
    20,
    bytes_per_s=2 * MIB,
    waits_for="disk",
    waited_ms={"disk": 61000, "link": 20000, "cpu": 1500, "peer": 1000},
)


def test_the_end_is_estimated_and_told_by_the_bound() -> None:
    swarm = _swarm(_view(_row("node16", 80, bytes_per_s=10 * MIB), SLOW))
    assert swarm["last_node"] == "node17"
    assert (swarm["seconds_left"], swarm["bound_seconds_left"]) == (40.0, 8.0)
    assert "the last node needs 40 s more (bound: 8.00 s)" in _text(swarm)


def test_the_rate_of_a_node_that_is_done_makes_the_bound_too() -> None:
    done = _row("node1", 100, receipt={"fetched_bytes": 100 * MIB, "seconds": 5.0})
    assert _swarm(_view(done, SLOW))["bound_seconds_left"] == 4.0


def test_why_a_node_is_slow_is_said() -> None:
    swarm = _swarm(_view(SLOW))
    assert swarm["nodes"][0]["waited_ms"]["disk"] == 61000
    assert "disk 73 %, link 24 %, cpu 2 %" in _text(swarm)


def test_a_node_that_is_done_says_where_its_time_went() -> None:
    receipt = {"waited_ms": {"link": 9000, "peer": 1000}}
    assert "link 90 %, peer 10 %" in _text(_swarm(_view(_row("node1", 100, receipt=receipt))))


def test_before_anything_came_nothing_is_estimated() -> None:
    swarm = _swarm(_view(_row("node1", 0)))
    assert swarm["seconds_left"] is swarm["bound_seconds_left"] is None
    assert "bound" not in _text(swarm)
