"""nodectl on the hosts of a laboratory: a controller that seeds on host 0, a node on each other.

Everything goes through the command line, as a user's would: init, image capture, serve, token
create, join, swarm push.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
from measure import REPOSITORY, Failed, pipeline, size_on_disk

_IMAGE = "bench"
_CONTROL_PORT = 7443  # that `serve --controller` takes when it is told nothing
_READY_S = 30.0
_HELD = 0.9
_TAIL = 2000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A realm with one captured image."""

    command: Sequence[str]
    folder: Path  # the state folder of host n is host-n in it
    sealed_bytes: int

    def words(self, host: int, *words: str) -> list[str]:
        """Return the nodectl command line for one host."""
        return [*self.command, *words, "--state", str(self.folder / f"host-{host}")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What a push took."""

    seconds: float  # of the whole command
    finished_s: tuple[float, ...]  # of each node, as its receipt says
    seeder_bytes: int
    cpu_s: float
    max_rss_bytes: int


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def prepare(command: Sequence[str], tree: Path, folder: Path) -> Prepared:
    """Make the realm and capture `tree`; not part of what is measured."""
    folder.mkdir()
    state = ("--state", str(folder / "host-0"))
    env = {"PYTHONPATH": str(REPOSITORY)}
    pipeline(((*command, "init", "--realm", "bench", *state),), env=env)
    pipeline(((*command, "image", "capture", _IMAGE, "--tree", str(tree), *state),), env=env)
    sealed_bytes = size_on_disk(folder / "host-0" / "store")
    return Prepared(command=command, folder=folder, sealed_bytes=sealed_bytes)


def _call(argv: Sequence[str]) -> str:
    done = subprocess.run(
        argv,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: status {done.returncode}\n{done.stderr[-_TAIL:]}")
    return done.stdout


@contextlib.contextmanager
def _serving(argv: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv, env=_environment(), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the line that `serve --json` prints when everything listens."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        if '"ready": true' in log.read_text(encoding="utf-8", errors="replace"):
            return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace")
    raise Failed(f"{process.args!r} is not ready after {_READY_S:g} s:\n{said[-_TAIL:]}")


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / _TICKS  # utime, stime, and the children's


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def _cluster(prepared: Prepared, hosts: lab.Lab) -> Iterator[list[int]]:
    """Serve on every host; yields the process ids, the controller's first."""
    with contextlib.ExitStack() as stack:

        def serve(host: int, *options: str) -> int:
            advertise = ("--advertise", hosts.address(host))
            words = prepared.words(host, "serve", "--json", *advertise, *options)
            log = prepared.folder / f"host-{host}.log"
            process = stack.enter_context(_serving(hosts.inside(host, words), log))
            _wait_until_ready(process, log)
            return process.pid

        pids = [serve(0, "--controller")]
        fetchers = range(1, hosts.hosts)
        create = prepared.words(0, "token", "create", "--uses", str(len(fetchers)))
        token = _call(hosts.inside(0, create)).split()[-1]
        url = f"https://{hosts.address(0)}:{_CONTROL_PORT}"
        for host in fetchers:
            join = prepared.words(host, "join", url, "--token", token, "--name", f"n{host}")
            _call(hosts.inside(host, join))
        yield pids + [serve(host) for host in fetchers]


def push(prepared: Prepared, hosts: lab.Lab, limit_s: float) -> Push:
    """Push the image to every host; its receipts are read as a script would."""
    names = ",".join(f"n{host}" for host in range(1, hosts.hosts))
    argv = prepared.words(0, "swarm", "push", _IMAGE, "--nodes", names, "--json")
    with _cluster(prepared, hosts) as pids:
        cpu_s = sum(_cpu_s(pid) for pid in pids)
        sent = hosts.sent_bytes(0)
        began = time.monotonic()
        try:
            done = subprocess.run(
                hosts.inside(0, argv),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Failed(f"swarm push has not ended after {limit_s:.0f} s") from exc
        seconds = time.monotonic() - began
        if done.returncode:
            raise Failed(f"swarm push: status {done.returncode}\n{done.stderr[-_TAIL:]}")
        _check_stores(prepared, hosts)
        return Push(
            seconds=seconds,
            finished_s=_finishers(done.stdout),
            seeder_bytes=hosts.sent_bytes(0) - sent,
            cpu_s=sum(_cpu_s(pid) for pid in pids) - cpu_s,
            max_rss_bytes=max(_peak_bytes(pid) for pid in pids),
        )


def _check_stores(prepared: Prepared, hosts: lab.Lab) -> None:
    """Refuse a push after which a host does not hold about as much as the seeder.

    The stores' own indexes differ a little; that every frame is right is what the tests show.
    """
    for host in range(1, hosts.hosts):
        store = prepared.folder / f"host-{host}" / "store"
        held = size_on_disk(store) if store.exists() else 0
        if held < _HELD * prepared.sealed_bytes:
            raise Failed(
                f"host {host} holds {held} of {prepared.sealed_bytes} bytes after the push"
            )


def _finishers(stdout: str) -> tuple[float, ...]:
    """Return what each fetching node says it took, the first to finish first.

    Raises:
        Failed: the last line of `--json` does not tell.
    """
    try:
        document: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
        fetches = [node for node in document["nodes"] if node["task"] == "fetch"]
        return tuple(sorted(float(node["receipt"]["seconds"]) for node in fetches))
    except (ValueError, TypeError, KeyError, IndexError) as exc:
        raise Failed(f"swarm push --json does not tell the nodes' times: {exc!r}") from exc
