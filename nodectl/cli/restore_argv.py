"""The command line of the process that restores for a job: this same program again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nodectl.zipapp.identity import self_command

if TYPE_CHECKING:
    from nodectl.catalog.records import Job
    from nodectl.node.state import StateFolder


def restore_argv(job: "Job", state: "StateFolder") -> Sequence[str]:
    """Return `nodectl image restore NAME DIR --generation G --json --state DIR`."""
    from nodectl.node.restore import target_of

    path = target_of(job, state.membership().node)
    words = [
        *self_command(), "image", "restore", job.name, str(path),
        "--generation", str(job.generation), "--json", "--state", str(state.folder),
    ]  # fmt: skip
    return [*words, "--keep-extra"] if job.options.get("keep_extra") else words
