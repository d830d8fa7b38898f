"""What docs/swarm-figures.md holds: which plans make it, and how results become its tables."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import scenarios
import verdicts

P = TypeVar("P")

_RIVALS_AT_8 = ("nodectl", "udpcast", "libtorrent", "rsync")
_ALONE = ("nodectl",)
_MIB = 1 << 20


_HEAD = """\
Made by `bench/swarm.py {words}` on {day}, commit {commit}, {cpus} CPUs, kernel {kernel}: {mib} MiB
of sealed bytes, medians of {runs} runs (unicast to many: one). Hosts are network namespaces whose
links are shaped both ways; all of them share this machine's CPUs. The bound is bytes / rate,
without any headers; a CPU share near 100 % says that the machine was the limit and not the links.
Every byte that arrived was checked. After a change of the code the command is run again: nothing
here is typed."""
_ABOUT_COLD = """\
nodectl's time ends when `swarm push` says so, its start included; *last node* is the node's own."""
_ABOUT_DISTURBED = """\
*Undisturbed* is the last node's time over that of a push to the same nodes in the same call that
nothing disturbs; *may be* is what it is held to."""


def plans(make: Callable[..., P], runs: int) -> tuple[P, ...]:
    """Return what is measured: the more nodes, the slower their links, so that CPUs suffice.

    On 2 cores it takes about 18 minutes with 2 runs of 256 MiB, and 26 with 3.
    """
    everything = tuple(name for name in scenarios.SCENARIOS if name != "multicast")
    wanted = (
        (1, 200, ("nodectl", "curl"), ("cold",)),
        (2, 200, ("nodectl", "curl"), ("cold",)),
        (4, 200, _ALONE, ("cold",)),
        (8, 200, _RIVALS_AT_8, everything),
        (8, 100, ("nodectl", "udpcast"), ("cold", "multicast")),  # kernels copy each datagram
        (16, 100, _ALONE, ("cold",)),
        (32, 50, _ALONE, ("cold",)),
    )
    return tuple(
        make(nodes=nodes, rate_mbit=float(rate), tools=tools, scenarios=names, runs=runs)
        for nodes, rate, tools, names in wanted
    )


def markdown(rows: Sequence[dict[str, Any]], words: Sequence[str]) -> str:
    """Return the document for results, made by `bench/swarm.py` with these words."""
    good = [row for row in rows if "seconds" in row]
    if not good:
        return "# Figures of the swarm\n\nNothing could be measured.\n"
    first = good[0]
    cold = [row for row in good if row["scenario"] == "cold"]
    disturbed = [row for row in good if row["scenario"] != "cold"]
    notes = [
        f"{row.get('tool', '')} {row.get('scenario', '')} {row.get('nodes', '')}: "
        f"{row.get('error') or row.get('skipped')}"
        for row in rows
        if "seconds" not in row
    ]
    parts = [
        "# Figures of the swarm",
        _HEAD.format(
            words=" ".join(words),
            day=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            mib=f"{first['sealed_bytes'] / _MIB:.0f}",
            **{name: first[name] for name in ("commit", "cpus", "kernel", "runs")},
        ),
        "## Nodes that have nothing",
        _table((*_COLD, ("held to", lambda row: verdicts.sentence(row, rows) or "-")), cold),
        _ABOUT_COLD,
    ]
    if disturbed:
        parts += ["## What can happen", _table(_DISTURBED, disturbed), _ABOUT_DISTURBED]
    if notes:
        parts += ["## Not measured", "\n".join(f"* {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


Column = tuple[str, Callable[[dict[str, Any]], str]]

_COLD: Sequence[Column] = (
    ("nodes", lambda row: f"{row['nodes']} x {row['rate_mbit']:g} Mbit/s"),
    ("tool", lambda row: str(row["tool"])),
    ("seconds", lambda row: f"{row['seconds']:.1f}"),
    ("bound", lambda row: f"{row['bound_s']:.1f}"),
    ("ratio", lambda row: f"{row['ratio']:.2f}"),
    ("first node", lambda row: f"{row['first_s']:.1f}"),
    ("last node", lambda row: f"{row['last_s']:.1f}"),
    ("seeder copies", lambda row: f"{row['seeder_copies']:.2f}"),
    ("CPU s / GiB and node", lambda row: f"{row['cpu_s_per_gib']:.1f}"),
    ("largest RSS", lambda row: f"{row['max_rss_bytes'] / _MIB:.0f} MiB"),
    ("CPU share", lambda row: f"{100 * row['cpu_share']:.0f} %"),
)


def _undisturbed(row: dict[str, Any]) -> str:
    return f"{row['undisturbed']:.2f}" if row.get("limit") else "-"


def _more(row: dict[str, Any]) -> str:
    told = []
    if row["uplink_copies"]:
        told.append(f"{row['uplink_copies']:.2f} copies between the racks")
    if "late_s" in row:
        told.append(f"the late one: {row['late_s']:.1f} s")
    if "dropped_the_liar" in row:
        told.append(f"{row['dropped_the_liar']:.0f} nodes dropped the liar")
    if "multicast_share" in row:
        told.append(
            f"{100 * row['multicast_share']:.0f} % came by multicast, in "
            f"{row['to_rate']:.2f} of bytes / its rate"
        )
    return ", ".join(told)


_DISTURBED: Sequence[Column] = (
    ("scenario", lambda row: scenarios.SCENARIOS[row["scenario"]].says),
    ("nodes", lambda row: f"{row['nodes']} x {row['rate_mbit']:g} Mbit/s"),
    ("last node, s", lambda row: f"{row['last_s']:.1f}"),
    ("bound", lambda row: f"{row['bound_s']:.1f}"),
    ("ratio", lambda row: f"{row['last_s'] / row['bound_s']:.2f}"),
    ("undisturbed", _undisturbed),
    ("may be", lambda row: f"{row['limit']:.2f}" if row.get("limit") else "-"),
    ("seeder copies", lambda row: f"{row['seeder_copies']:.2f}"),
    ("also", _more),
)


def _table(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| " + " | ".join(name for name, _ in columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(show(row) for _, show in columns) + " |" for row in rows),
    ]
    return "\n".join(lines)
