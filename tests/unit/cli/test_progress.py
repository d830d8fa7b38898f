"""The three readers of the event stream."""

import json
import re

import pytest

from nodectl.cli.progress import JsonLines, PlainLines, TerminalBars
from nodectl.events import Event, Note, StepFinished, StepProgress, StepStarted

EVENTS: tuple[Event, ...] = (
    StepStarted(step="fetch", total=1000, node="n1"),
    StepProgress(step="fetch", done=400, total=1000, node="n1"),
    Note(text="a word"),
    StepFinished(step="fetch", seconds=2.5, node="n1"),
)


def test_plain_lines_tell_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    reader = PlainLines()
    for event in EVENTS:
        reader.on(event)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["n1: fetch ...", "a word", "n1: fetch done in 2.50 s"]


def test_json_lines_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    reader = JsonLines()
    for event in EVENTS:
        reader.on(event)
    out, err = capsys.readouterr()
    assert out == ""
    said = [json.loads(line) for line in err.splitlines()]
    assert [one["event"] for one in said] == ["StepStarted", "Note", "StepFinished"] or [
        one["event"] for one in said
    ] == ["StepStarted", "StepProgress", "Note", "StepFinished"]
    assert said[0]["node"] == "n1"


def screen(text: str) -> list[str]:
    """Play what was written on a terminal: the sequences that TerminalBars uses."""
    lines, at = [""], 0
    for number, command, line in re.findall(r"\x1b\[(\d*)([AJK])|([^\x1b\n]*\n)", text):
        if command == "A":
            at -= int(number)
        elif command == "J":
            lines = [*lines[:at], ""]
        elif line:
            lines[at] = line.rstrip("\n")
            at += 1
            lines = lines if at < len(lines) else [*lines, ""]
    return lines


def test_running_lines_are_redrawn_and_finished_ones_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    reader = TerminalBars()
    for node in ("n1", "n2", "n3"):
        reader.on(StepStarted(step="fetch", total=1000, node=node))
    reader.on(StepFinished(step="fetch", seconds=1.0, node="n2"))
    reader.on(Note(text="a word"))
    shown = screen(capsys.readouterr().err)
    assert shown == ["n2: fetch done in 1.00 s", "a word", "n1: fetch ...", "n3: fetch ...", ""]


def test_a_small_terminal_is_not_overflowed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "10")
    reader = TerminalBars()
    for number in range(50):
        reader.on(StepStarted(step="a step with a rather long name", node=f"node{number}"))
    shown = screen(capsys.readouterr().err)
    assert len(shown) < 10
    assert all(len(line) < 30 for line in shown)
    assert shown[-2] == "and 43 more"
