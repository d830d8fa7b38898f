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
    block = result["block"]
    assert block["verified"]
    assert 0 < block["plain_bytes"] <= 2**24 < block["size"]
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


def test_a_peer_that_fails_is_named_and_the_others_are_right(
    pyz: Path, tree: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    words = ["--tree", tree, "--nodes", 2, "--work", work, "--no-disks", "--json"]
    process = subprocess.Popen(
        [sys.executable, pyz, "demo", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        assert process.stdout is not None
        story = []
        for line in process.stderr:
            story.append(line)
            if '"capture"' in line:  # the peers have their folders by now
                break
        (folder,) = work.glob("*/node2")
        (folder / "root").write_text("in the way of the tree")
        story += process.stderr
        result = json.loads(process.stdout.read().splitlines()[-1])
    assert process.returncode == 31, "".join(story)
    assert "nodectl: 1 of 2 peers failed: node2: nodectl image restore" in "".join(story)
    assert (result["ok"], result["verified"]) == (False, False)
    first, second = result["each"]
    assert (first["verified"], first["block_verified"], first["problem"]) == (True, True, "")
    assert not second["verified"]
    assert str(folder / "root") in second["problem"]
    assert list(work.iterdir()) == []
