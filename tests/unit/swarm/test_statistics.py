import dataclasses
import json

import pytest

from nodectl.controller.wire import parse_report
from nodectl.swarm.statistics import FetchStatistics, Wait, Waited

FLOWING = FetchStatistics(
    missing_spans=10,
    bytes_per_s=1e6,
    bytes_from={"a": 5},
    neighbours=3,
    asked=8,
    unchecked=1,
    unstored_bytes=100,
    unstored_max=1000,
    limited=0,
    paused=False,
    control=7,
    failures={},
)


@pytest.mark.parametrize(
    ("change", "wait"),
    [
        ({}, Wait.LINK),
        ({"asked": 0, "unchecked": 0}, Wait.PEER),
        ({"unchecked": 4}, Wait.CPU),
        ({"limited": 1, "unchecked": 4}, Wait.LIMIT),
        ({"limited": 1, "paused": True}, Wait.PAUSE),
        ({"unstored_bytes": 1001, "limited": 1}, Wait.DISK),
        ({"missing_spans": 0, "asked": 0}, Wait.DISK),  # all came, the last is being stored
        ({"missing_spans": 0, "unstored_bytes": 0}, Wait.NOTHING),
    ],
)
def test_what_a_fetch_waits_for(change: dict[str, int], wait: Wait) -> None:
    statistics = dataclasses.replace(FLOWING, **change)  # type: ignore[arg-type]
    assert statistics.wait() is wait
    assert statistics.to_json()["waits_for"] == wait.value


def test_time_counts_for_what_was_waited_for_at_the_next_look() -> None:
    waited = Waited()
    for wait, now in ((Wait.PEER, 5.0), (Wait.LINK, 6.0), (Wait.DISK, 9.0), (Wait.LINK, 9.5)):
        waited.look(wait, now)
    assert waited.to_json() == {"disk": 3000, "link": 1500}
    assert list(waited.to_json()) == ["disk", "link"]


def test_the_controller_takes_what_a_fetch_waited_for() -> None:
    waited = Waited()
    waited.look(Wait.PEER, 0.0)
    waited.look(Wait.PEER, 12.34)
    body = {"state": "running", "step": "fetch", "swarm": {"waited_ms": waited.to_json()}}
    assert parse_report(json.dumps(body).encode()).swarm == {"waited_ms": {"peer": 12340}}
