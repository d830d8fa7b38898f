"""What a clone's first start means for its job. Pure: `jobs.py` holds the rows and writes them.

A node that has applied an image says, with its receipt, what its new system will be and the hash of
a ticket that it left on the new disk. Whoever comes with that ticket is the new system: what it has
read back is compared with what was to come, and the job is done, or has failed with the difference.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nodectl.catalog.records import FINAL, Awaited, Task, Work, WorkState
from nodectl.errors import TokenRefused

TICKET_LIFE_S = 7 * 24 * 3600
_BOOT, _RESTART = "boot", "restart"
_WORDS = {"root": "image", "root_uuid": "root filesystem", "machine_id": "machine-id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a new system says of itself."""

    job_id: int
    node: str
    ticket: bytes
    seen: Mapping[str, Any]


def check_ticket(work: Work | None, told: Told, now: float) -> Work:
    """Return the work that a ticket is for.

    Raises:
        TokenRefused: it is for none; one sentence for every reason, for a stranger asks.
    """
    digest = hashlib.sha256(told.ticket).hexdigest()
    awaited = None if work is None else work.awaits
    right = awaited is not None and hmac.compare_digest(digest, awaited.ticket_sha256)
    if work is None or awaited is None or not right or now > awaited.until:
        raise TokenRefused(f"the ticket is not for the start of {told.node} that a job waits for")
    return work


def concluded(work: Work, seen: Mapping[str, Any]) -> Work:
    """Return the work as it is once the new system has told what it is.

    A system that told is not heard a second time: its answer was lost on the way.
    """
    if work.awaits is None or (work.state in FINAL and not may_be_corrected(work)):
        return work
    wanted = {**work.awaits.expected, "hostname": work.node}
    others = [
        f"{_WORDS.get(name, name)} {seen.get(name) or 'unknown'}, not {value}"
        for name, value in wanted.items()
        if value and seen.get(name) != value
    ]
    heard = replace(work, receipt={**work.receipt, "booted": dict(seen)}, by_controller=False)
    if others:
        sentence = f"{work.node} has started, but not what was applied: {'; '.join(others)}"
        return replace(heard, state=WorkState.FAILED, step=_BOOT, sentence=sentence)
    return replace(heard, state=WorkState.DONE, step="booted", sentence="")


def may_be_corrected(work: Work) -> bool:
    """Say whether a failure is only what the controller concluded from a node's silence."""
    return work.by_controller and work.step in {"report", _BOOT, _RESTART}


def silence(work: Work, silent_s: float, limits: tuple[float, float], *, back: bool) -> Work | None:
    """Return the failed work of a node whose start nobody told of; None: it may still come.

    Args:
        work: applied, or rebooting.
        silent_s: seconds since it became so.
        limits: seconds to wait for a restart, and for a start.
        back: whether the node was heard of as a member after it went down.
    """
    applied_s, boot_s = limits
    if work.state is WorkState.APPLIED and silent_s > applied_s:
        sentence = (
            f"the image is on the disk of {work.node}, and {applied_s:g} s later it has not told "
            "of a start: it was not restarted, or did not come up"
        )
        return _failed(work, _RESTART, sentence)
    if work.state is WorkState.REBOOTING and silent_s > boot_s:
        sentence = f"{work.node} went down to start from its new disk and did not tell of it within"
        why = (
            "it is heard of as a member, so its firmware has started another disk or the network, "
            "or what tells of the start was stopped"
            if back
            else "it is off, stands in its firmware, boot loader or initramfs, or has no network"
        )
        return _failed(work, _BOOT, f"{sentence} {boot_s:g} s: {why}")
    return None


def superseded(work: Work, job_id: int) -> Work:
    """Return the open clone of a node that has begun another one."""
    sentence = f"{work.node} has begun to clone anew, as job {job_id}"
    return replace(_failed(work, work.step or "begin", sentence), by_controller=False)


def is_open_clone(work: Work) -> bool:
    """Say whether a work is a clone that nothing was concluded of."""
    return work.task is Task.CLONE and work.state not in FINAL


def awaited(document: Mapping[str, str], until: int) -> Awaited:
    """Return what a node that applied an image says will come."""
    expected = {name: value for name, value in document.items() if name != "ticket_sha256"}
    return Awaited(ticket_sha256=document["ticket_sha256"], until=until, expected=expected)


def _failed(work: Work, step: str, sentence: str) -> Work:
    return replace(work, state=WorkState.FAILED, step=step, sentence=sentence, by_controller=True)
