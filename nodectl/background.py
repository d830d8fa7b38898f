"""Work beside a block of code: `async with background(work()): ...`.

An `asyncio.TaskGroup` does the work of it. What differs: the error of the block, or of the work,
comes out as itself and not inside an ExceptionGroup, so that the one sentence of a `NodectlError`
reaches the user.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any


@contextlib.asynccontextmanager
async def background(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `works` while the block runs; they are cancelled at its end.

    When one of them fails the block is cancelled, and that error is raised.
    """
    failed: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
            try:
                yield
            except Exception as exc:  # noqa: BLE001 - raised again below, outside of the group
                failed = exc
            finally:
                _cancel(tasks)
    except ExceptionGroup as exc:
        raise _first(exc) from exc
    if failed is not None:
        raise failed


def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
