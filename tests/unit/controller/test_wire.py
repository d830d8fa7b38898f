import json
from typing import Any

import pytest

from nodectl.catalog.records import JobKind, WorkState
from nodectl.controller import wire
from nodectl.errors import InvalidInput

JOB = {"kind": "restore", "name": "golden", "nodes": ["a"], "options": {"path": "/srv/x"}}


def _body(document: object) -> bytes:
    return json.dumps(document).encode()


def test_a_job_is_read() -> None:
    request = wire.parse_job(_body(JOB))
    assert (request.kind, request.generation, request.nodes) == (JobKind.RESTORE, None, ("a",))
    assert wire.parse_job(_body({**JOB, "generation": None})).generation is None
    assert wire.parse_job(_body({**JOB, "generation": 4})).generation == 4


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "wipe"},
        {"nodes": []},
        {"nodes": "a"},
        {"nodes": [1]},
        {"name": "../x"},
        {"generation": "1"},
        {"generation": -1},
        {"generation": True},
        {"options": {}},
        {"options": {"path": "relative"}},
        {"options": {"path": "/x", "keep_extra": "yes"}},
        {"options": {"path": "/x", "shell": "rm"}},
        {"options": []},
        {"extra": 1},
    ],
)
def test_a_wrong_job_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        wire.parse_job(_body({**JOB, **change}))


def test_a_fetch_takes_no_path() -> None:
    with pytest.raises(InvalidInput, match=r"options\.path"):
        wire.parse_job(_body({**JOB, "kind": "fetch"}))


def test_a_report_is_read() -> None:
    report = wire.parse_report(_body({"state": "failed", "step": "fetch", "lines": ["a", "b"]}))
    assert (report.state, report.step, report.lines) == (WorkState.FAILED, "fetch", ("a", "b"))


@pytest.mark.parametrize(
    "document",
    [{}, {"state": "odd"}, {"state": "done", "lines": [1]}, {"state": "done", "done": -1},
     {"state": "done", "step": "x" * 5000}, {"state": "done", "lines": ["x"] * 100}, [], 5],
)  # fmt: skip
def test_a_wrong_report_is_refused(document: object) -> None:
    with pytest.raises(InvalidInput):
        wire.parse_report(_body(document))


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        wire.parse_report(body)


@pytest.mark.parametrize("url", ["ftp://x", "https://x:1", "x", "http://" + "x" * 300])
def test_an_announcement_needs_a_peers_url(url: str) -> None:
    body = {"url": url, "have_bytes": 0, "complete": False}
    with pytest.raises(InvalidInput):
        wire.parse_announcement(_body(body), node="a")


@pytest.mark.parametrize("text", ["-1", "x", "11", "", "1.5", "\u0661"])
def test_a_count_of_a_query_is_bounded(text: str) -> None:
    with pytest.raises(InvalidInput):
        wire.parse_count({"n": text}, "n", 0, most=10)


def test_how_a_fetch_goes_is_taken_as_it_is() -> None:
    swarm = {"waits_for": "link", "bytes_per_s": 5, "from": {"a": 7}}
    assert wire.parse_report(_body({"state": "running", "swarm": swarm})).swarm == swarm
    assert wire.parse_report(_body({"state": "running"})).swarm == {}


@pytest.mark.parametrize(
    "swarm",
    [
        {"from": {"a": "much"}},
        {"from": 3},
        {"bytes_per_s": "fast"},
        {"waits_for": "x" * 65},
        {"x" * 65: 1},
        {"list": [1]},
        {str(number): 1 for number in range(40)},
        {"from": {str(number): 1 for number in range(5000)}},
    ],
)
def test_what_is_no_word_about_a_fetch_is_refused(swarm: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="swarm"):
        wire.parse_report(_body({"state": "running", "swarm": swarm}))
