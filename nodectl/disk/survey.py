"""Look at this machine's disks and plan a layout onto them. Writes nothing."""

import contextlib
import os
import time
import uuid
from collections.abc import Sequence

from nodectl.disk.choose import choose_disks, named_disks
from nodectl.disk.facts import DiskFacts, MachineFacts, UseKind
from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan, PlanWish, plan_layout
from nodectl.disk.probe import disk_named, probe_contents, probe_machine
from nodectl.disk.probe_stack import probe_stack
from nodectl.disk.release import refuse_held
from nodectl.errors import CommandFailed, NeedsRoot, ToolMissing
from nodectl.run import run

_SETTLE_S = 20
_CLAIM_WAIT_S = 3.0
_CLAIM_POLL_S = 0.1


def look_and_plan(layout: Layout, words: Sequence[str], wish: PlanWish) -> DiskPlan:
    """Return the plan for a layout; `words` name disks as `named_disks` says.

    Raises:
        NeedsRoot: only root may read disks.
        DiskMissing: no disk, or more than one, is meant.
        DiskBusy: a disk is in use.
        DiskTooSmall: the layout or the image does not fit.
        LayoutUnfit: the layout is not for this machine.
    """
    need_root()
    settle()
    deadline = time.monotonic() + _CLAIM_WAIT_S
    while True:
        machine, chosen = _look(layout, words, wish)
        claimed = any(use.kind is UseKind.CLAIMED for d in chosen.values() for use in d.uses)
        if not claimed or time.monotonic() > deadline:
            return plan_layout(machine, layout, chosen, wish, uuid.uuid4)
        time.sleep(_CLAIM_POLL_S)  # udev or an assembly that has just begun


def settle() -> None:
    """Let udev finish what it has begun: it assembles arrays of disks that were just released."""
    with contextlib.suppress(ToolMissing, CommandFailed):  # no udev: nobody assembles anything
        run(["udevadm", "settle", f"--timeout={_SETTLE_S}"])


def _look(
    layout: Layout, words: Sequence[str], wish: PlanWish
) -> tuple[MachineFacts, dict[str, DiskFacts]]:
    named = {name: disk_named(word) for name, word in named_disks(layout, words).items()}
    machine = probe_machine()
    chosen = choose_disks(machine.disks, layout, named)
    if not wish.keep_equal:  # before its content: it may not even be readable
        refuse_held(list(chosen.values()), unmount=wish.unmount)
    looked = {name: probe_contents(disk) for name, disk in chosen.items()}
    return probe_stack(machine, list(looked.values())), looked


def need_root() -> None:
    """Refuse to go on as a plain user.

    Raises:
        NeedsRoot: this is one.
    """
    if os.geteuid() != 0:
        raise NeedsRoot("reading and writing disks needs root", hint="run the command with sudo")
