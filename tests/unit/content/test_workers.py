"""Worker processes: errors come back as themselves, and no process is left, whoever dies."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodectl.content.workers import WorkerPool, worker_count
from nodectl.errors import NodectlError, NoSpace


class Squares:
    """Squares numbers; some numbers mean trouble."""

    def __init__(self) -> None:
        self._done = 0

    def handle(self, job: int) -> int:
        if job == -1:
            raise NoSpace("no space left in here", hint="free some")
        if job == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        if job == -3:
            time.sleep(60)
        if job == -4:
            raise _Unpicklable(lambda: None)
        if job == -5:
            os._exit(7)
        self._done += 1
        return job * job

    def finish(self) -> int:
        return -self._done


class _Unpicklable(Exception):
    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__(what)


def children() -> set[int]:
    """Return the living children of this process."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[1]) == os.getpid() and words[0] != "Z":
                found.add(int(path.parent.name))
    return found


@pytest.fixture(autouse=True)
def _no_child_stays() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_jobs_are_done_whatever_their_number(count: int) -> None:
    for jobs in (0, 1, count, 100):
        with WorkerPool(Squares, count) as pool:
            assert sorted(pool.run(range(jobs))) == [n * n for n in range(jobs)]
            assert sorted(pool.run(iter([3]))) == [9]
            assert sum(pool.finish()) == -jobs - 1


def test_jobs_are_taken_no_faster_than_they_are_done() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with WorkerPool(Squares, 2) as pool:
        results = pool.run(jobs())
        next(results)
        assert taken <= 5
        assert len(list(results)) == 99


def _run_one(job: int) -> list[int]:
    with WorkerPool(Squares, 2) as pool:
        return list(pool.run([1, 2, job, 3]))


def test_an_error_comes_back_as_itself() -> None:
    with pytest.raises(NoSpace, match="no space left in here") as caught:
        _run_one(-1)
    assert caught.value.hint == "free some"


def test_an_error_is_not_lost_behind_a_broken_pipe() -> None:
    """The next job is sent to a worker that has failed and gone, before its word is read."""

    with WorkerPool(Squares, 1) as pool:
        pool._send(0, 5)
        pool._send(0, -1)
        pool._processes[0].join(10)
        with pytest.raises(NoSpace):
            pool._send(0, 6)


@pytest.mark.parametrize(("job", "status"), [(-2, "-9"), (-5, "7")])
def test_a_worker_that_dies_is_reported_with_its_status(job: int, status: str) -> None:
    with pytest.raises(NodectlError, match=rf"ended by itself \(status {status}\)"):
        _run_one(job)


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    with pytest.raises(NodectlError, match="_Unpicklable"):
        _run_one(-4)


def test_a_handler_that_cannot_be_made_is_reported() -> None:
    def make() -> Squares:
        raise NoSpace("no space for a handler")

    with WorkerPool(make, 1) as pool, pytest.raises(NoSpace):
        list(pool.run([1]))


def _stop_at_the_first() -> None:
    with WorkerPool(Squares, 2) as pool:
        for _ in pool.run([1, -3, -3, 2]):
            raise KeyError


def test_after_an_error_nobody_waits_for_what_is_under_way() -> None:
    begun = time.monotonic()
    with pytest.raises(KeyError):
        _stop_at_the_first()
    assert time.monotonic() - begun < 5


def test_the_workers_end_when_the_parent_is_killed() -> None:
    """In a child of our own, which is killed with its workers in the middle of nothing."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        with WorkerPool(Squares, 3) as pool:
            list(pool.run(range(6)))
            ids = [process.pid for process in pool._processes]
            os.write(write_end, " ".join(map(str, ids)).encode())
            time.sleep(60)
        os._exit(0)
    os.close(write_end)
    workers = [int(word) for word in os.read(read_end, 100).split()]
    os.close(read_end)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(workers) == 3
    deadline = time.monotonic() + 5
    while any(_lives(one) for one in workers):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_there_is_one_worker_for_each_core_we_may_use() -> None:
    assert worker_count() == len(os.sched_getaffinity(0))
