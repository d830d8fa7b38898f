import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from nodectl.errors import ControllerUnreachable, NotAllowed
from nodectl.events import Note, StepFinished, StepProgress, StepStarted
from nodectl.node.report import Pace, Reporter, event_of

PACE = Pace(interval_s=0.01, still_here_s=60, retry_first_s=0.01, retry_most_s=0.02)


class Ear:
    """Takes reports; fails as often as it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.heard: list[Mapping[str, Any]] = []
        self._failures = list(failures)
        self.came = asyncio.Event()

    async def report(self, job_id: int, body: Mapping[str, Any]) -> None:
        assert job_id == 7
        await asyncio.sleep(0)
        if self._failures:
            raise self._failures.pop(0)
        self.heard.append(dict(body))
        self.came.set()


async def _next(ear: Ear) -> None:
    ear.came.clear()
    await ear.came.wait()


def _run(ear: Ear, reporter: Reporter, *steps: object) -> None:
    """Run a reporter; before each step wait for one report."""

    async def main() -> None:
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(reporter.run())
            for step in steps:
                await _next(ear)
                if callable(step):
                    step()

    asyncio.run(main())


def test_the_first_word_takes_the_job_and_the_last_is_the_result() -> None:
    ear = Ear()
    reporter = Reporter(ear, 7, pace=PACE)
    _run(
        ear,
        reporter,
        lambda: reporter.on(StepProgress(step="fetch", done=3, total=9)),
        lambda: reporter.succeed({"bytes": 9}),
    )
    assert ear.heard == [
        {"state": "running", "step": "queued"},
        {"state": "running", "step": "fetch", "done": 3, "total": 9},
        {"state": "done", "receipt": {"bytes": 9}},
    ]


def test_a_failure_names_the_step_it_was_at_and_is_bounded() -> None:
    ear = Ear()
    reporter = Reporter(ear, 7, pace=PACE)

    def fail() -> None:
        reporter.on(StepStarted(step="restore", total=5))
        reporter.on(Note(text="a word"))
        reporter.on(StepFinished(step="x", seconds=1))
        reporter.fail("s" * 9000, tuple(f"line {n}" for n in range(100)))

    _run(ear, reporter, fail)
    last = ear.heard[-1]
    assert (last["state"], last["step"]) == ("failed", "restore")
    assert len(last["sentence"]) == 4000
    assert last["lines"] == [f"line {n}" for n in range(80, 100)]


def test_what_no_controller_took_is_said_again() -> None:
    ear = Ear(*[ControllerUnreachable("no")] * 5)
    reporter = Reporter(ear, 7, pace=PACE)
    reporter.succeed({"bytes": 9})
    asyncio.run(asyncio.wait_for(reporter.run(), 10))
    assert ear.heard == [{"state": "done", "receipt": {"bytes": 9}}]


def test_progress_that_nobody_took_does_not_hold_up_the_result() -> None:
    ear = Ear(*[ControllerUnreachable("no")] * 3)
    reporter = Reporter(ear, 7, pace=Pace(interval_s=0.01, retry_first_s=30, retry_most_s=60))

    async def main() -> None:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            running = group.create_task(reporter.run())
            await asyncio.sleep(0.05)
            ear._failures.clear()
            reporter.succeed({})
            await running

    asyncio.run(main())
    assert [report["state"] for report in ear.heard] == ["done"]


def test_a_controller_that_wants_no_report_gets_no_more() -> None:
    ear = Ear(NotAllowed("no"))
    asyncio.run(asyncio.wait_for(Reporter(ear, 7, pace=PACE).run(), 10))
    assert ear.heard == []


def test_many_speakers_say_less() -> None:
    assert Reporter(Ear(), 7)._interval_s == 0.5
    assert Reporter(Ear(), 7, speakers=10_000)._interval_s == 20


@pytest.mark.parametrize(
    ("document", "event"),
    [
        ({"event": "StepProgress", "step": "a", "done": 1, "total": None, "node": ""},
         StepProgress(step="a", done=1)),
        ({"event": "StepStarted", "step": "a"}, StepStarted(step="a")),
        ({"event": "Note", "text": "x"}, Note(text="x")),
        ({"event": "Odd", "step": "a"}, None),
        ({"event": "Note", "txt": "x"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_line_of_progress_becomes_an_event(document: dict[str, Any], event: object) -> None:
    assert event_of(document) == event


def test_how_the_fetch_goes_is_told_while_it_runs() -> None:
    ear = Ear()
    reporter = Reporter(ear, 7, pace=PACE, fetch=lambda: {"waits_for": "disk"})
    _run(ear, reporter, lambda: reporter.succeed({"bytes": 9}))
    assert ear.heard == [
        {"state": "running", "step": "queued", "swarm": {"waits_for": "disk"}},
        {"state": "done", "receipt": {"bytes": 9}},
    ]
