"""What the benchmarks share: run a pipeline and see what it took, describe machine and tree.

Nothing here knows what is being compared. Results are JSON lines on stdout; the story is on stderr.
"""

import contextlib
import json
import os
import shlex
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
DEFAULT_NODECTL = f"{shlex.quote(sys.executable)} -m nodectl"  # with PYTHONPATH=REPOSITORY

_SAMPLE_S = 0.05
_TAIL_BYTES = 2000


class Failed(Exception):
    """A program of the benchmark ended badly; the text carries its last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one pipeline took."""

    seconds: float
    cpu_s: float  # user and system, of all its processes
    max_rss_bytes: int  # of the largest single process (never less than this benchmark's own)
    sum_rss_bytes: int  # highest sampled sum over all its processes


def say(text: str) -> None:
    """Tell the person who watches."""
    print(text, file=sys.stderr, flush=True)


def emit(row: dict[str, Any]) -> None:
    """Print one result."""
    print(json.dumps(row), flush=True)


def command_words(text: str) -> list[str]:
    """Split a command line; files in it get whole paths, for it is run from other folders."""
    words = shlex.split(text)
    return [os.path.abspath(word) if os.path.isfile(word) else word for word in words]  # noqa: PTH100, PTH113 - words, not paths


def machine() -> dict[str, Any]:
    """Return what a figure means nothing without: commit, kernel, processors."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=False)
        commit = done.stdout.strip() or None
    except FileNotFoundError:
        commit = None
    release = os.uname().release
    return {"commit": commit, "kernel": release, "cpus": len(os.sched_getaffinity(0))}


def pipeline(
    stages: Sequence[Sequence[str]],
    *,
    stdout: Path | None = None,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Usage:
    """Run `stages` joined by pipes; the last one's output goes to the file `stdout` or nowhere.

    Raises:
        Failed: any of them ended with a status that is not 0.
    """
    environment = {**os.environ, **(env or {})}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        sink = stack.enter_context(open(stdout or os.devnull, "wb"))  # noqa: PTH123 - or devnull
        began = time.monotonic()
        processes: list[subprocess.Popen[bytes]] = []
        before: Any = subprocess.DEVNULL
        for number, argv in enumerate(stages):
            last = number == len(stages) - 1
            process = subprocess.Popen(
                argv,
                stdin=before,
                stdout=sink if last else subprocess.PIPE,
                stderr=log,
                cwd=cwd,
                env=environment,
            )
            if before is not subprocess.DEVNULL:
                before.close()
            before = process.stdout
            processes.append(process)
        with sampled_rss([process.pid for process in processes]) as peak:
            waited = [(process, *os.wait4(process.pid, 0)[1:]) for process in processes]
            seconds = time.monotonic() - began
        for process, status, _ in waited:
            process.returncode = os.waitstatus_to_exitcode(status)
        if any(process.returncode for process in processes):
            log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
            words = " | ".join(" ".join(argv) for argv in stages)
            codes = [process.returncode for process in processes]
            raise Failed(f"{words}: status {codes}\n{log.read().decode('utf-8', 'replace')}")
    return Usage(
        seconds=seconds,
        cpu_s=sum(usage.ru_utime + usage.ru_stime for _, _, usage in waited),
        max_rss_bytes=max(usage.ru_maxrss for _, _, usage in waited) * 1024,
        sum_rss_bytes=peak[0],
    )


@contextlib.contextmanager
def sampled_rss(pids: Sequence[int]) -> Iterator[list[int]]:
    """Yield a list of one figure: the highest sum of resident bytes of `pids` and their children.

    Shared pages count once for each process, so the figure is rather too high than too low.
    """
    peak = [0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(_SAMPLE_S):
            peak[0] = max(peak[0], sum(_resident(pid) for pid in family(pids)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def family(pids: Sequence[int]) -> set[int]:
    """Return `pids` and all that descend from them and live."""
    found: set[int] = set()
    todo = list(pids)
    while todo:
        pid = todo.pop()
        found.add(pid)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a tree holds: files, folders and links, and the sum of the files' sizes."""

    entries: int
    plain_bytes: int


def walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of all that lies below `top` on its file system."""
    device = top.stat().st_dev
    folders = [os.fspath(top)]
    while folders:
        with os.scandir(folders.pop()) as listing:
            entries = [(entry.path, entry.stat(follow_symlinks=False)) for entry in listing]
        entries = [(path, info) for path, info in entries if info.st_dev == device]
        folders += [path for path, info in entries if stat.S_ISDIR(info.st_mode)]
        yield from entries


def look(top: Path, *, read: bool = False) -> Tree:
    """Count what is below `top`; with `read`, read every file so that the cache is warm."""
    entries = plain_bytes = 0
    for path, info in walk(top):
        if stat.S_ISREG(info.st_mode):
            plain_bytes += info.st_size
            if read:
                _read(path)
        entries += any(kind(info.st_mode) for kind in (stat.S_ISREG, stat.S_ISDIR, stat.S_ISLNK))
    return Tree(entries=entries, plain_bytes=plain_bytes)


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while os.read(fd, 1 << 20):
            pass
    finally:
        os.close(fd)


def size_on_disk(path: Path) -> int:
    """Return the bytes of all files below `path`, or of the file that it is."""
    if path.is_file():
        return path.stat().st_size
    return look(path).plain_bytes
