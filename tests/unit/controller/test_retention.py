"""Which releases are deleted, and which never."""

import pytest
from blake3 import blake3

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.model import ABSENT
from nodectl.catalog.records import Job, JobKind, Task, Work, WorkState, job_key, work_key
from nodectl.controller.members import Members
from nodectl.controller.releases import Publication, Releases
from nodectl.controller.retention import Retention, retain, roots_in_use
from nodectl.errors import UnknownImage
from nodectl.ids import Root
from nodectl.trust.realm import create_realm

DAY = 86_400


class Lab:
    """A catalog with five generations of a name, a day apart."""

    def __init__(self) -> None:
        self.catalog = MemoryCatalog()
        self.now = 0.0
        realm = create_realm("lab", now=0)
        self.releases = Releases(self.catalog, realm, lambda: self.now)
        self.members = Members(self.catalog, realm, lambda: self.now)
        self.members.add_first("n1", bytes(32))
        for _ in range(5):
            self.publish("golden", b"%d" % self.now)
            self.now += DAY

    def publish(self, name: str, block: bytes) -> Root:
        root = Root(blake3(block).digest())
        self.releases.publish(
            Publication(name=name, root=root, root_block=block, kind="tree", totals={}, origin="c")
        )
        return root

    def work(self, job_id: int, generation: int, state: WorkState) -> None:
        record = self.releases.get("golden", generation)
        job = Job(
            job_id=job_id,
            kind=JobKind.FETCH,
            name="golden",
            generation=generation,
            root=record.signed.release.root,
            nodes=("n1",),
            options={},
            created=0,
            created_by="c",
        )
        work = Work(job_id=job_id, node="n1", task=Task.FETCH, state=state)
        self.catalog.put(job_key(job_id), job.to_json(), expected=ABSENT)
        self.catalog.put(work_key("n1", job_id), work.to_json(), expected=ABSENT)

    def left(self, name: str = "golden") -> list[int]:
        return [one.signed.release.generation for one in self.releases.list(name)]

    def retain(self, **keep: float | None) -> list[int]:
        retention = Retention(**keep)  # type: ignore[arg-type]
        dropped = retain(self.catalog, retention, now=self.now)
        return [one.signed.release.generation for one in dropped]


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_the_last_n_are_kept(lab: Lab) -> None:
    assert lab.retain(keep_last=2) == [1, 2, 3]
    assert lab.left() == [4, 5]
    assert {generation for *_, generation in roots_in_use(lab.catalog)} == {4, 5}


def test_nothing_is_deleted_unless_something_is_asked_for(lab: Lab) -> None:
    assert lab.retain() == []
    assert lab.left() == [1, 2, 3, 4, 5]


def test_by_age_the_newest_always_stays(lab: Lab) -> None:
    assert lab.retain(keep_days=2.5) == [1, 2, 3]
    lab.now += 1000 * DAY
    assert lab.retain(keep_days=1) == [4]
    assert lab.left() == [5]


def test_either_reason_keeps(lab: Lab) -> None:
    assert lab.retain(keep_last=4, keep_days=0) == [1]
    assert lab.retain(keep_last=1, keep_days=3.5) == [2]


def test_what_a_node_runs_or_a_job_needs_stays(lab: Lab) -> None:
    lab.work(1, 1, WorkState.DONE)
    lab.work(2, 2, WorkState.DONE)  # the node went on from 1 to 2
    lab.work(3, 3, WorkState.RUNNING)
    lab.work(4, 4, WorkState.FAILED)
    assert lab.retain(keep_last=1) == [1, 4]
    assert lab.left() == [2, 3, 5]


def test_what_a_removed_node_had_needs_not_stay(lab: Lab) -> None:
    lab.work(2, 2, WorkState.DONE)
    lab.members.remove("n1")
    assert lab.retain(keep_last=1) == [1, 2, 3, 4]


def test_a_root_that_another_release_has_stays_known(lab: Lab) -> None:
    root = lab.publish("other", b"0")  # the root of golden 1
    lab.publish("golden", b"86400")  # generation 6 is generation 2 again
    lab.publish("golden", b"new")
    assert lab.retain(keep_last=1) == [1, 2, 3, 4, 5, 6]
    assert lab.releases.of_root(root)[0].signed.release.name == "other"
    with pytest.raises(UnknownImage):
        lab.releases.of_root(Root(blake3(b"86400").digest()))
    assert lab.publish("golden", b"later")
    assert lab.left() == [7, 8]  # numbers only grow


def test_a_root_known_by_a_deleted_release_goes_over_to_one_that_is_left(lab: Lab) -> None:
    root = lab.publish("other", b"0")
    lab.publish("golden", b"0")
    lab.publish("golden", b"new")
    lab.retain(keep_last=1)
    assert lab.releases.of_root(root)[0].signed.release.name == "other"


def test_a_dry_run_only_tells(lab: Lab) -> None:
    told = retain(lab.catalog, Retention(keep_last=1), now=lab.now, dry_run=True)
    assert len(told) == 4
    assert lab.left() == [1, 2, 3, 4, 5]
