"""Which machines start an installer: armed by an operator, ended by what becomes of their job.

A machine is armed while a clone job waits for it or runs on it; else it starts from its own disk.
So there is no second state that could say something else than the job: applied, failed or called
off means `local`, and a machine that loses power half-way is still armed.

An armed machine that asks gets a boot ticket: a join token for the role installer, for its name and
the network card that asked, good once and for some minutes. While it is good and unused the same
machine gets the same one. Its join takes the place of the membership that the node has; that one
comes back when the clone fails, and when it stands the installer's becomes the node's.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.records import (
    FINAL,
    Job,
    JobKind,
    NodeRecord,
    ReleaseRecord,
    Task,
    Work,
    WorkState,
)
from nodectl.controller.inventories import Inventories
from nodectl.controller.jobs import Jobs, Report, Row
from nodectl.controller.members import Members
from nodectl.errors import NetbootRefused, WriteConflict
from nodectl.netboot.scripts import checked_arguments
from nodectl.trust.token import Machine, Role, Token

log = logging.getLogger(__name__)

ARGUMENTS_ATTRIBUTE = "installer-arguments"
"""The attribute of a node that holds more arguments for the installer's kernel."""

TICKET_S = 900
_TICKETS_MAX = 8  # of one node for one job: an installer that never gets further is given up
_REPLACED = "replaced/"  # + node: the membership that an installer took the place of
_SHOWN = 10
# The installer has nothing more to do: either the clone stands, or it never will.
_SETTLED = FINAL | {WorkState.APPLIED, WorkState.REBOOTING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Armed:
    """A machine that is to start an installer."""

    node: str
    job: Job
    work: Work
    arguments: str

    def to_json(self) -> dict[str, Any]:
        """Return what an operator is told."""
        return {
            "node": self.node,
            "state": "cloner",
            "job": self.job.job_id,
            "image": self.job.name,
            "generation": self.job.generation,
            "at": self.work.state.value,
        }


@dataclass(slots=True, kw_only=True)
class _Ticket:
    """The last boot ticket of a node; its secret is in this process alone."""

    job_id: int
    mac: str
    token: Token = field(repr=False)
    expires: float
    given: int  # tickets for this job, this one counted


class Netboot:
    """Arms machines and lets them in."""

    def __init__(
        self,
        catalog: Catalog,
        jobs: Jobs,
        members: Members,
        inventories: Inventories,
        now: Callable[[], float],
    ) -> None:
        """Work on what the controller has; `now` is its clock."""
        self._catalog = catalog
        self._jobs = jobs
        self._members = members
        self._inventories = inventories
        self._now = now
        self._tickets: dict[str, _Ticket] = {}

    def arm(
        self,
        record: ReleaseRecord,
        nodes: Sequence[str],
        options: Mapping[str, Any],
        *,
        by: str,
    ) -> Job:
        """Let machines clone an image when they start next; what they were armed for is called off.

        Raises:
            NetbootRefused: one of them cannot be: each is named, and none was armed.
        """
        names = tuple(dict.fromkeys(nodes))
        refused = [why for name in names if (why := self._unfit(name))]
        if refused:
            more = f" (and {len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
            raise NetbootRefused(
                f"{'; '.join(refused[:_SHOWN])}{more}: nothing was armed",
                hint="nodectl node show NAME tells what is known of a node",
            )
        self.call_off(names, f"armed again by {by}")
        return self._jobs.create(JobKind.CLONE, record, names, options=dict(options), by=by)

    def _unfit(self, name: str) -> str:
        """Return why a machine cannot be armed; empty: it can."""
        found = self._inventories.find(name)
        if found is None:
            return f"the inventory has no node {name}"
        inventory, _ = found
        if not tuple(inventory.all_macs()):
            return f"{name} has no MAC address in the inventory"
        member = self._members.find(name)
        if member is not None and member.role is Role.OPERATOR:
            return f"{name} is an operator's machine"
        checked_arguments(inventory.attributes.get(ARGUMENTS_ATTRIBUTE, ""))
        return ""

    def call_off(self, nodes: Sequence[str], why: str) -> tuple[str, ...]:
        """Let machines start from their own disks again; return those that were armed."""
        found = []
        for name in dict.fromkeys(nodes):
            for job, work in self._open(name):
                report = Report(
                    state=WorkState.FAILED, step=work.step, sentence=f"called off: {why}"
                )
                self.ended(self._jobs.report(job.job_id, name, report))
                found.append(name)
        return tuple(found)

    def layout_of(self, name: str) -> str:
        """Return the name of the disk layout that the inventory says of a node, or nothing."""
        found = self._inventories.find(name)
        return "" if found is None else found[0].layout

    def armed(self, name: str) -> Armed | None:
        """Return what a node is armed for, or None: it starts from its own disk."""
        last = next(reversed(self._open(name)), None)
        found = self._inventories.find(name)
        if last is None or found is None:
            return None
        arguments = found[0].attributes.get(ARGUMENTS_ATTRIBUTE, "")
        return Armed(node=name, job=last[0], work=last[1], arguments=arguments)

    def all_armed(self) -> tuple[Armed, ...]:
        """Return every armed machine, by name."""
        names = sorted({work.node for _, work in self._jobs.open_work(Task.CLONE)})
        return tuple(one for one in map(self.armed, names) if one is not None)

    def node_of(self, mac: str) -> NodeInventory | None:
        """Return the node that has a network card, or None."""
        return self._inventories.with_mac(mac)

    def ticket(self, armed: Armed, mac: str, urls: tuple[str, ...]) -> Token:
        """Return the boot ticket of an armed machine.

        Raises:
            NetbootRefused: it has had too many for this job, which has failed with this.
        """
        last = self._tickets.get(armed.node)
        if last is None or last.job_id != armed.job.job_id:
            last = None
        if last is not None and last.mac == mac and self._good(last):
            return last.token
        given = 1 if last is None else last.given + 1
        if given > _TICKETS_MAX:
            sentence = (
                f"{armed.node} started its installer {_TICKETS_MAX} times and came no further"
            )
            report = Report(state=WorkState.FAILED, step="boot", sentence=sentence)
            self.ended(self._jobs.report(armed.job.job_id, armed.node, report))
            raise NetbootRefused(sentence)
        if last is not None:
            self._members.forget_token(last.token.token_id)
        token = self._members.issue_token(
            urls, role=Role.INSTALLER, ttl_s=TICKET_S, uses=1,
            machine=Machine(armed.node, mac), replaces=True,
        )  # fmt: skip
        # It is renewed early: a slow machine needs some minutes to come as far as its join.
        end = self._now() + TICKET_S / 2
        self._tickets[armed.node] = _Ticket(
            job_id=armed.job.job_id, mac=mac, token=token, expires=end, given=given
        )
        return token

    def _good(self, ticket: _Ticket) -> bool:
        return self._now() < ticket.expires and self._members.token_is_good(ticket.token.token_id)

    def ended(self, row: Row) -> None:
        """Take note of what became of work; the membership follows."""
        work = row.work
        if work.task is not Task.CLONE or work.state not in _SETTLED:
            return
        last = self._tickets.get(work.node)
        if last is not None and last.job_id == work.job_id:
            self._members.forget_token(last.token.token_id)
            del self._tickets[work.node]
        member = self._members.find(work.node)
        if member is None or member.role is not Role.INSTALLER:
            return
        if work.state is not WorkState.FAILED:
            self._members.change(replace(member, role=Role.NODE))
            self._forget_replaced(work.node)
        else:
            self._put_back(work.node)

    def _put_back(self, name: str) -> None:
        document = self._catalog.get(_REPLACED + name)
        if document is None:
            self._members.remove(name)
            return
        self._members.change(NodeRecord.from_json(document.value))
        self._forget_replaced(name)

    def _forget_replaced(self, name: str) -> None:
        document = self._catalog.get(_REPLACED + name)
        if document is not None:
            self._catalog.delete(document.key, expected=document.revision)

    def keep_replaced(self, before: NodeRecord) -> None:
        """Remember the membership that an installer is about to take the place of."""
        if before.role is Role.INSTALLER:
            return
        document = self._catalog.get(_REPLACED + before.name)
        expected = ABSENT if document is None else document.revision
        try:
            self._catalog.put(_REPLACED + before.name, before.to_json(), expected=expected)
        except WriteConflict:
            log.warning("another process writes the membership of %s at the same time", before.name)

    def _open(self, name: str) -> list[tuple[Job, Work]]:
        return [(job, work) for job, work in self._jobs.work_for(name) if work.task is Task.CLONE]
