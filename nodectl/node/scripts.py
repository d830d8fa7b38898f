"""The scripts of an image, run by a clone: one before the disks are looked at, one at the end.

The first may make the disks (a RAID controller's volumes), so it runs before they are planned. The
second runs when the tree is whole, compared and bootable: what it changes is the site's own, and is
not compared. A script that fails fails the clone.
"""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nodectl.catalog.cloning import CloneConfig, Part, PartKind
from nodectl.events import Note, Observer, step
from nodectl.fsio import write_atomic
from nodectl.run import run

_TIMEOUT_S = 3600.0
_SHOWN = 20  # last lines of what a script says
_PROGRAM = 0o700


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """What runs before and after."""

    pre: Part | None = None
    post: Part | None = None

    @classmethod
    def of(cls, config: CloneConfig) -> "Scripts":
        """Return the scripts of what a node is cloned with."""
        return cls(pre=config.part(PartKind.PRE), post=config.part(PartKind.POST))


def run_script(part: Part, *, node: str, root: Path | None, observer: Observer) -> None:
    """Run a script as this process's user, with the words that it is told in its environment.

    NODECTL_IMAGE and NODECTL_NODE are names; NODECTL_ROOT is where the new tree is mounted.

    Raises:
        CommandFailed: it ended with another status than 0, or took longer than an hour.
        ToolMissing: the program that its first line names is not there.
    """
    told = {"NODECTL_IMAGE": part.what.name, "NODECTL_NODE": node}
    if root is not None:
        told["NODECTL_ROOT"] = os.fspath(root)
    title = part.what.title or "script"
    with (
        step(observer, f"run the {part.what.kind}-script"),
        tempfile.TemporaryDirectory(prefix="nodectl-script-") as folder,
    ):
        program = Path(folder) / f"{part.what.kind}-{title}"
        write_atomic(program, part.content, mode=_PROGRAM)
        words = ["env", *(f"{name}={value}" for name, value in told.items()), str(program)]
        done = run(words, timeout=_TIMEOUT_S)
    for line in done.stdout.decode("utf-8", "replace").splitlines()[-_SHOWN:]:
        observer.on(Note(text=f"{part.what.kind}-script: {line}"))
