"""Apply a layout to this machine's disks, or capture the layout that they have."""

from collections.abc import Callable, Sequence

from nodectl.disk.apply import apply_plan, locked, released_on_failure
from nodectl.disk.capture import captured_layout
from nodectl.disk.choose import choose_one
from nodectl.disk.facts import DiskFacts
from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.probe import disk_named, probe_contents, probe_machine
from nodectl.disk.probe_stack import probe_stack
from nodectl.disk.survey import look_and_plan, need_root, settle
from nodectl.errors import CommandFailed, DiskChanged, NotConfirmed, PathUnreadable
from nodectl.events import Observer


def apply_layout(
    layout: Layout,
    disks: Sequence[str],
    *,
    expect: str,
    unmount: bool,
    confirm: Callable[[DiskPlan], bool],
    observer: Observer,
) -> DiskPlan:
    """Make disks as `layout` says, once `confirm` has said yes; return what was done.

    Raises:
        DiskChanged: the plan's fingerprint is not `expect`; nothing was written.
        NotConfirmed: `confirm` said no; nothing was written.
        NodectlError: what `look_and_plan` and `apply_plan` raise.
    """
    plan = look_and_plan(layout, disks, PlanWish(keep_equal=True, unmount=unmount))
    if expect and plan.fingerprint != expect:
        raise DiskChanged(
            f"the plan's fingerprint is {plan.fingerprint}, not {expect}; nothing was written",
            hint="the disks or the layout changed: read the plan again",
        )
    if plan.is_empty:
        return plan
    if not confirm(plan):
        raise NotConfirmed(
            "the disks were left as they are: the plan was not confirmed",
            hint="answer yes, or pass --yes after reading the plan",
        )
    with released_on_failure(plan), locked(plan):
        apply_plan(plan, observer)
    settle()  # links such as /dev/disk/by-label come once the locks are gone
    return plan


def capture_layout(
    disks: Sequence[str], *, without: Sequence[str] = ()
) -> tuple[Layout, tuple[str, ...]]:
    """Return the layout of this machine's disks, and what it cannot express.

    Disks that are not named and cannot be read are among the latter.

    Args:
        disks: paths or serials of those to capture; none: all that are in use.
        without: those that do not belong to it.

    Raises:
        NeedsRoot: only root may read disks.
        DiskMissing: a disk that is named is not there.
    """
    need_root()
    machine = probe_machine()
    wishes = [disk_named(word) for word in disks]
    left_out = [choose_one(machine.disks, disk_named(word)) for word in without]
    chosen = [choose_one(machine.disks, wish) for wish in wishes] if wishes else machine.disks
    looked, unread = _looked_into(
        [disk for disk in chosen if disk not in left_out], named=bool(wishes)
    )
    layout, remarks = captured_layout(probe_stack(machine, looked), looked, named=bool(wishes))
    return layout, (*unread, *remarks)


def _looked_into(disks: Sequence[DiskFacts], *, named: bool) -> tuple[list[DiskFacts], list[str]]:
    """Return disks with what stands on them; one that nobody named and cannot be read: a remark."""
    looked: list[DiskFacts] = []
    remarks = []
    for disk in disks:
        # A reader without a card cannot be read at all.
        if not named and (disk.type == "loop" or disk.removable):
            looked.append(disk)
            continue
        try:
            looked.append(probe_contents(disk))
        except (CommandFailed, PathUnreadable) as exc:
            if named:
                raise
            remarks.append(" ".join(str(exc).split()))
    return looked, remarks
