"""The benchmarks themselves: they run, they tell the truth about failures, they clean up."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def _bench(script: str, *argv: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        [sys.executable, REPOSITORY / "bench" / script, *argv],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def _listing(top: Path) -> list[tuple[object, ...]]:
    return sorted(
        (os.fsencode(path.relative_to(top)), s.st_mode, s.st_size, s.st_mtime_ns, s.st_nlink)
        for path in top.rglob("*")
        for s in [path.lstat()]
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    assert _bench("tree.py", top, "--bytes", "1M")[0] == 0
    return top


def test_the_same_seed_makes_the_same_tree(tree: Path, tmp_path: Path) -> None:
    assert _bench("tree.py", tmp_path / "again", "--bytes", "1M")[0] == 0
    assert _bench("tree.py", tmp_path / "other", "--bytes", "1M", "--seed", "2")[0] == 0
    assert _listing(tree) == _listing(tmp_path / "again")
    assert _listing(tree) != _listing(tmp_path / "other")


@pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed")
def test_content_prints_a_line_for_each_work(tree: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    options = ("--tool", "tar-zstd", "--runs", "1", "--scratch", scratch)
    status, rows, _ = _bench("content.py", "--tree", tree, *options)
    assert status == 0
    assert [row["work"] for row in rows] == ["capture", "recapture", "restore"]
    assert rows[1]["skipped"]
    for row in (rows[0], rows[2]):
        assert row["tool"] == "tar-zstd"
        assert row["seconds"] > 0
        assert row["max_rss_bytes"] > 1 << 20
        assert 0 < row["sealed_bytes"] < row["plain_bytes"]
    assert list(scratch.iterdir()) == []


def test_a_tool_that_fails_is_named_and_the_status_says_so(tree: Path, tmp_path: Path) -> None:
    options = ("--tool", "nodectl", "--runs", "1", "--scratch", tmp_path, "--nodectl", "false")
    status, rows, _ = _bench("content.py", "--tree", tree, *options)
    assert status == 1
    assert all("status [1]" in row["error"] for row in rows)
    assert list(tmp_path.glob("nodectl-bench-*")) == []


@pytest.mark.netns
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_swarm_measures_against_the_bound_of_the_links(tmp_path: Path) -> None:
    """Two hosts fetch 2 MiB over the seeder's one link of 40 Mbit/s: twice the bound and more."""
    options = ("--nodes", "2", "--rate", "40", "--bytes", "2M", "--tool", "curl")
    status, rows, story = _bench("swarm.py", *options, "--scratch", tmp_path)
    assert status == 0, story
    assert len(rows) == 1
    assert rows[0]["bound_s"] == pytest.approx(0.419, abs=0.001)
    assert 1.5 < rows[0]["ratio"] < 20
    assert 1.9 < rows[0]["seeder_copies"] < 2.5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.netns
@pytest.mark.slow
def test_a_disturbed_push_is_told_beside_an_undisturbed_one(tmp_path: Path) -> None:
    """Real processes in three namespaces; every byte that the node left alone got is checked."""
    scratch, table = tmp_path / "scratch", tmp_path / "figures.md"
    scratch.mkdir()
    options = ("--nodes", "2", "--rate", "100", "--bytes", "2M", "--tool", "nodectl")
    told = ("--scenario", "liar", "--markdown", table, "--scratch", scratch)
    status, rows, story = _bench("swarm.py", *options, *told)
    assert status == 0, story
    assert [row["scenario"] for row in rows] == ["cold", "liar"]
    assert rows[1]["undisturbed"] == pytest.approx(rows[1]["last_s"] / rows[0]["last_s"], abs=0.01)
    assert rows[0]["sealed_bytes"] > 2 << 20
    assert "one node sends wrong bytes" in table.read_text()
    assert list(scratch.iterdir()) == []


@pytest.mark.netns
@pytest.mark.slow
def test_eight_hosts_receive_one_multicast_and_one_of_them_loses_a_tenth(tmp_path: Path) -> None:
    options = ("--nodes", "8", "--rate", "100", "--bytes", "8M", "--tool", "nodectl")
    status, rows, story = _bench("swarm.py", *options, "--scenario", "multicast",
                                 "--scratch", tmp_path)  # fmt: skip
    assert status == 0, story
    multicast = rows[1]
    assert multicast["scenario"] == "multicast"
    assert multicast["multicast_share"] > 0.5
    assert list(tmp_path.iterdir()) == []
