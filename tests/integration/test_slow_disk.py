"""A store on a slow disk: everything works, says how far it is, and keeps nobody else waiting."""

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands
from slow_disk import forget_cached, slow_mount
from trees import rsync_differences

pytestmark = pytest.mark.root
MIB = 1 << 20
RATE = 3 * MIB  # bytes/s
CONTENT = 9 * MIB  # that do not shrink: three seconds of the disk


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with slow_mount(tmp_path, size=256 * MIB, rate=RATE) as mount:
        made = Commands(mount)
        try:
            made.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
            yield made
        finally:
            made.end()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    rng = random.Random(3)
    for number in range(64):
        (tree / f"f{number}").write_bytes(rng.randbytes(CONTENT // 64))
    return tree


def answers_while(commands: Commands, process: "subprocess.Popen[str]", *words: str) -> int:
    """Ask again and again while a command runs; return how often it answered meanwhile."""
    count = 0
    while process.poll() is None:
        commands.ok("c", *words)
        count += process.poll() is None
    return count


def progress(process: "subprocess.Popen[str]") -> None:
    """Wait for a command with --json; its story must have said how far it was."""
    _, story = process.communicate(timeout=60)
    assert process.returncode == 0, story
    events = [json.loads(line) for line in story.splitlines()]
    said = [event["done"] for event in events if event.get("done")]
    assert said == sorted(said)
    assert 0 < said[0] <= said[-1] <= CONTENT


def test_a_capture_onto_a_slow_disk(commands: Commands, tree: Path, tmp_path: Path) -> None:
    capture = commands.start("c", "image", "capture", "golden", "--tree", str(tree), "--json")
    assert answers_while(commands, capture, "store", "status") > 0
    progress(capture)
    forget_cached(commands.folder)
    commands.ok("c", "store", "verify")
    forget_cached(commands.folder)
    restore = commands.start("c", "image", "restore", "golden", str(tmp_path / "out"), "--json")
    assert answers_while(commands, restore, "store", "status") > 0
    progress(restore)
    assert rsync_differences(tree, tmp_path / "out") == []


def test_a_node_with_a_slow_disk_serves_and_answers(
    commands: Commands, tree: Path, tmp_path: Path
) -> None:
    commands.ok("c", "image", "capture", "golden", "--tree", str(tree))
    commands.serve("c", "--controller", "--no-scrub")
    fast = Commands(tmp_path)
    try:
        token = commands.ok("c", "token", "create").strip()
        fast.ok("n1", "join", "--token", token, "--name", "n1")
        fast.serve("n1", "--no-scrub")
        forget_cached(commands.folder)
        push = commands.start("c", "swarm", "push", "golden", "--nodes", "n1", "--json")
        # The same process serves the frames and the control API.
        assert answers_while(commands, push, "swarm", "status") > 0
        said, story = push.communicate(timeout=60)
        assert push.returncode == 0, story
        rows = {row["node"]: row for row in json.loads(said.splitlines()[-1])["nodes"]}
        assert rows["n1"]["receipt"]["fetched_bytes"] > CONTENT
        fast.ok("n1", "store", "verify")
    finally:
        fast.end()


def test_a_node_with_a_slow_disk_fetches(commands: Commands, tree: Path, tmp_path: Path) -> None:
    """The node's store is the slow one here, and what it lacks comes from a quick one."""
    fast = Commands(tmp_path)
    try:
        fast.ok("q", "init", "--realm", "lab", "--node", "q", "--listen", "127.0.0.1:0")
        fast.ok("q", "image", "capture", "golden", "--tree", str(tree))
        fast.serve("q", "--controller", "--no-scrub")
        token = fast.ok("q", "token", "create").strip()
        commands.ok("n1", "join", "--token", token, "--name", "n1")
        commands.serve("n1", "--no-scrub")
        fast.ok("q", "swarm", "push", "golden", "--nodes", "n1")
        forget_cached(commands.folder)
        commands.ok("n1", "store", "verify")
    finally:
        fast.end()
