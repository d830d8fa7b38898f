import dataclasses

import pytest

from nodectl.swarm.statistics import FetchStatistics, Wait

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
