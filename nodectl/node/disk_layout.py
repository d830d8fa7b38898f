"""Apply a layout to this machine's disks, or capture the layout that they have."""

from collections.abc import Callable, Sequence

from nodectl.disk.apply import apply_plan, locked, released_on_failure
from nodectl.disk.capture import captured_layout
from nodectl.disk.choose import choose_one
from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.probe import disk_named, probe_machine
from nodectl.disk.survey import look_and_plan, look_into, need_root, settle
from nodectl.errors import DiskChanged, NotConfirmed
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
    chosen = [choose_one(machine.disks, wish) for wish in wishes] if wishes else list(machine.disks)
    left_out = [choose_one(machine.disks, disk_named(word)) for word in without]
    chosen = [disk for disk in chosen if disk not in left_out]
    machine, looked = look_into(machine, chosen)
    return captured_layout(machine, looked, named=bool(wishes))
