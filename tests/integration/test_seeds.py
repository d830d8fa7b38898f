"""What a node has on the spot does not travel: its store, an older copy, whatever became of it."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Commands
from trees import make_everything, rsync_differences

from nodectl.units import MIB

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Cluster:
    """A controller with an image of a tree and one of a disk, and a node that serves."""

    def __init__(self, folder: Path) -> None:
        self.commands = Commands(folder)
        self.folder = folder
        self.tree, self.disk = folder / "tree", folder / "disk"
        self.tree.mkdir()
        make_everything(self.tree)
        rng = random.Random(1)
        (self.tree / "much").mkdir()
        for number in range(60):
            (self.tree / "much" / str(number)).write_bytes(rng.randbytes(rng.randrange(300_000)))
        (self.tree / "large").write_bytes(rng.randbytes(5 * MIB))
        self.disk.write_bytes(rng.randbytes(20 * MIB) + bytes(4 * MIB) + rng.randbytes(MIB))
        self.commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        self.capture()

    def capture(self) -> None:
        self.commands.ok("c", "image", "capture", "tree", "--tree", str(self.tree))
        words = ("capture-block", "disk", "--device", str(self.disk))
        self.commands.ok("c", "image", *words)

    def serve(self) -> None:
        """Let the others join and fetch, from now on; it holds what was captured before."""
        self.commands.serve("c", "--controller", "--no-scrub")

    def join(self, node: str) -> None:
        token = self.commands.ok("c", "token", "create").strip()
        self.commands.ok(node, "join", "--token", token, "--name", node)

    def push(self, image: str, target: Path) -> dict[str, Any]:
        """Let the controller restore an image on node n1; return what the node says of it."""
        words = ("push", image, "--nodes", "n1", "--restore", str(target), "--json")
        job = json.loads(self.commands.ok("c", "swarm", *words).splitlines()[-1])
        (row,) = (row for row in job["nodes"] if row["node"] == "n1")
        receipt: dict[str, Any] = row["receipt"]
        return receipt

    def restore(self, node: str, image: str, target: Path) -> dict[str, Any]:
        words = ("restore", image, str(target), "--json", "--yes")
        done: dict[str, Any] = json.loads(self.commands.ok(node, "image", *words))
        return done


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.commands.end()


def test_the_same_generation_again_moves_next_to_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """With the store, with nothing but the old copy, pushed and restored by hand."""
    cluster.serve()
    cluster.join("n1")
    node, _ = cluster.commands.serve("n1", "--no-scrub")
    first = {}
    for image in ("tree", "disk"):
        first[image] = cluster.push(image, tmp_path / f"n1-{image}")
        assert first[image]["fetched_bytes"] == first[image]["sealed_bytes"] > 5 * MIB
        again = cluster.push(image, tmp_path / f"n1-{image}")
        assert again["fetched_bytes"] == 0
        assert again["restore"]["written_bytes"] == 0

    # The node is installed anew, and its data is still there: the store is gone.
    node.terminate()
    node.wait(timeout=30)
    shutil.rmtree(tmp_path / "n1")
    cluster.commands.ok("c", "node", "remove", "n1")
    cluster.join("n1")
    cluster.commands.serve("n1", "--no-scrub")
    for image in ("tree", "disk"):
        again = cluster.push(image, tmp_path / f"n1-{image}")
        assert again["fetched_bytes"] < first[image]["sealed_bytes"] / 100
        assert again["seeded_bytes"] > first[image]["sealed_bytes"] * 0.9
        assert again["restore"]["written_bytes"] == 0
    assert rsync_differences(cluster.tree, tmp_path / "n1-tree") == []
    assert (tmp_path / "n1-disk").read_bytes() == cluster.disk.read_bytes()

    cluster.join("n2")
    for image in ("tree", "disk"):
        again = cluster.restore("n2", image, tmp_path / f"n1-{image}")
        assert again["fetched_bytes"] < first[image]["sealed_bytes"] / 100
        assert again["written_bytes"] == 0


def test_a_seed_that_changed_gives_what_is_still_right(cluster: Cluster, tmp_path: Path) -> None:
    tree, disk = tmp_path / "old-tree", tmp_path / "old-disk"
    cluster.restore("c", "tree", tree)
    cluster.restore("c", "disk", disk)
    # Files that changed (one keeps size and mtime), went, or became a link out of the tree.
    much = tree / "much"
    for number in range(10):
        path = much / str(number)
        status = path.stat()
        path.write_bytes(bytes(len(path.read_bytes())))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (much / "20").unlink()
    (much / "21").unlink()
    (much / "21").symlink_to(cluster.tree / "much" / "21")
    with disk.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"changed" * 1000)
    with (cluster.tree / "much" / "30").open("ab") as file:
        file.write(b"the next generation")
    cluster.capture()
    cluster.serve()
    cluster.join("n2")
    for image, target in (("tree", tree), ("disk", disk)):
        got = cluster.restore("n2", image, target)
        assert 0 < got["fetched_bytes"] < 4 * MIB
        assert got["seeded_bytes"] > 8 * MIB
    assert disk.read_bytes() == cluster.disk.read_bytes()
    cluster.commands.ok("n2", "store", "verify")
    cluster.commands.ok("n2", "image", "restore", "tree", str(tree), "--deep", "--yes")
    assert rsync_differences(cluster.tree, tree) == []


def test_a_seed_of_another_kind_is_no_obstacle(cluster: Cluster, tmp_path: Path) -> None:
    cluster.serve()
    cluster.join("n1")
    target = tmp_path / "target"
    target.mkdir()
    (target / "large").symlink_to("/dev/zero")
    (target / "much").write_text("not a directory")
    got = cluster.restore("n1", "tree", target)
    assert got["seeded_bytes"] == 0
    assert rsync_differences(cluster.tree, target) == []
