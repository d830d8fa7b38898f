"""A restore for a job, done by a child process: `nodectl image restore`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nodectl.catalog.records import Job
from nodectl.errors import RestoreFailed
from nodectl.events import Observer
from nodectl.node.child import run_child
from nodectl.node.state import StateFolder


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
    child = await run_child(argv_of(job, state), observer)
    if child.status != 0:
        sentence = child.sentence or f"restore ended with status {child.status}"
        raise RestoreFailed(sentence, lines=child.lines)
    return child.result
