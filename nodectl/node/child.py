"""Work for a job that a child process of this same program does: its events, its result.

A process of its own: its memory goes back to the system, its crash is not ours, and root work has
its own log. Its progress lines (`--json`) come back as events, its result object is the receipt.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nodectl.events import Observer
from nodectl.node.report import event_of
from nodectl.run import run_lines

_SAID = "nodectl: "  # how `cli/main.py` begins the sentence of an error
_KEPT = 20  # lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a child left behind."""

    status: int
    sentence: str  # of its error; empty: it said none
    lines: tuple[str, ...]  # the last that were no events
    result: dict[str, Any] = field(default_factory=dict)


async def run_child(argv: Sequence[str], observer: Observer) -> Child:
    """Run a command of ours to its end; its events go to the observer."""
    said: list[str] = []

    def heard(line: str) -> None:
        document = _object_of(line)
        event = None if document is None else event_of(document)
        if event is not None:
            observer.on(event)
        elif line:
            said.append(line)
            del said[:-_KEPT]

    completed = await run_lines(argv, heard)
    sentence = next((line for line in reversed(said) if line.startswith(_SAID)), "")
    lines = completed.stdout.decode("utf-8", "replace").strip().splitlines()
    return Child(
        status=completed.status,
        sentence=sentence.removeprefix(_SAID),
        lines=tuple(said),
        result=(_object_of(lines[-1]) if lines else None) or {},
    )


def _object_of(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
