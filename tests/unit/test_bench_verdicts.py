from typing import Any

from bench.verdicts import sentence

COLD: dict[str, Any] = {
    "tool": "nodectl",
    "scenario": "cold",
    "nodes": 8,
    "rate_mbit": 200.0,
    "seconds": 12.0,
    "ratio": 1.2,
    "seeder_copies": 1.0,
    "cpu_s_per_gib": 3.0,
    "cpu_share": 0.9,
}


def test_each_figure_is_held_to_its_limit_and_the_cpu_is_named() -> None:
    assert sentence(COLD, [COLD]) == (
        "x bound 1.20 of 1.15: missed; seeder copies 1.00 of 1.2: kept; "
        "CPU s / GiB 3.00 of 4: kept; the CPUs were the limit (90 % busy)"
    )


def test_two_nodes_are_held_to_curl() -> None:
    row = {**COLD, "nodes": 2, "cpu_share": 0.1}
    curl = {"tool": "curl", "scenario": "cold", "nodes": 2, "seconds": 11.0}
    assert sentence(row, [row, curl]) == "CPU s / GiB 3.00 of 4: kept; x curl 1.09 of 1.1: kept"
    assert sentence(curl, [row, curl]) == ""


def test_a_disturbed_push_is_held_to_the_undisturbed_one() -> None:
    row = {**COLD, "scenario": "kill", "undisturbed": 1.4, "limit": 1.3, "cpu_share": 0.2}
    assert sentence(row, [COLD, row]) == "x undisturbed 1.40 of 1.3: missed"
