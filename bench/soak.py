"""A cluster that is not left alone: kills, joins, rate changes and updates, and nothing may leak.

    .venv/bin/python bench/soak.py --minutes 20 --nodes 12

Needs root: it builds network namespaces (bench/lab.py) and runs real nodectl processes in them.
At random, but the same for the same --seed: nodes are killed with SIGKILL and come back; nodes are
wiped and join anew; the controller dies and comes back; links and limits change; a new generation
of the image is captured and pushed, now and then by multicast. At the end all nodes are there, get
the last generation, and each byte of it is read back from each store.

Meanwhile resident memory, open files and asyncio tasks of every process are sampled. The first and
the last third of each long life are compared: what grows is a leak. So is a traceback in a log. The
result is one JSON line; the status is 0 when all of it held.
"""

import argparse
import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import cluster
import lab
import received
from measure import DEFAULT_NODECTL, Failed, command_words, emit, machine, say

IMAGE = "soak"
_FILES = 4000
_CHANGED = 0.1  # of the files, from one generation to the next
_ALIVE_MIN = 0.5  # of the nodes: they are not all killed
_SAMPLE_S = 5.0
_WARM_S = 60.0  # of a process's life that does not count: pools fill, modules load
_LONG_S = 240.0  # a shorter life says nothing about growth
_SETTLE_S = 15.0
_END_S = 300.0
# What a median of the last third may be above that of the first: noise of an allocator, of a
# connection more or less; a leak in a soak of 20 minutes is more. Packs of the store are kept open
# for reading, a bounded number of them: they do not count.
_SLACK = {"rss_bytes": 24 << 20, "sockets": 16, "files": 8, "tasks": 24}


@dataclass(slots=True)
class Life:
    """What was seen of one process."""

    name: str
    began: float
    samples: list[dict[str, float]] = field(default_factory=list)

    def growth(self) -> dict[str, Any] | None:
        """Return the medians of the first and the last third; None where it lived too briefly."""
        old = [one for one in self.samples if one["age_s"] >= _WARM_S]
        if not old or old[-1]["age_s"] - _WARM_S < _LONG_S:
            return None
        third = len(old) // 3
        row: dict[str, Any] = {"name": self.name, "age_s": round(old[-1]["age_s"])}
        for what in _SLACK:
            ends = [
                [one[what] for one in part if what in one] for part in (old[:third], old[-third:])
            ]
            row[what] = [round(statistics.median(end)) if end else None for end in ends]
        return row


class Watcher:
    """Samples every process of a cluster, in a thread of its own."""

    def __init__(self, run: cluster.Cluster) -> None:
        """Watch a cluster, whose processes come and go."""
        self.lives: dict[int, Life] = {}
        self._run = run
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            for host, server in list(self._run.servers.items()):
                pid = server.process.pid
                life = self.lives.setdefault(pid, Life(cluster.node_name(host), time.monotonic()))
                with contextlib.suppress(OSError, KeyError, IndexError):
                    life.samples.append(self._sample(host, pid, life))

    def _sample(self, host: int, pid: int, life: Life) -> dict[str, float]:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        opened = [_target(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
        sockets = sum(target.startswith("socket:") for target in opened)
        packs = sum("/packs/" in target for target in opened)
        sample: dict[str, float] = {
            "age_s": time.monotonic() - life.began,
            "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "sockets": sockets,
            "files": len(opened) - sockets - packs,
        }
        with contextlib.suppress(OSError):
            sample["tasks"] = self._run.status(host)["tasks"]
        return sample


def _target(path: Path) -> str:
    """Return what a link of /proc names; nothing where it has gone meanwhile."""
    with contextlib.suppress(OSError):
        return str(path.readlink())
    return ""


class Soak:
    """One soak: what is alive, what is out there, what went wrong."""

    def __init__(self, run: cluster.Cluster, nodes: int, tree: Path, rng: random.Random) -> None:
        """Begin with all nodes joined and served."""
        self.run = run
        self.hosts = range(1, nodes + 1)
        self.tree = tree
        self.rng = rng
        self.names = {host: cluster.node_name(host) for host in self.hosts}
        self.generation = 1
        self.did: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()  # commands while the controller was down
        self._joins = 0

    @property
    def alive(self) -> list[int]:
        """The nodes that run."""
        return [host for host in self.hosts if host in self.run.servers]

    def act(self) -> None:
        """Do one thing at random."""
        actions: list[tuple[float, Callable[[], None]]] = [
            (5, self.kill), (5, self.come_back), (1, self.join_anew), (0.3, self.controller_dies),
            (3, self.change_link), (3, self.change_limits), (4, self.update),
        ]  # fmt: skip
        weights = [weight for weight, _ in actions]
        (choice,) = self.rng.choices([action for _, action in actions], weights)
        try:
            choice()
        except Failed as failed:
            if cluster.CONTROLLER in self.run.servers:
                raise
            say(f"  {choice.__name__}: {str(failed).splitlines()[-1]}")
            self.refused[choice.__name__] += 1
        else:
            self.did[choice.__name__] += 1

    def kill(self) -> None:
        """Pull a node's plug."""
        if len(self.alive) > _ALIVE_MIN * len(self.hosts):
            self.run.kill(self.rng.choice(self.alive))

    def come_back(self) -> None:
        """Start a node that is off, or the controller."""
        off = [host for host in (cluster.CONTROLLER, *self.hosts) if host not in self.run.servers]
        if off:
            self.run.start([off[0] if off[0] == cluster.CONTROLLER else self.rng.choice(off)])

    def controller_dies(self) -> None:
        """Pull the controller's plug; `come_back` starts it first of all."""
        if cluster.CONTROLLER in self.run.servers:
            self.run.kill(cluster.CONTROLLER)

    def join_anew(self) -> None:
        """Wipe a node; it joins under another name, and the old one is removed."""
        if cluster.CONTROLLER not in self.run.servers:
            return
        host = self.rng.choice(self.hosts)
        if host in self.run.servers:
            self.run.kill(host)
        shutil.rmtree(self.run.realm.state(host))
        self._joins += 1
        name = f"n{host}-{self._joins}"
        self.run.join([host], names={host: name})
        self._control("node", "remove", self.names[host])
        self.names[host] = name
        self.run.start([host])

    def change_link(self) -> None:
        """Give a node's link another rate, from a tenth to all of it."""
        rate = self.run.hosts.rate_mbit * self.rng.choice((0.1, 0.3, 1, 1))
        self.run.hosts.set_rate(self.rng.choice(self.hosts), rate)

    def change_limits(self) -> None:
        """Give a node other limits, or none."""
        if self.alive:
            limits = {
                name: self.rng.choice((None, None, 2_000_000, 10_000_000))
                for name in ("upload_rate", "download_rate")
            }
            host = self.rng.choice(self.alive)
            cluster.ask_socket(self.run.realm.state(host), "/v1/limits", limits)

    def update(self) -> None:
        """Capture the next generation and push it to all nodes, off or not."""
        if cluster.CONTROLLER not in self.run.servers:
            return
        change(self.tree, self.rng)
        self._seeder("image", "capture", IMAGE, "--tree", str(self.tree))
        self.generation += 1
        how = ("--multicast", "--rate", "8M") if self.rng.random() < 0.3 else ()
        names = ",".join(self.names.values())
        self._control("swarm", "push", IMAGE, "--nodes", names, "--no-wait", *how)

    def calm(self) -> None:
        """Let everything be there, unlimited, and get the last generation.

        Raises:
            Failed: a node does not get it.
        """
        off = [host for host in (cluster.CONTROLLER, *self.hosts) if host not in self.run.servers]
        for host in off:
            self.run.start([host])
        for host in self.hosts:
            self.run.hosts.set_rate(host, self.run.hosts.rate_mbit)
            no_limits = {"upload_rate": None, "download_rate": None}
            cluster.ask_socket(self.run.realm.state(host), "/v1/limits", no_limits)
        self.update()
        states = {host: self.run.realm.state(host) for host in self.hosts}
        cluster.wait_for(self._all_hold, _END_S, "all nodes have the last generation")
        seeder = self.run.realm.state(cluster.SEEDER)
        received.check(seeder, states.values(), IMAGE, self.generation)

    def _all_hold(self) -> bool:
        states = [self.run.realm.state(host) for host in self.hosts]
        held = [received.roots(state, IMAGE).get(self.generation) for state in states]
        return all(one is not None and one.complete for one in held)

    def _seeder(self, *words: str) -> None:
        self.run.realm.call(self.run.hosts, cluster.SEEDER, *words)

    def _control(self, *words: str) -> None:
        self.run.realm.call(self.run.hosts, cluster.CONTROLLER, *words)


def fill(tree: Path, size: int, rng: random.Random) -> None:
    """Make a tree of many small files."""
    for number in range(_FILES):
        folder = tree / f"d{number % 40}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(rng.randbytes(size // _FILES))


def change(tree: Path, rng: random.Random) -> None:
    """Write a part of the files anew."""
    files = sorted(path for path in tree.rglob("f*") if path.is_file())
    for path in rng.sample(files, round(_CHANGED * len(files))):
        path.write_bytes(rng.randbytes(path.stat().st_size))


def leaks(lives: Sequence[Life]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the long lives, and a sentence for each figure that grew in one."""
    rows = [row for life in lives if (row := life.growth()) is not None]
    bad = []
    for row in rows:
        for what, slack in _SLACK.items():
            first, last = row[what]
            if first is not None and last is not None and last > first + slack:
                bad.append(f"{row['name']}: {what} grew from {first} to {last}")
    return rows, bad


def logged(folder: Path) -> list[str]:
    """Return a sentence for each log that has a traceback or an error."""
    bad = []
    for log in sorted(folder.glob("host-*.log")):
        text = log.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if "Traceback" in line or " ERROR " in line]
        if lines:
            bad.append(f"{log.name}: {lines[0][:200]}")
    return bad


def soak(args: argparse.Namespace, folder: Path, hosts: lab.Lab) -> dict[str, Any]:
    """Run it; return the result."""
    rng = random.Random(args.seed)
    tree = folder / "tree"
    fill(tree, args.bytes, rng)
    images = {IMAGE: (tree,)}
    realm = cluster.make_realm(command_words(args.nodectl), hosts, folder / "realm", images)
    problems: list[str] = []
    with cluster.cluster(realm, hosts, range(1, args.nodes + 1)) as run, Watcher(run) as watcher:
        one = Soak(run, args.nodes, tree, rng)
        until = time.monotonic() + 60 * args.minutes
        try:
            while time.monotonic() < until:
                one.act()
                left = round(until - time.monotonic())
                say(f"{left:5d} s left, {len(one.alive)} of {args.nodes} nodes, {dict(one.did)}")
                time.sleep(rng.uniform(0.5, 2 * args.every))
            one.calm()
        except Failed as failed:
            problems.append(str(failed))
        time.sleep(_SETTLE_S)
    rows, grown = leaks(list(watcher.lives.values()))
    problems += grown + logged(realm.folder)
    return {
        "work": "soak",
        "minutes": args.minutes,
        "nodes": args.nodes,
        "seed": args.seed,
        "did": dict(one.did),
        "refused_without_controller": dict(one.refused),
        "generations": one.generation,
        "processes": len(watcher.lives),
        "long_lives": rows,
        "problems": problems,
        "ok": not problems,
        **machine(),
    }


def main() -> None:
    """Parse the command line, soak, tell."""
    parser = argparse.ArgumentParser(description="A cluster that is not left alone.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--rate", type=float, default=100, help="Mbit/s of each link")
    parser.add_argument("--bytes", type=int, default=24 << 20, help="of the image")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between actions, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where to write (default: $TMPDIR or /tmp)")
    parser.add_argument("--nodectl", default=DEFAULT_NODECTL, help="how to call nodectl")
    args = parser.parse_args()
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    with (
        tempfile.TemporaryDirectory(prefix="nodectl-soak-", dir=args.scratch) as folder,
        lab.lab(args.nodes + 1, args.rate, extra=(cluster.CONTROLLER,)) as hosts,
    ):
        row = soak(args, Path(folder), hosts)
    emit(row)
    sys.exit(0 if row["ok"] else 1)


if __name__ == "__main__":
    main()
