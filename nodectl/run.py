"""The only door to other programs.

Always an argument list, never a shell. Standard input is empty unless given, the environment is
built here, and a failure carries the last lines of what the program said.
"""

import asyncio
import contextlib
import logging
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodectl.errors import CommandFailed, ToolMissing

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 120.0
_TAIL_LINES = 8
_LINE_MAX = 1 << 16  # bytes
_GRACE_S = 10.0  # between SIGTERM and SIGKILL
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Debian's name; what other distributions call it is close enough to find it.
_PACKAGES = {
    "sfdisk": "fdisk",
    "partx": "util-linux",
    "lsblk": "util-linux",
    "blkid": "util-linux",
    "wipefs": "util-linux",
    "losetup": "mount",
    "mkswap": "util-linux",
    "findmnt": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
    "udevadm": "udev",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What a program left behind."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


def _environment() -> dict[str, str]:
    return {
        "PATH": f"{os.environ.get('PATH', '')}:{_SEARCH_PATH}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
    }


def _tail(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    input: bytes | None = None,  # noqa: A002 - the word that subprocess uses
    ok: Sequence[int] = (0,),
    timeout: float = DEFAULT_TIMEOUT_S,
    cwd: Path | None = None,
) -> Completed:
    """Run a program to its end and return what it said.

    Raises:
        ToolMissing: there is no such program.
        CommandFailed: its status is not in `ok`, or it took longer than `timeout` seconds
            (then it and all its children are killed).
    """
    words = tuple(os.fspath(word) for word in argv)
    line = shlex.join(words)
    log.debug("run: %s", line)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            cwd=cwd,
            start_new_session=True,  # a time-out ends the whole group; Ctrl-C is ours to handle
        )
    except FileNotFoundError as exc:
        if cwd is not None and not cwd.is_dir():
            raise
        package = _PACKAGES.get(words[0], words[0])
        msg = f"the program {words[0]} is not installed"
        raise ToolMissing(msg, hint=f"install the package {package}") from exc
    except PermissionError as exc:
        raise ToolMissing(f"the program {words[0]} may not be run: {exc.strerror}") from exc
    try:
        stdout, stderr = process.communicate(input, timeout=timeout)
    except subprocess.TimeoutExpired as exc:
        msg = f"{line} did not end within {timeout:g} s and was killed"
        raise CommandFailed(msg) from exc
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode not in ok:
        said = _tail(stderr) or _tail(stdout)
        msg = f"{line} ended with status {process.returncode}" + (f":\n{said}" if said else "")
        raise CommandFailed(msg)
    return Completed(argv=words, status=process.returncode, stdout=stdout, stderr=stderr)


@contextlib.contextmanager
def held(argv: Sequence[str | os.PathLike[str]]) -> Iterator[int]:
    """Run a program that ends up in cat(1) as long as the block, and yield its process id.

    It sees the end of its input when the block ends, or when this process is killed: what it
    holds (a namespace) never outlives nodectl.

    Raises:
        ToolMissing: there is no such program.
        CommandFailed: it did not come as far as cat.
    """
    words = tuple(os.fspath(word) for word in argv)
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise ToolMissing(f"the program {words[0]} is not installed") from exc
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the program was started without pipes")
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")
            process.stdin.flush()
        if process.stdout.readline() != b"\n":
            said = _tail(process.communicate()[1])
            raise CommandFailed(f"{shlex.join(words)} ended:\n{said}")
        yield process.pid
    finally:
        if process.poll() is None:
            try:
                process.communicate(timeout=_GRACE_S)  # closes its input
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


async def run_lines(
    argv: Sequence[str | os.PathLike[str]],
    on_line: Callable[[str], None],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - the same word as `run`
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run a program and hand each line of its standard error to `on_line` while it runs.

    Standard output is kept whole; of standard error only the tail is. A status other than 0 is not
    an error here: the caller has heard the lines. When the caller is cancelled, the program and
    its children are asked to end (SIGTERM), and killed `_GRACE_S` later.

    Args:
        argv: the program and its arguments.
        on_line: gets each line without its end; longer ones than `_LINE_MAX` are cut.
        timeout: seconds until it is ended, None for no limit.
        environment: variables beyond those that every program gets.

    Raises:
        ToolMissing: there is no such program.
        CommandFailed: it took longer than `timeout` seconds.
    """
    words = tuple(os.fspath(word) for word in argv)
    line = shlex.join(words)
    log.debug("run: %s", line)
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**_environment(), **(environment or {})},
            start_new_session=True,
            limit=_LINE_MAX,
        )
    except FileNotFoundError as exc:
        raise ToolMissing(f"the program {words[0]} is not installed") from exc
    try:
        async with asyncio.timeout(timeout), asyncio.TaskGroup() as group:
            stdout = group.create_task(_pipe(process.stdout).read())
            tail = group.create_task(_read_lines(_pipe(process.stderr), on_line))
            await process.wait()
    except TimeoutError as exc:
        raise CommandFailed(f"{line} did not end within {timeout:g} s and was killed") from exc
    finally:
        await _end(process)
    stderr = "\n".join(tail.result()).encode()
    return Completed(
        argv=words, status=process.returncode or 0, stdout=stdout.result(), stderr=stderr
    )


@contextlib.asynccontextmanager
async def running(
    argv: Sequence[str | os.PathLike[str]],
    on_line: Callable[[str], None],
    *,
    ready_timeout: float,
) -> AsyncIterator[str]:
    """Run a program while the block runs; yields the first line of its standard output.

    Each line of its standard error goes to `on_line`. At the end it is asked to stop (SIGTERM), and
    killed `_GRACE_S` later.

    Raises:
        CommandFailed: it ended, or said nothing for `ready_timeout` seconds.
    """
    words = tuple(os.fspath(word) for word in argv)
    line = shlex.join(words)
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
        limit=_LINE_MAX,
    )
    listening = asyncio.ensure_future(_read_lines(_pipe(process.stderr), on_line))
    try:
        try:
            async with asyncio.timeout(ready_timeout):
                first = await _pipe(process.stdout).readline()
        except TimeoutError as exc:
            raise CommandFailed(f"{line} was not ready within {ready_timeout:g} s") from exc
        if not first:
            said = "\n".join(await listening)
            raise CommandFailed(f"{line} ended before it was ready:\n{said}")
        yield first.decode("utf-8", "replace")
    finally:
        await _end(process)
        await listening


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise RuntimeError("the program was started without a pipe")
    return stream


async def _read_lines(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> list[str]:
    """Hand over each line; return the last ones."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    while True:
        try:
            data = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as exc:
            data = exc.partial
            if not data:
                return list(tail)
        except asyncio.LimitOverrunError as exc:
            data = await stream.readexactly(exc.consumed)
        text = data.decode("utf-8", "replace").rstrip("\n")
        tail.append(text)
        on_line(text)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a program and its children if it still runs."""
    if process.returncode is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
