"""The README's first command, on the file that it builds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trees import make_everything

pytestmark = [pytest.mark.package, pytest.mark.slow]


def demo(pyz: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, pyz, "demo", "--json", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_everything(tree)
    (tree / "some").mkdir()
    for number in range(200):
        (tree / "some" / str(number)).write_bytes(os.urandom(5000))
    return tree


@pytest.mark.parametrize("where", [pytest.param("--disks", marks=pytest.mark.root), "--no-disks"])
def test_the_demo_verifies_a_tree_that_has_everything(
    pyz: Path, tree: Path, tmp_path: Path, where: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = demo(pyz, "--tree", tree, "--nodes", 3, "--work", work, where)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["ok"], result["verified"], result["nodes"]) == (True, True, 3)
    assert result["files"] > 230
    assert 0 < result["update_bytes"] < result["sealed_bytes"]
    assert result["seeder_copies"] > 0
    assert {"capture_s", "swarm_s", "restore_s", "plain_bytes"} <= result.keys()
    on_disk = ["/dev/loop" in node["target"] for node in result["each"]]
    assert on_disk == [where == "--disks"] * 3
    assert list(work.iterdir()) == []


def test_a_tree_that_cannot_be_captured_fails_it_and_leaves_nothing(
    pyz: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    work = tmp_path / "work"
    work.mkdir()
    done = demo(pyz, "--tree", tmp_path / "empty", "--nodes", 1, "--work", work, "--no-disks")
    assert done.returncode == 16
    assert "nothing to capture" in done.stderr
    assert list(work.iterdir()) == []
