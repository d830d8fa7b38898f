"""What can happen to a push: one class for each scenario, and how one is run.

`run` pushes once and returns what it took. The nodes that a scenario leaves alone (`awaited`) are
the ones that count: what they took is to be compared with an undisturbed push (`Cold`) of the same
call. Each of them is checked byte by byte afterwards.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import lab
import received
from cluster import CONTROLLER, SEEDER, Cluster, Realm, cluster, end_of, node_name, wait_for
from measure import REPOSITORY, Failed

IMAGE = "bench"
UPDATED = "update"
HALVES = ("half-a", "half-b")

_REPORT_S = 90.0  # a node's result, when it has everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What every run of a call shares."""

    realm: Realm
    hosts: lab.Lab
    nodes: int  # that have nothing yet: hosts 1 to `nodes`
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run took."""

    seconds: float  # until the last awaited node has everything and the caller knows
    taken_s: tuple[float, ...]  # by each awaited node, as its receipt says, the first first
    sealed_bytes: int  # that each of them had to get
    seeder_bytes: int  # that the seeder sent over its link
    cpu_s: float  # of all servers
    max_rss_bytes: int  # of the largest server
    uplink_bytes: int = 0  # that crossed from one rack into another
    more: dict[str, Any] = field(default_factory=dict)  # what only this scenario has to tell


class Scenario:
    """An undisturbed push to nodes that have nothing; the others differ from it in a few points."""

    name = "cold"
    says = "nodes that have nothing"
    images: Sequence[str] = (IMAGE,)
    limit: ClassVar[float | None] = None  # times an undisturbed push
    racks = 1
    push_ends = True  # by itself; else some nodes never answer

    def late(self, _nodes: int) -> Sequence[int]:
        """Return the nodes that are not there at the beginning."""
        return ()

    def awaited(self, nodes: int) -> Sequence[int]:
        """Return the nodes whose times count."""
        return range(1, nodes + 1)

    def prepare(self, _run: Cluster, _nodes: int) -> None:
        """Change something before the push."""

    def options(self, _run: Cluster) -> Sequence[str]:
        """Return further words of the push."""
        return ()

    def disturb(self, _run: Cluster, _nodes: int) -> None:
        """Do what the scenario is about, while the push runs; returns when it is done."""

    def sealed_bytes(self, seeder: Path) -> int:
        """Return what each node has to get."""
        refs: dict[bytes, Any] = {}
        for image in self.images:
            refs |= received.frames(seeder, _last(seeder, image))
        return received.sealed_bytes(refs.values())

    def more(self, _run: Cluster, _nodes: int) -> dict[str, Any]:
        """Return what only this scenario has to tell."""
        return {}

    def undo(self, _run: Cluster, _nodes: int) -> None:
        """Take back what `prepare` changed and the end of the processes does not."""


def _last(seeder: Path, image: str) -> Any:  # noqa: ANN401 - a HeldRoot
    roots = received.roots(seeder, image)
    return roots[max(roots)]


class Update(Scenario):
    """The nodes hold the generation before, which is nine tenths of this one."""

    name = "update"
    says = "nodes that hold 90 % of it"
    images = (UPDATED,)

    def prepare(self, run: Cluster, nodes: int) -> None:
        end_of(run.push(UPDATED, range(1, nodes + 1), "--generation", "1"), 600)

    def sealed_bytes(self, seeder: Path) -> int:
        roots = received.roots(seeder, UPDATED)
        old, new = (received.frames(seeder, roots[generation]) for generation in (1, 2))
        return received.sealed_bytes(new[frame] for frame in new.keys() - old.keys())


class Kill(Scenario):
    """A fifth of the nodes loses its power half-way."""

    name = "kill"
    says = "a fifth of the nodes killed half-way; the others"
    limit = 1.3
    push_ends = False

    def awaited(self, nodes: int) -> Sequence[int]:
        return range(1, nodes + 1 - max(1, round(nodes / 5)))

    def disturb(self, run: Cluster, nodes: int) -> None:
        _until(run, self.awaited(nodes), 0.5)
        for host in range(len(self.awaited(nodes)) + 1, nodes + 1):
            run.kill(host)


class ControllerDead(Scenario):
    """The controller dies at a tenth, and comes back when all nodes have everything."""

    name = "controller-dead"
    says = "the controller killed at 10 %"
    limit = 1.05

    def disturb(self, run: Cluster, nodes: int) -> None:
        _until(run, self.awaited(nodes), 0.1)
        run.kill(CONTROLLER)
        wait_for(lambda: _complete(run, self.awaited(nodes), IMAGE), 600, "the nodes finish")
        run.start([CONTROLLER])


class SeederDead(Scenario):
    """The seeder dies as soon as the nodes have one copy between them."""

    name = "seeder-dead"
    says = "the seeder killed when one copy is out"

    def disturb(self, run: Cluster, nodes: int) -> None:
        def one_copy_is_out() -> bool:
            images = [run.image(host, IMAGE) for host in self.awaited(nodes)]
            sets = [int.from_bytes(bytes.fromhex(image.get("have", "")), "little")
                    for image in images]  # fmt: skip
            union = 0
            for one in sets:
                union |= one
            return bool(union) and union.bit_count() == max(image["spans"] for image in images)

        wait_for(one_copy_is_out, 600, "one copy is out", every_s=0.05)
        run.kill(SEEDER)


class SlowNode(Scenario):
    """The last node has a tenth of the others' rate."""

    name = "slow-node"
    says = "one node at a tenth of the rate; the others"
    limit = 1.1
    push_ends = False

    def awaited(self, nodes: int) -> Sequence[int]:
        return range(1, nodes)

    def prepare(self, run: Cluster, nodes: int) -> None:
        run.hosts.set_rate(nodes, run.hosts.rate_mbit / 10)

    def undo(self, run: Cluster, nodes: int) -> None:
        run.hosts.set_rate(nodes, run.hosts.rate_mbit)


class Liar(Scenario):
    """The last node serves wrong bytes."""

    name = "liar"
    says = "one node sends wrong bytes; the others"
    limit = 1.1
    program = (sys.executable, str(REPOSITORY / "bench" / "liar.py"))

    def late(self, nodes: int) -> Sequence[int]:
        return (nodes,)

    def awaited(self, nodes: int) -> Sequence[int]:
        return range(1, nodes)

    def prepare(self, run: Cluster, nodes: int) -> None:
        run.start([nodes], program=self.program)

    def more(self, run: Cluster, nodes: int) -> dict[str, Any]:
        rows = run.rows(1)
        dropped = [
            row["receipt"]["dropped"] for row in rows.values() if "dropped" in row["receipt"]
        ]
        noticed = sum(any(peer == node_name(nodes) for peer, _ in pairs) for pairs in dropped)
        return {"dropped_the_liar": noticed}


class Late(Scenario):
    """The last node comes when the others are half-way."""

    name = "late"
    says = "one node joins half-way; the others"
    limit = 1.1

    def late(self, nodes: int) -> Sequence[int]:
        return (nodes,)

    def awaited(self, nodes: int) -> Sequence[int]:
        return range(1, nodes)

    def disturb(self, run: Cluster, nodes: int) -> None:
        _until(run, self.awaited(nodes), 0.5)
        run.start([nodes])

    def more(self, run: Cluster, nodes: int) -> dict[str, Any]:
        return {"late_s": run.rows(1)[node_name(nodes)]["receipt"]["seconds"]}


class Racks(Scenario):
    """Two racks, between them the rate of one node."""

    name = "racks"
    says = "two racks, an uplink as fast as one node"
    racks = 2

    def prepare(self, run: Cluster, nodes: int) -> None:
        """Tell the inventory which node stands where."""
        for rack in range(self.racks):
            names = [node_name(host) for host in range(1, nodes + 1) if host % self.racks == rack]
            names += [node_name(SEEDER)] if rack == 0 else []
            words = ("node", "add", ",".join(names), "--rack", f"rack{rack}")
            run.realm.call(run.hosts, CONTROLLER, *words)


class TwoSwarms(Scenario):
    """Two images of half the size, at once."""

    name = "two-swarms"
    says = "two images of half the size at once"
    images = HALVES


class Multicast(Scenario):
    """One node loses a tenth of the datagrams, and need not be done when the others are."""

    name = "multicast"
    says = "multicast at 85 % of the rate, one node loses a tenth of it; the others"
    push_ends = False
    program = (sys.executable, str(REPOSITORY / "bench" / "lossy.py"))

    def late(self, nodes: int) -> Sequence[int]:
        return (nodes,)

    def awaited(self, nodes: int) -> Sequence[int]:
        return range(1, nodes)

    def prepare(self, run: Cluster, nodes: int) -> None:
        run.start([nodes], program=self.program)

    def options(self, run: Cluster) -> Sequence[str]:
        return ("--multicast", "--rate", str(self.rate(run.hosts.rate_mbit)))

    def rate(self, rate_mbit: float) -> int:
        """Return the bytes/s that the sender is told."""
        return round(rate_mbit * 1e6 / 8 * 0.85)

    def more(self, run: Cluster, nodes: int) -> dict[str, Any]:
        rows = run.rows(1)
        others = [rows[node_name(host)]["receipt"] for host in self.awaited(nodes)]
        came = sum(receipt["from"].get("(multicast)", 0) for receipt in others)
        size, last_s = others[0]["sealed_bytes"], max(one["seconds"] for one in others)
        return {
            "multicast_share": came / (size * len(others)),
            "to_rate": last_s * self.rate(run.hosts.rate_mbit) / size,
        }


SCENARIOS: dict[str, Scenario] = {
    one.name: one
    for one in (
        Scenario(), Update(), Kill(), ControllerDead(), SeederDead(), SlowNode(), Liar(), Late(),
        Racks(), TwoSwarms(), Multicast(),
    )
}  # fmt: skip


def _fraction(run: Cluster, hosts: Sequence[int]) -> float:
    """Return how much of the image hosts have on average, from 0 to 1."""
    images = [run.image(host, IMAGE) for host in hosts]
    parts = [one["held_bytes"] / one["total_bytes"] for one in images if one.get("spans")]
    return sum(parts) / len(hosts)


def _until(run: Cluster, hosts: Sequence[int], fraction: float) -> None:
    wait_for(lambda: _fraction(run, hosts) >= fraction, 600, f"{fraction:.0%} is there")


def _complete(run: Cluster, hosts: Sequence[int], image: str) -> bool:
    return all(run.image(host, image).get("complete") for host in hosts)


def run(setting: Setting, scenario: Scenario) -> Outcome:
    """Run a scenario once, and check every byte that the awaited nodes received.

    Raises:
        Failed: a push failed, took too long, or a byte is wrong.
    """
    nodes = setting.nodes
    late = scenario.late(nodes)
    awaited = scenario.awaited(nodes)
    first = [host for host in range(1, nodes + 1) if host not in late]
    with cluster(setting.realm, setting.hosts, first, late=late) as made:
        try:
            scenario.prepare(made, nodes)
            outcome = _push(setting, scenario, made, awaited)
        finally:
            scenario.undo(made, nodes)
    seeder = setting.realm.state(SEEDER)
    states = [setting.realm.state(host) for host in awaited]
    for image in scenario.images:
        received.check(seeder, states, image, max(received.roots(seeder, image)))
    return outcome


def _push(setting: Setting, scenario: Scenario, made: Cluster, awaited: Sequence[int]) -> Outcome:
    everyone = range(1, setting.nodes + 1)
    made.begin_count()
    sent, crossed = setting.hosts.sent_bytes(SEEDER), setting.hosts.uplink_bytes()
    jobs = [made.push(image, everyone, *scenario.options(made)) for image in scenario.images]
    scenario.disturb(made, setting.nodes)
    if scenario.push_ends:
        ends = [end_of(job, setting.limit_s) for job in jobs]
        seconds = max(end[0] for end in ends)
        rows = [{row["node"]: row for row in end[1]["nodes"]} for end in ends]
    else:
        rows = [_rows_when_done(made, setting.limit_s, awaited)]
        seconds = 0.0
    taken = [
        max(float(jobs_rows[node_name(host)]["receipt"]["seconds"]) for jobs_rows in rows)
        for host in awaited
    ]
    if len(jobs) > 1:  # each waits for the other: only the command knows the time of both
        taken = [seconds]
    return Outcome(
        seconds=seconds or max(taken),
        taken_s=tuple(sorted(taken)),
        sealed_bytes=scenario.sealed_bytes(setting.realm.state(SEEDER)),
        seeder_bytes=setting.hosts.sent_bytes(SEEDER) - sent,
        cpu_s=made.cpu_s(),
        max_rss_bytes=made.max_rss_bytes(),
        uplink_bytes=setting.hosts.uplink_bytes() - crossed,
        more=scenario.more(made, setting.nodes),
    )


def _rows_when_done(
    made: Cluster, limit_s: float, awaited: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Wait until the awaited nodes have everything and the controller was told."""
    wait_for(lambda: _complete(made, awaited, IMAGE), limit_s, "the nodes finish")
    rows: dict[str, dict[str, Any]] = {}

    def told() -> bool:
        rows.update(made.rows(1))
        return all(rows[node_name(host)]["state"] == "done" for host in awaited)

    wait_for(told, _REPORT_S, "the nodes report")
    if bad := [name for name, row in rows.items() if row["state"] == "failed"]:
        raise Failed(f"{', '.join(bad)} failed")
    return rows
