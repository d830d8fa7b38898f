import asyncio
import os
import sys

import pytest

from nodectl.errors import CommandFailed, ToolMissing
from nodectl.run import run_lines


def test_lines_come_while_it_runs_and_the_result_at_the_end() -> None:
    lines: list[str] = []
    code = "import sys; print('out'); print('one', file=sys.stderr); print('two', file=sys.stderr)"
    done = asyncio.run(run_lines([sys.executable, "-c", code], lines.append))
    assert lines == ["one", "two"]
    assert (done.status, done.stdout, done.stderr) == (0, b"out\n", b"one\ntwo")


def test_a_status_is_returned_and_a_last_line_without_end_is_heard() -> None:
    lines: list[str] = []
    code = "import sys; sys.stderr.write('bad'); sys.exit(7)"
    done = asyncio.run(run_lines([sys.executable, "-c", code], lines.append))
    assert (done.status, lines) == (7, ["bad"])


def test_a_line_without_end_does_not_fill_memory() -> None:
    lines: list[str] = []
    code = "import sys; sys.stderr.write('x' * 300000 + chr(10))"
    asyncio.run(run_lines([sys.executable, "-c", code], lines.append))
    assert "".join(lines) == "x" * 300000
    assert max(map(len, lines)) <= 1 << 17


def test_no_such_program() -> None:
    with pytest.raises(ToolMissing):
        asyncio.run(run_lines(["no-such-program-here"], print))


def test_too_long_is_killed() -> None:
    code = "import time; time.sleep(60)"
    with pytest.raises(CommandFailed, match="did not end"):
        asyncio.run(run_lines([sys.executable, "-c", code], print, timeout=0.3))


def test_cancelling_ends_the_program() -> None:
    code = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(60)"
    pids: list[int] = []

    async def main() -> None:
        started = asyncio.Event()

        def heard(line: str) -> None:
            pids.append(int(line))
            started.set()

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            task = group.create_task(run_lines([sys.executable, "-c", code], heard))
            await started.wait()
            task.cancel()

    asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
