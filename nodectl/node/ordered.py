"""Work is done only as the controller ordered it: signed, for this node, in time."""

from nodectl.node.client import Assigned
from nodectl.node.state import Membership
from nodectl.trust.order import Order, verify_order


def check_order(membership: Membership, assigned: Assigned, *, now: float) -> None:
    """Refuse work that the controller of this realm did not order of this node, in time.

    `now` is the controller's clock, seconds since 1970.

    Raises:
        OrderRefused: so it is.
    """
    job = assigned.job
    expected = Order(
        realm=membership.realm_id,
        node=membership.node,
        job_id=job.job_id,
        task=assigned.work.task.value,
        name=job.name,
        generation=job.generation,
        root=job.root.hex(),
        options=dict(job.options),
        expires=0,
    )
    verify_order(assigned.order, expected, keys=membership.job_keys, now=now)
