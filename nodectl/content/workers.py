"""Worker processes for content: one for each core, fed through pipes, results in any order.

Processes, not threads: reading, hashing and compressing release the GIL, but the thousands of small
files of a tree spend as much time in Python itself.

The processes are forked, so only a command that has no threads may make a pool (a serving node
starts a command for such work). A job must pickle to less than 100 KB: a pipe takes two of them
without anybody reading, which is what keeps both sides from waiting for each other.
"""

import contextlib
import gc
import multiprocessing
import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, Self, TypeVar

from nodectl.errors import NodectlError

Job = TypeVar("Job")
Result = TypeVar("Result")
_JOBS_QUEUED = 2  # for each worker: one under way, one waiting
_END_TIMEOUT_S = 10.0


class Handler(Protocol[Job, Result]):  # type: ignore[misc]  # variance is of no use here
    """What a worker does; made in the worker, after the fork."""

    def handle(self, job: Job) -> Result:
        """Do one job."""
        ...

    def finish(self) -> Result:
        """Do what is left when no job will come."""
        ...


class _Failed:
    """An exception on its way from a worker."""

    def __init__(self, exc: BaseException) -> None:
        self.exc = exc


class _Finish:
    """The message that no job will come."""


def worker_count() -> int:
    """Return how many workers fit this process's share of the machine."""
    return max(1, len(os.sched_getaffinity(0)))


class WorkerPool(Generic[Job, Result]):
    """A few forked processes that run the same handler."""

    def __init__(self, make_handler: Callable[[], Handler[Job, Result]], count: int = 0) -> None:
        """Fork `count` workers (0: one for each core)."""
        context = multiprocessing.get_context("fork")
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection[Any, Any]] = []
        for _ in range(count or worker_count()):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work, args=(theirs, [*self._pipes, ours], make_handler), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the workers; after an error without waiting for what they do."""
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            if kind is not None:
                process.kill()
            process.join(_END_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()

    def run(self, jobs: Iterable[Job]) -> Iterator[Result]:
        """Do all jobs and yield their results as they come; the pool can be used again."""
        source = iter(jobs)
        queued = dict.fromkeys(range(len(self._pipes)), 0)
        numbers = {id(pipe): number for number, pipe in enumerate(self._pipes)}
        idle = deque(number for _ in range(_JOBS_QUEUED) for number in queued)
        while True:
            while idle:
                try:
                    job = next(source)
                except StopIteration:
                    idle.clear()
                    source = iter(())
                    break
                number = idle.popleft()
                self._send(number, job)
                queued[number] += 1
            busy = [self._pipes[number] for number, count in queued.items() if count]
            if not busy:
                return
            for pipe in wait(busy):
                number = numbers[id(pipe)]
                yield self._receive(number)
                queued[number] -= 1
                idle.append(number)

    def finish(self) -> Iterator[Result]:
        """Tell every worker that no job will come and yield what they still have to say."""
        for number in range(len(self._pipes)):
            self._send(number, _Finish())
        for number in range(len(self._pipes)):
            yield self._receive(number)

    def _send(self, number: int, message: object) -> None:
        try:
            self._pipes[number].send(message)
        except (BrokenPipeError, ConnectionResetError):
            while True:  # its last words are behind the results that nobody has read yet
                self._receive(number)

    def _receive(self, number: int) -> Result:
        try:
            message = self._pipes[number].recv()
        except (EOFError, ConnectionResetError) as exc:
            raise NodectlError(self._obituary(number)) from exc
        if isinstance(message, _Failed):
            raise message.exc
        result: Result = message
        return result

    def _obituary(self, number: int) -> str:
        process = self._processes[number]
        process.join(_END_TIMEOUT_S)
        return (
            f"a worker process ended by itself (status {process.exitcode}); "
            "the kernel's log tells whether memory ran out"
        )


def _work(
    pipe: "Connection[Any, Any]",
    inherited: "list[Connection[Any, Any]]",
    make_handler: Callable[[], Handler[Any, Any]],
) -> None:
    """Serve jobs until the pipe closes, which it does when the parent ends in whatever way."""
    for other in inherited:
        other.close()  # a copy kept open here would hide the parent's end from its other children
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    gc.freeze()
    gc.set_threshold(50_000)  # jobs make many objects and hardly a cycle
    try:
        handler = make_handler()
        while True:
            message = pipe.recv()
            finish = isinstance(message, _Finish)
            pipe.send(handler.finish() if finish else handler.handle(message))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass
    except BaseException as exc:  # noqa: BLE001 - raised again in the parent
        with contextlib.suppress(OSError):  # a parent that ends for another reason hears nothing
            pipe.send(_Failed(exc if _travels(exc) else NodectlError(f"in a worker: {exc!r}")))


def _travels(exc: BaseException) -> bool:
    """Say whether an exception can be pickled and made again; not all can."""
    try:
        pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own, of this moment
    except Exception:  # noqa: BLE001 - whatever its own code raises
        return False
    return True
