"""What each result of bench/swarm.py is held to, and whether it kept it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CPU_BOUND = 0.8  # of all processors: above it they are the limit, or nearly so
CPU_S_PER_GIB = 4.0  # received, checked, stored and served on
_RATIOS = {(8, 200.0): 1.15, (16, 100.0): 1.2, (32, 50.0): 1.25}
_COPIES = {(8, 200.0): 1.2}
_BY_CURL = 1.1
_MULTICAST = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One figure and what it may be."""

    what: str
    value: float
    limit: float

    def __str__(self) -> str:
        """Return it as a phrase."""
        kept = "kept" if self.value <= self.limit else "missed"
        return f"{self.what} {self.value:.2f} of {self.limit:g}: {kept}"


def verdicts(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[Verdict]:
    """Return what a result of nodectl is held to; `rows` has the rivals' results."""
    if row.get("tool") != "nodectl" or "seconds" not in row:
        return []
    lab, cold = (row["nodes"], row["rate_mbit"]), row["scenario"] == "cold"
    curl_s = [
        one["seconds"]
        for one in rows
        if one.get("tool") == "curl" and "seconds" in one and one["nodes"] == row["nodes"]
    ]
    held = (
        ("x bound", row["ratio"], _RATIOS.get(lab) if cold else None),
        ("seeder copies", row["seeder_copies"], _COPIES.get(lab) if cold else None),
        ("CPU s / GiB", row["cpu_s_per_gib"], CPU_S_PER_GIB if cold else None),
        ("x curl", row["seconds"] / min(curl_s, default=1.0), _BY_CURL if curl_s else None),
        ("x undisturbed", row.get("undisturbed"), row.get("limit")),
        ("x bytes / rate", row.get("to_rate"), _MULTICAST),
    )
    return [
        Verdict(what=what, value=value, limit=limit)
        for what, value, limit in held
        if value is not None and limit is not None
    ]


def sentence(row: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts of a result as one line; "" where it is held to nothing."""
    told = [str(verdict) for verdict in verdicts(row, rows)]
    if told and row["cpu_share"] >= CPU_BOUND:
        told.append(f"the CPUs were the limit ({100 * row['cpu_share']:.0f} % busy)")
    return "; ".join(told)
