"""A clone's job: applied, restarted, and done only when its new system told of its start."""

import hashlib

import pytest
from unit.controller.test_jobs import RECORD, Clocks

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.records import BEGUN_BY_NODE, JobKind, JobState, Work, WorkState
from nodectl.controller.first_boots import TICKET_LIFE_S, Told
from nodectl.controller.jobs import Jobs, Patience, Report
from nodectl.errors import InvalidInput, TokenRefused

TICKET = bytes(range(32))
AWAITS = {
    "ticket_sha256": hashlib.sha256(TICKET).hexdigest(),
    "root": "00" * 32,
    "root_uuid": "aaaa-bbbb",
    "machine_id": "ab" * 16,
}
SEEN = {
    "hostname": "n1", "root": "00" * 32, "root_uuid": "aaaa-bbbb", "machine_id": "ab" * 16,
    "kernel": "6.1.0", "firmware": "uefi", "entry": "0003 debian", "failed_units": [], "starts": 1,
}  # fmt: skip


class Lab:
    """A controller's jobs, and one clone of n1."""

    def __init__(self) -> None:
        self.clock = Clocks()
        self.catalog = MemoryCatalog()
        self.jobs = self._started()
        self.job = self.begin()

    def _started(self) -> Jobs:
        patience = Patience(applied_s=1000.0, boot_s=100.0)
        return Jobs(self.catalog, now=self.clock, monotonic=self.clock, patience=patience)

    def restart_controller(self) -> None:
        self.clock.at += 1
        self.jobs = self._started()

    def begin(self, node: str = "n1") -> int:
        return self.jobs.create(
            JobKind.CLONE, RECORD, [node], options={BEGUN_BY_NODE: True}, by=node
        ).job_id

    def apply(self) -> None:
        report = Report(state=WorkState.APPLIED, step="applied", receipt={"a": 1}, awaits=AWAITS)
        self.jobs.report(self.job, "n1", report)

    def go_down(self) -> None:
        report = Report(state=WorkState.REBOOTING, step="rebooting")
        self.jobs.report(self.job, "n1", report)

    def told(self, ticket: bytes = TICKET, **seen: str) -> str:
        told = Told(job_id=self.job, node="n1", ticket=ticket, seen={**SEEN, **seen})
        return self.jobs.booted(told).work.state.value

    def wait(self, seconds: float, *, heard: float = 0.0) -> None:
        self.clock.at += seconds
        self.jobs.expire(lambda _: heard)

    @property
    def row(self) -> Work:
        return self.jobs.rows(self.job)[0].work


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_it_is_done_when_the_new_system_has_told_and_not_before(lab: Lab) -> None:
    assert (lab.row.state, lab.row.step) == (WorkState.RUNNING, "begin")
    assert lab.jobs.work_for("n1") == lab.jobs.work_for("c") == ()  # nobody is told to do it
    lab.apply()
    assert lab.jobs.state(lab.job) is JobState.RUNNING
    lab.go_down()
    lab.restart_controller()
    assert lab.row.state is WorkState.REBOOTING
    assert lab.told() == "done"
    assert lab.jobs.state(lab.job) is JobState.OK
    assert lab.row.receipt == {"a": 1, "booted": SEEN}
    assert lab.row.step == "booted"


def test_a_start_that_nobody_announced_counts(lab: Lab) -> None:
    lab.apply()
    assert lab.told() == "done"


def test_what_was_told_twice_is_taken_once(lab: Lab) -> None:
    """The answer was lost on the way; and a ticket that was used can change nothing."""
    lab.apply()
    lab.told()
    assert lab.told(root_uuid="another") == "done"
    assert lab.row.receipt["booted"] == SEEN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root_uuid": "cccc"}, "root filesystem cccc, not aaaa-bbbb"),
        ({"machine_id": ""}, "machine-id unknown, not abab"),
        ({"hostname": "golden"}, "hostname golden, not n1"),
        ({"root": "11" * 32}, "image 1111"),
    ],
)
def test_another_system_than_the_one_applied_is_a_failure(
    lab: Lab, change: dict[str, str], said: str
) -> None:
    lab.apply()
    assert lab.told(**change) == "failed"
    assert lab.row.step == "boot"
    assert said in lab.row.sentence
    assert lab.told() == "failed"  # it was its word, not the controller's guess


def test_a_wrong_foreign_or_old_ticket_is_refused_alike(lab: Lab) -> None:
    sentences = set()
    with pytest.raises(TokenRefused) as early:
        lab.told()  # nothing was applied
    sentences.add(str(early.value))
    lab.apply()
    for told in (
        Told(job_id=lab.job, node="n1", ticket=bytes(32), seen=SEEN),
        Told(job_id=lab.job + 7, node="n1", ticket=TICKET, seen=SEEN),
    ):
        with pytest.raises(TokenRefused) as caught:
            lab.jobs.booted(told)
        sentences.add(str(caught.value))
    lab.clock.at += TICKET_LIFE_S + 1
    with pytest.raises(TokenRefused) as late:
        lab.told()
    assert sentences == {str(late.value)}
    assert lab.row.state is WorkState.APPLIED


def test_a_ticket_is_good_for_its_own_job_and_node_alone(lab: Lab) -> None:
    lab.apply()
    other = lab.begin("n2")
    with pytest.raises(TokenRefused):
        lab.jobs.booted(Told(job_id=other, node="n2", ticket=TICKET, seen=SEEN))


class TestSilence:
    def test_a_node_that_never_restarts(self, lab: Lab) -> None:
        lab.apply()
        lab.wait(999)
        assert lab.row.state is WorkState.APPLIED
        lab.wait(2)
        assert (lab.row.state, lab.row.step) == (WorkState.FAILED, "restart")
        assert "was not restarted, or did not come up" in lab.row.sentence

    def test_a_node_that_does_not_come_back(self, lab: Lab) -> None:
        lab.apply()
        lab.go_down()
        down = lab.clock.at
        lab.wait(101, heard=down + 5)  # its last words on the way down
        assert (lab.row.state, lab.row.step) == (WorkState.FAILED, "boot")
        assert "within 100 s: it is off, stands in its firmware" in lab.row.sentence

    def test_a_node_that_comes_back_with_its_old_system(self, lab: Lab) -> None:
        """The image is written, and the firmware starts something else."""
        lab.apply()
        lab.go_down()
        lab.wait(101, heard=lab.clock.at + 90)
        assert "its firmware has started another disk or the network" in lab.row.sentence

    def test_who_tells_later_is_believed(self, lab: Lab) -> None:
        lab.apply()
        lab.go_down()
        lab.wait(101)
        assert lab.jobs.state(lab.job) is JobState.FAILED
        assert lab.told() == "done"
        assert lab.jobs.state(lab.job) is JobState.OK
        assert not lab.row.by_controller

    def test_a_clone_that_was_killed_ends_although_its_node_is_heard(self, lab: Lab) -> None:
        lab.jobs.report(lab.job, "n1", Report(state=WorkState.RUNNING, step="restore"))
        lab.wait(301, heard=lab.clock.at + 300)
        assert (lab.row.state, lab.row.step) == (WorkState.FAILED, "report")
        assert "it was at: restore" in lab.row.sentence


def test_a_clone_begun_anew_ends_the_one_before(lab: Lab) -> None:
    lab.apply()
    first, second = lab.job, lab.begin()
    assert lab.jobs.state(first) is JobState.FAILED
    assert f"as job {second}" in lab.jobs.rows(first)[0].work.sentence
    assert lab.told() == "failed"  # the old disk's ticket


def test_a_clone_that_was_ordered_is_handed_out_until_it_is_applied(lab: Lab) -> None:
    job = lab.jobs.create(JobKind.CLONE, RECORD, ["n3"], options={}, by="c").job_id
    assert [job.job_id for job, _ in lab.jobs.work_for("n3")] == [job]
    assert lab.jobs.rows(job)[-1].work.state is WorkState.WAITING
    report = Report(state=WorkState.APPLIED, step="applied", awaits=AWAITS)
    lab.jobs.report(job, "n3", report)
    assert lab.jobs.work_for("n3") == ()


def test_states_that_a_task_does_not_have_are_refused(lab: Lab) -> None:
    fetch = lab.jobs.create(JobKind.FETCH, RECORD, ["n1"], options={}, by="c").job_id
    with pytest.raises(InvalidInput, match="fetch is never applied"):
        lab.jobs.report(fetch, "n1", Report(state=WorkState.APPLIED))
    with pytest.raises(InvalidInput, match="nothing was applied"):
        lab.go_down()
