"""A restore for a job, done by a child process of this same program.

A process of its own: its memory goes back to the system, its crash is not ours, and root work has
its own log. The child is `nodectl restore`; its progress lines come back as events, its result
object is the receipt.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nodectl.catalog.records import Job
from nodectl.errors import RestoreFailed
from nodectl.events import Observer
from nodectl.node.report import event_of
from nodectl.node.state import StateFolder
from nodectl.run import run_lines

_SAID = "nodectl: "  # how `cli/main.py` begins the sentence of an error


class RestoreArgv(Protocol):
    """Makes the command line of the child."""

    def __call__(self, job: Job, state: StateFolder) -> Sequence[str]:
        """Return argv; with `--json` lines on stderr, and one JSON object on stdout."""
        ...


def target_of(job: Job, node: str) -> Path:
    """Return where a job restores to on a node; `{node}` in the job's path is the node's name."""
    return Path(str(job.options["path"]).replace("{node}", node))


async def run_restore(
    argv_of: RestoreArgv, job: Job, state: StateFolder, observer: Observer
) -> dict[str, Any]:
    """Restore a job's release into the job's directory; return the child's result object.

    Raises:
        RestoreFailed: the child's status is not 0.
    """
    said: list[str] = []

    def heard(line: str) -> None:
        document = _object_of(line)
        event = None if document is None else event_of(document)
        if event is not None:
            observer.on(event)
        elif line:
            said.append(line)
            del said[:-20]

    completed = await run_lines(argv_of(job, state), heard)
    if completed.status != 0:
        sentence = next((line for line in reversed(said) if line.startswith(_SAID)), "")
        sentence = sentence.removeprefix(_SAID) or f"restore ended with status {completed.status}"
        raise RestoreFailed(sentence, lines=tuple(said))
    lines = completed.stdout.decode("utf-8", "replace").strip().splitlines()
    return (_object_of(lines[-1]) if lines else None) or {}


def _object_of(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
