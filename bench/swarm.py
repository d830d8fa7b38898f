"""From one host to N hosts over shaped links: nodectl, and what people use today.

    .venv/bin/python bench/swarm.py --nodes 8 --rate 200 --bytes 256M --tool nodectl,udpcast
    .venv/bin/python bench/swarm.py --nodes 8 --scenario cold,kill,liar --runs 5
    .venv/bin/python bench/swarm.py --all --runs 2 --results /var/tmp/swarm.jsonl \\
        --markdown docs/swarm-figures.md

Needs root: it builds network namespaces (bench/lab.py). Every tool moves the same number of bytes
to the same hosts over the same links, one tool after the other. With --bytes: a file of random
bytes, which no compression shrinks. With --tree: nodectl captures that tree, and the others
move one file as large as its sealed content; with --raw, udpcast and libtorrent also its plain tar.

A result is one JSON line, the median of --runs: `seconds` until the last host has everything (for
nodectl: until `swarm push` says so; `last_s` is what its last node took), `bound_s` = bytes * 8 /
rate (headers not counted: TCP over Ethernet reaches 95 % of it), `ratio` = seconds / bound_s,
`seeder_copies` = what the seeding host sent over its link, in copies; `cpu_share` near 1 says that
the machine's processors and not the links were the limit. Every byte that a host received is
checked: files are compared with the one that was sent, frames with the ids in the manifest.

With --results a call that broke off goes on when it is given again: what the same commit measured
is not measured again.

Scenarios (bench/scenarios.py) disturb nodectl; `undisturbed` is the last_s of their nodes over that
of an undisturbed push (`cold`, which is run in the same call), `limit` what it may be.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cluster
import figures
import kept
import lab
import rivals
import scenarios
import verdicts
from measure import DEFAULT_NODECTL, REPOSITORY, Failed, command_words, emit, machine, pipeline, say

sys.path.insert(0, str(REPOSITORY))

from nodectl.units import parse_size

NODECTL = "nodectl"
TOOLS = (NODECTL, *rivals.RIVALS)
RAW = "-tar"  # the same tool, on the tar of a tree
_RAW_TOOLS = ("udpcast", "libtorrent")
_UPDATE_PARTS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure on one laboratory."""

    nodes: int
    rate_mbit: float
    tools: tuple[str, ...]
    scenarios: tuple[str, ...]  # for nodectl
    runs: int


@dataclass(slots=True, kw_only=True)
class Bench:
    """What one call measures with; results go to stdout and are kept."""

    args: argparse.Namespace
    folder: Path
    rows: list[dict[str, Any]]
    wanted: set[str]  # scenarios of all plans
    kept: kept.Kept
    realm: cluster.Realm | None = None
    cold: dict[str, Any] = field(default_factory=dict)  # the last undisturbed push
    failures: int = 0

    @property
    def payload(self) -> Path:
        """The one file that the rivals move."""
        return self.folder / "source" / "payload"

    def tell(self, row: dict[str, Any]) -> None:
        """Print a result, and keep it."""
        self.rows.append(row)
        self.failures += "error" in row
        emit(row)
        self.kept.put(row)
        if told := verdicts.sentence(row, self.rows):
            say(f"nodectl, {row['scenario']}, {row['nodes']} nodes: {told}")

    def known(self, plan: Plan, tool: str, scenario: str) -> dict[str, Any] | None:
        """Return a result that an earlier call kept; it is told like a new one."""
        row = self.kept.get(
            tool=tool,
            scenario=scenario,
            nodes=plan.nodes,
            rate_mbit=plan.rate_mbit,
            runs=plan.runs if tool not in rivals.UNICAST or plan.nodes <= 2 else 1,
            asked_bytes=self.args.bytes,
        )
        if row is not None:
            say(f"{tool}, {scenario}, {plan.nodes} nodes: measured before")
            self.rows.append(row)
            emit(row)
        return row


def main() -> None:
    """Measure, and end with status 0 when every tool that was there worked."""
    args = arguments()
    if args.json:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - to the end
    plans = _plans(args)
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-", dir=args.scratch) as folder:
        wanted = {name for plan in plans for name in plan.scenarios}
        bench = Bench(
            args=args, folder=Path(folder), rows=[], wanted=wanted, kept=kept.Kept(args.results)
        )
        for plan in plans:
            measure(bench, plan)
    if args.markdown:
        args.markdown.write_text(figures.markdown(bench.rows, sys.argv[1:]), encoding="utf-8")
    sys.exit(1 if bench.failures else 0)


def _plans(args: argparse.Namespace) -> tuple[Plan, ...]:
    if args.all:
        return figures.plans(Plan, args.runs)
    return tuple(
        Plan(
            nodes=nodes,
            rate_mbit=args.rate,
            tools=tuple(args.tool),
            scenarios=tuple(args.scenario),
            runs=args.runs,
        )
        for nodes in args.nodes
    )


def measure(bench: Bench, plan: Plan) -> None:
    """Run tool after tool, and nodectl in scenario after scenario, on laboratories as they need."""
    say(f"{plan.nodes} nodes at {plan.rate_mbit:g} Mbit/s")
    tools = [tool for tool in plan.tools if not _skipped(bench, tool)]
    wanted = [scenarios.SCENARIOS[name] for name in plan.scenarios]
    try:
        with _hosts(plan) as hosts:
            _prepare(bench, hosts, tools)
            flat = [scenario for scenario in wanted if scenario.racks == 1]
            for tool in tools:
                _tool(bench, plan, hosts, tool, flat)
        racked = [scenario for scenario in wanted if scenario.racks > 1]
        for scenario in racked if NODECTL in tools else ():
            with _hosts(plan, racks=scenario.racks) as hosts:
                _tool(bench, plan, hosts, NODECTL, [scenario])
    except (Failed, OSError) as failed:
        say(f"failed: {failed}")
        bench.tell({"work": "swarm", "nodes": plan.nodes, "error": str(failed)})


def _tool(
    bench: Bench,
    plan: Plan,
    hosts: lab.Lab,
    tool: str,
    wanted: Sequence[scenarios.Scenario],
) -> None:
    """Measure one tool; nodectl in each scenario."""
    if tool == NODECTL:
        _scenarios(bench, plan, hosts, wanted)
    elif bench.known(plan, tool, "cold") is None:
        _rival(bench, plan, hosts, tool)


@contextmanager
def _hosts(plan: Plan, *, racks: int = 1) -> Iterator[lab.Lab]:
    """Build the laboratory of a plan; the uplink of a rack is as fast as one node's link."""
    extra = (cluster.CONTROLLER,)
    uplink = plan.rate_mbit if racks > 1 else 0.0
    with lab.lab(
        plan.nodes + 1, plan.rate_mbit, extra=extra, racks=racks, uplink_mbit=uplink
    ) as hosts:
        yield hosts


def _skipped(bench: Bench, tool: str) -> bool:
    """Say so when a tool is not there."""
    if tool == NODECTL:
        program = rivals.absent(command_words(bench.args.nodectl)[:1])
    else:
        program = rivals.lacking(tool.removesuffix(RAW))
    if program:
        bench.tell({"work": "swarm", "tool": tool, "skipped": f"{program} is not installed"})
    return bool(program)


# --- what is moved ---------------------------------------------------------------------------


def _prepare(bench: Bench, hosts: lab.Lab, tools: Sequence[str]) -> None:
    """Make what is to be moved, once for all laboratories of a call."""
    source = bench.folder / "source"
    if not source.exists():
        source.mkdir()
        if bench.args.tree is None:
            random_file(bench.payload, bench.args.bytes)
    if NODECTL in tools and bench.realm is None:
        bench.realm = _make_realm(bench, hosts)
    if bench.args.tree is not None and not bench.payload.exists():
        if bench.realm is not None:
            sealed = scenarios.Scenario().sealed_bytes(bench.realm.state(cluster.SEEDER))
            random_file(bench.payload, sealed)
        else:
            _tarred(bench.args.tree, bench.payload, compress=True)
    if bench.args.tree is not None and bench.args.raw:
        raw = bench.folder / "raw" / "payload"
        if not raw.exists():
            raw.parent.mkdir()
            _tarred(bench.args.tree, raw, compress=False)


def _make_realm(bench: Bench, hosts: lab.Lab) -> cluster.Realm:
    """Make the realm, and capture what the scenarios push."""
    images: dict[str, Sequence[Path]] = {}
    for name in ("cold", *sorted(bench.wanted)):
        for image in scenarios.SCENARIOS[name].images:
            if image not in images:
                images[image] = _trees(bench, image)
    return cluster.make_realm(
        command_words(bench.args.nodectl), hosts, bench.folder / "realm", images
    )


def _trees(bench: Bench, image: str) -> Sequence[Path]:
    """Return the trees of an image's generations."""
    size, tops = bench.args.bytes, bench.folder / "trees"
    if image == scenarios.IMAGE:
        return (bench.args.tree or bench.folder / "source",)
    if image == scenarios.UPDATED:
        old, new = tops / "old", tops / "new"
        for part in range(_UPDATE_PARTS):
            share = size // _UPDATE_PARTS
            random_file(old / f"part-{part}", share, seed=part)
            random_file(new / f"part-{part}", share, seed=part or _UPDATE_PARTS)
        return (old, new)
    random_file(tops / image / "payload", size // 2, seed=image)
    return (tops / image,)


def random_file(path: Path, size: int, *, seed: int | str = "payload") -> None:
    """Write random bytes, the same ones for the same size and seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{size} {seed}")
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(rng.randbytes(min(1 << 20, size - start)))


def _tarred(tree: Path, path: Path, *, compress: bool) -> None:
    tar = ("tar", "--create", "--one-file-system", f"--directory={tree}", ".")
    zstd = ("zstd", "-3", "-T0", "--quiet", "--stdout")
    pipeline((tar, zstd) if compress else (tar,), stdout=path)


# --- results ---------------------------------------------------------------------------------


def _scenarios(
    bench: Bench, plan: Plan, hosts: lab.Lab, wanted: Sequence[scenarios.Scenario]
) -> None:
    """Run nodectl in each scenario; `cold` is what those after it are compared with."""
    for scenario in wanted:
        known = bench.known(plan, NODECTL, scenario.name)
        row = known or _scenario(bench, plan, hosts, scenario)
        if scenario.name == "cold":
            bench.cold = row
        elif known is None and _alike(row, bench.cold):
            row["undisturbed"] = round(row["last_s"] / bench.cold["last_s"], 3)
            row["limit"] = scenario.limit
        if known is None:
            bench.tell(row)


def _alike(row: dict[str, Any], cold: dict[str, Any]) -> bool:
    """Say whether a result can be told by an undisturbed one: both are there, of the same links."""
    told = ("nodes", "rate_mbit")
    both = "last_s" in row and "last_s" in cold
    return both and [row[name] for name in told] == [cold[name] for name in told]


def _scenario(
    bench: Bench, plan: Plan, hosts: lab.Lab, scenario: scenarios.Scenario
) -> dict[str, Any]:
    """Return the result of nodectl in one scenario."""
    if bench.realm is None:
        raise Failed("there is no realm")
    copy_s = bench.args.bytes * 8 / (plan.rate_mbit * 1e6)
    setting = scenarios.Setting(
        realm=bench.realm, hosts=hosts, nodes=plan.nodes, limit_s=120 + 10 * copy_s
    )
    facts = {"work": "swarm", "tool": NODECTL, "scenario": scenario.name}
    outcomes = []
    try:
        for number in range(plan.runs):
            say(f"nodectl, {scenario.name}, {number + 1} of {plan.runs} ...")
            os.sync()
            outcomes.append(scenarios.run(setting, scenario))
    except (Failed, OSError) as failed:
        say(f"nodectl, {scenario.name} failed: {failed}")
        return {**facts, "nodes": plan.nodes, "error": str(failed)}
    return {**facts, "asked_bytes": bench.args.bytes, **_row(plan, outcomes)}


def _rival(bench: Bench, plan: Plan, hosts: lab.Lab, tool: str) -> None:
    """Measure one rival in a folder of its own."""
    file = bench.payload
    if tool.endswith(RAW):
        file = bench.folder / "raw" / "payload"
    size = file.stat().st_size
    limit_s = 60 + 3 * plan.nodes * size * 8 / (plan.rate_mbit * 1e6)
    runs = plan.runs if tool not in rivals.UNICAST or plan.nodes <= 2 else 1
    facts = {"work": "swarm", "tool": tool, "scenario": "cold"}
    try:
        outcomes = []
        for number in range(runs):
            say(f"{tool}, {number + 1} of {runs} ...")
            os.sync()
            with tempfile.TemporaryDirectory(prefix=f"{tool}-", dir=bench.folder) as place:
                case = rivals.Case(hosts=hosts, file=file, folder=Path(place))
                result = rivals.run_rival(rivals.RIVALS[tool.removesuffix(RAW)], case, limit_s)
            outcomes.append(
                scenarios.Outcome(
                    seconds=result.seconds,
                    taken_s=result.finished_s,
                    sealed_bytes=size,
                    seeder_bytes=result.seeder_bytes,
                    cpu_s=result.cpu_s,
                    max_rss_bytes=result.max_rss_bytes,
                )
            )
    except (Failed, OSError) as failed:
        say(f"{tool} failed: {failed}")
        bench.tell({**facts, "nodes": plan.nodes, "error": str(failed)})
        return
    bench.tell({**facts, "asked_bytes": bench.args.bytes, **_row(plan, outcomes)})


def _row(plan: Plan, outcomes: Sequence[scenarios.Outcome]) -> dict[str, Any]:
    """Return the figures of one JSON line: medians over the runs."""
    facts = machine()

    def median(figure: str) -> float:
        return float(statistics.median(getattr(one, figure) for one in outcomes))

    size, seconds = outcomes[0].sealed_bytes, median("seconds")
    bound_s = size * 8 / (plan.rate_mbit * 1e6)
    more = {
        name: statistics.median(one.more[name] for one in outcomes) for name in outcomes[0].more
    }
    return {
        "seconds": round(seconds, 3),
        "runs": len(outcomes),
        "spread_s": [round(pick(one.seconds for one in outcomes), 3) for pick in (min, max)],
        "cpu_s": round(median("cpu_s"), 3),
        "max_rss_bytes": max(one.max_rss_bytes for one in outcomes),
        "sealed_bytes": size,
        "nodes": plan.nodes,
        "rate_mbit": plan.rate_mbit,
        "bound_s": round(bound_s, 3),
        "ratio": round(seconds / bound_s, 3),
        "seeder_copies": round(median("seeder_bytes") / size, 3),
        "uplink_copies": round(median("uplink_bytes") / size, 3),
        "first_s": round(statistics.median(one.taken_s[0] for one in outcomes), 3),
        "last_s": round(statistics.median(one.taken_s[-1] for one in outcomes), 3),
        "cpu_share": round(median("cpu_s") / seconds / facts["cpus"], 3),
        "cpu_s_per_gib": round(median("cpu_s") / (plan.nodes * size / (1 << 30)), 3),
        **more,
        **facts,
    }


# --- the command line ------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="One host to N hosts over shaped links.")
    parser.add_argument("--nodes", default="8", help="hosts that have nothing yet: 8 or 1,2,4,8")
    parser.add_argument("--rate", type=float, default=200, help="Mbit/s of each link, both ways")
    parser.add_argument("--bytes", type=parse_size, default="256M", help="random bytes")
    parser.add_argument("--tree", type=Path, help="a tree instead")
    parser.add_argument("--raw", action="store_true", help="with --tree: rivals on its tar, too")
    parser.add_argument("--tool", default=",".join(TOOLS), help="of these, with commas")
    known = ",".join(scenarios.SCENARIOS)
    parser.add_argument("--scenario", default="cold", help=f"for nodectl: {known}, or: all")
    parser.add_argument("--runs", type=int, default=1, help="of each; the median is told")
    parser.add_argument("--all", action="store_true", help="every figure of docs/swarm-figures.md")
    parser.add_argument("--results", type=Path, help="keep results here, and go on from them")
    parser.add_argument("--markdown", type=Path, help="write a table of the results, too")
    parser.add_argument("--scratch", type=Path, help="where to write (default: $TMPDIR or /tmp)")
    parser.add_argument("--nodectl", default=DEFAULT_NODECTL, help="how to call nodectl")
    parser.add_argument("--json", action="store_true", help="nothing but results, not even stderr")
    args = parser.parse_args()
    args.tool = args.tool.split(",")
    args.scenario = known.split(",") if args.scenario == "all" else args.scenario.split(",")
    unknown = {*args.tool, *args.scenario} - {*TOOLS, *scenarios.SCENARIOS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    try:
        args.nodes = [int(number) for number in args.nodes.split(",")]
    except ValueError:
        parser.error("--nodes: numbers with commas between")
    if args.tree is not None and not args.tree.is_dir():
        parser.error(f"{args.tree} is not a folder")
    if args.raw:
        args.tool += [tool + RAW for tool in _RAW_TOOLS if tool in args.tool]
    args.scenario = list(dict.fromkeys(("cold", *args.scenario)))  # what the others are told by
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    return args


if __name__ == "__main__":
    main()
