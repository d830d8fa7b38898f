"""What trust costs, and how soon a removed node is out. JSON lines on stdout, one for each figure.

    python bench/trust.py                 # all of them, under two minutes
    python bench/trust.py mac data        # these: mac, data, call, poll, revoke

* mac: one request's MAC checked by a server that remembers nonces, microseconds.
* data: one process serves, one fetches, over loopback (bench/micro_swarm.py): MB/s of sealed bytes.
* call: one control call on an open connection (TLS 1.3, both certificates, MAC), milliseconds.
* poll: real TLS clients poll a real controller for work. 200 of them ten times as often as nodes do
  make the requests of 2,000; what 1,800 more open connections cost (memory, no work) is not in it.
* revoke: seconds from `node remove` until the swarm of another node refuses the removed one.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp
from measure import REPOSITORY, emit, machine, say

from nodectl.node.client import ControlClient
from nodectl.node.join import join
from nodectl.node.state import StateFolder
from nodectl.trust.mac import MacVerifier, Signed, sign_request
from nodectl.trust.token import parse_token

_MACS = 20_000
_CALLS = 500
_CLIENTS = 200
_NODES = 2000
_POLL_S = 10.0  # between two polls of a node
_POLLING_S = 20.0
_REVOKED_WITHIN_S = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Realm:
    """A realm of real processes in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def _start(self, node: str, words: tuple[str, ...]) -> "subprocess.Popen[str]":
        environment = {
            **os.environ,
            "NODECTL_STATE": str(self.folder / node),
            "PYTHONPATH": str(REPOSITORY),
        }
        argv = [sys.executable, "-m", "nodectl", *words]
        return subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def run(self, node: str, *words: str) -> str:
        process = self._start(node, words)
        said, _ = process.communicate(timeout=60)
        if process.returncode:
            raise RuntimeError(f"nodectl {' '.join(words)}: status {process.returncode}")
        return said

    def serve(self, node: str, *words: str) -> tuple[int, dict[str, Any]]:
        """Start a server; return its process id and what it says when it is ready."""
        process = self._start(
            node, ("serve", "--peer-listen", "127.0.0.1:0", "--json", "--no-scrub", *words)
        )
        self.started.append(process)
        if process.stdout is None:
            raise RuntimeError("no pipe")
        return process.pid, json.loads(process.stdout.readline())

    def end(self) -> None:
        for process in self.started:
            process.terminate()
        for process in self.started:
            process.communicate(timeout=30)


@contextlib.contextmanager
def realm() -> Iterator[tuple[Realm, int]]:
    """Yield a realm with one image, and the process id of its controller."""
    folder = Path(tempfile.mkdtemp(prefix="nodectl-trust-"))
    made = Realm(folder)
    try:
        (folder / "tree").mkdir()
        (folder / "tree" / "file").write_bytes(os.urandom(3_000_000))
        made.run("c", "init", "--realm", "bench", "--node", "c", "--listen", "127.0.0.1:0")
        made.run("c", "image", "capture", "golden", "--tree", str(folder / "tree"))
        pid, _ = made.serve("c", "--controller")
        yield made, pid
    finally:
        made.end()
        shutil.rmtree(folder, ignore_errors=True)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, user and system. Source: proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def mac() -> dict[str, Any]:
    key, target = bytes(32), f"/v1/swarm/{'ab' * 32}/data/spans/17"
    signed = Signed("GET", target)
    headers = [sign_request(signed, client="n1", key=key, unix_ms=1000) for _ in range(_MACS)]
    rounds = []
    for _ in range(5):
        verifier = MacVerifier(lambda _: key, now_ms=lambda: 1000)
        began = time.process_time()
        for header in headers:
            verifier.verify(header, signed)
        rounds.append((time.process_time() - began) / _MACS * 1e6)
    return {"us_per_request": round(statistics.median(rounds), 2), "aim_us": 20}


def data() -> dict[str, Any]:
    argv = [sys.executable, str(REPOSITORY / "bench" / "micro_swarm.py"), "--mib", "2048"]
    rounds = []
    for _ in range(3):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True)
        rounds.append(json.loads(done.stdout.splitlines()[-1]))
    rounds.sort(key=lambda one: one["mb_per_s_all"])
    middle = rounds[1]
    return {
        "mb_per_s": middle["mb_per_s_all"],
        "all_mb_per_s": [one["mb_per_s_all"] for one in rounds],
        "cpu_s_per_gb": [round(s / middle["sealed_bytes"] * 1e9, 2) for s in middle["cpu_s"]],
        "aim_mb_per_s": 600,
    }


def call() -> dict[str, Any]:
    async def measure(state: StateFolder) -> list[float]:
        took = []
        async with ControlClient(state.membership()) as client:
            await client.release("golden")
            for _ in range(_CALLS):
                began = time.perf_counter()
                await client.release("golden")
                took.append((time.perf_counter() - began) * 1000)
        return sorted(took)

    with realm() as (made, _):
        took = asyncio.run(measure(StateFolder(made.folder / "c")))
    return {
        "ms_median": round(took[_CALLS // 2], 2),
        "ms_p99": round(took[_CALLS * 99 // 100], 2),
        "aim_ms": 5,
    }


def poll() -> dict[str, Any]:
    async def poller(state: StateFolder, every_s: float, began: float, number: int) -> int:
        polls = 0
        async with ControlClient(state.membership()) as client:
            await client.work(since=0, wait_s=0)
            due = began + every_s * (number / _CLIENTS)
            while due < began + _POLLING_S:
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await client.work(since=0, wait_s=0)
                polls, due = polls + 1, due + every_s
        return polls

    async def measure(made: Realm, pid: int) -> dict[str, Any]:
        token = parse_token(made.run("c", "token", "create", "--uses", str(_CLIENTS)).strip())
        states = [StateFolder(made.folder / f"n{number}") for number in range(_CLIENTS)]
        for number, state in enumerate(states):
            await join(state, token, name=f"n{number}")
        every_s = _POLL_S * _CLIENTS / _NODES
        began = time.monotonic() + 5  # all are connected by then
        tasks = [
            asyncio.ensure_future(poller(state, every_s, began, number))
            for number, state in enumerate(states)
        ]
        await asyncio.sleep(began - time.monotonic())
        before = cpu_s(pid)
        await asyncio.sleep(_POLLING_S)
        used, seconds = cpu_s(pid) - before, time.monotonic() - began
        polls = sum(await asyncio.gather(*tasks))
        rate = polls / _POLLING_S
        return {
            "requests_per_s": round(rate, 1),
            "core": round(used / seconds, 4),
            "core_of_2000_nodes": round(used / seconds / rate * _NODES / _POLL_S, 4),
            "ms_cpu_per_poll": round(used / polls * 1000, 3),
            "aim_core": 0.1,
        }

    with realm() as (made, pid):
        return asyncio.run(measure(made, pid))


def revoke() -> dict[str, Any]:
    """The removed node goes on asking with the swarm key it has, once every quarter second."""

    async def asks(url: str, state: StateFolder) -> int:
        held = state.held_roots()[0]
        target = f"/v1/swarm/{held.root.hex()}/data/have"
        header = sign_request(
            Signed("GET", target), client="gone", key=held.swarm_key,
            unix_ms=int(time.time() * 1000),
        )  # fmt: skip
        async with (
            aiohttp.ClientSession() as session,
            session.get(url + target, headers={"Authorization": header}) as response,
        ):
            return response.status

    async def measure(made: Realm, url: str) -> float:
        state = StateFolder(made.folder / "gone")
        if await asks(url, state) != 200:
            raise RuntimeError("a member is not answered")
        began = time.monotonic()
        await asyncio.to_thread(made.run, "c", "node", "remove", "gone")
        while await asks(url, state) != 401:
            if time.monotonic() - began > 2 * _REVOKED_WITHIN_S:
                raise RuntimeError("the removed node is still answered")
            await asyncio.sleep(0.25)
        return time.monotonic() - began

    with realm() as (made, _):
        token = made.run("c", "token", "create", "--uses", "2").strip()
        urls = {}
        for node in ("n1", "gone"):
            made.run(node, "join", "--token", token, "--name", node)
            urls[node] = made.serve(node)[1]["peer_url"]
        made.run("c", "swarm", "push", "golden", "--nodes", "n1,gone")
        made.started.pop().kill()  # the bad node's own agent hears of no new key anyway
        seconds = asyncio.run(measure(made, urls["n1"]))
    return {"seconds": round(seconds, 1), "aim_s": _REVOKED_WITHIN_S}


FIGURES: dict[str, Callable[[], dict[str, Any]]] = {
    one.__name__: one for one in (mac, data, call, poll, revoke)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(FIGURES)} [all]")
    wanted = parser.parse_args().figures or list(FIGURES)
    unknown = sorted(set(wanted) - set(FIGURES))
    if unknown:
        parser.error(f"no figure is named {', '.join(unknown)}")
    about = machine()
    for name in wanted:
        say(f"{name} ...")
        emit({"work": f"trust-{name}", **FIGURES[name](), **about})


if __name__ == "__main__":
    main()
