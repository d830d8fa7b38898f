"""Restoring straight from the swarm: a machine that holds nothing, no daemon on it, and a disk."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands, first_line, stop
from loop_disks import loop_disk
from trees import make_everything, rsync_differences

from nodectl.units import MIB


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Commands]:
    """A controller that serves an image of everything, and a member that holds nothing."""
    commands = Commands(tmp_path)
    try:
        tree = tmp_path / "tree"
        tree.mkdir()
        make_everything(tree)
        commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        commands.ok("c", "image", "capture", "img", "--tree", str(tree))
        commands.serve("c", "--controller", "--listen", "127.0.0.1:0")
        token = json.loads(commands.ok("c", "token", "create", "--uses", "5", "--json"))["token"]
        for node in ("n1", "n2"):
            commands.ok(node, "join", "--token", token, "--name", node)
        # The seeder offers what it holds when it is asked to, or when it starts.
        commands.serve("n2")
        commands.ok("c", "swarm", "push", "img", "--nodes", "n2")
        yield commands
    finally:
        commands.end()


def test_into_a_directory(cluster: Commands, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = json.loads(cluster.ok("n1", "image", "restore", "img", str(target), "--json"))
    assert done["fetched_bytes"] > 5 * MIB
    assert set(done["from"]) <= {"c", "n2"}
    assert rsync_differences(tmp_path / "tree", target) == []
    cluster.ok("n1", "image", "verify", "img", "--against", str(target))
    again = json.loads(cluster.ok("n1", "image", "restore", "img", str(target), "--json"))
    assert (again["fetched_bytes"], again["written_files"]) == (0, 0)


def test_when_the_controller_is_gone_what_is_held_is_still_restored(
    cluster: Commands, tmp_path: Path
) -> None:
    cluster.ok("n1", "image", "restore", "img", str(tmp_path / "one"))
    cluster.end()
    done = cluster.run("n2", "image", "restore", "img", str(tmp_path / "two"), "--json")
    assert done.returncode == 0, done.stderr
    assert rsync_differences(tmp_path / "tree", tmp_path / "two") == []


@pytest.mark.root
def test_onto_a_disk_with_the_store_on_it(cluster: Commands, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk.img", 256 * MIB) as disk:
        words = ("clone", "img", "--disk", disk.path, "--hostname", "node01", "--yes", "--json")
        report = json.loads(cluster.ok("n1", *words))
        assert report["verified"] is True
        with disk.mounted(1, tmp_path / "mnt") as root:
            assert list((root / "var/lib/nodectl/store/packs").iterdir())
            assert (root / "etc/hostname").read_text() == "node01\n"
            shutil.copytree(root / "deep", tmp_path / "deep")
            differing = [
                line
                for line in rsync_differences(tmp_path / "tree", root)
                if not line.startswith("*deleting")
            ]
            assert differing == []
        assert disk.is_released()
    # What came over the network stands on the disk, not in the memory or store of the installer.
    held = json.loads(cluster.ok("n1", "status", "--json"))
    assert held["node"] == "n1"
    packs = tmp_path / "n1" / "store" / "packs"
    assert sum(pack.stat().st_size for pack in packs.iterdir()) < MIB


@pytest.mark.root
def test_a_clone_that_is_stopped_in_the_middle_leaves_everything_released(
    cluster: Commands, tmp_path: Path
) -> None:
    with loop_disk(tmp_path / "disk.img", 256 * MIB) as disk:
        clone = cluster.start("n1", "clone", "img", "--disk", disk.path, "--yes", "--json")
        assert clone.stderr is not None
        assert any('"step": "restore"' in line for line in clone.stderr)
        clone.terminate()
        clone.communicate(timeout=30)
        assert clone.returncode == 130
        assert disk.is_released()
        cluster.ok("n1", "clone", "img", "--disk", disk.path, "--yes", "--json")
        assert disk.is_released()


THREE_DISKS = """
schema = 2
disk = [{ id = "one" }, { id = "two", match.path = "TWO" }, { id = "three", match.path = "THREE" }]
partition = [
  { id = "root", disk = "one", type = "linux", size = "rest" },
  { id = "a", disk = "two", type = "linux", size = "rest" },
  { id = "b", disk = "three", type = "linux", size = "rest" },
]
filesystem = [
  { volume = "root", type = "ext4", mount = "/" },
  { volume = "a", type = "ext4", mount = "/a" },
  { volume = "b", type = "xfs", mount = "/b" },
]
"""


@pytest.mark.root
def test_onto_several_disks_all_filesystems_are_filled_at_once(
    cluster: Commands, tmp_path: Path
) -> None:
    """The swarm brings spans in any order, so no disk waits until another one is done."""
    tree = tmp_path / "two-folders"
    for folder in ("a", "b"):
        (tree / folder).mkdir(parents=True)
        for number in range(24):
            (tree / folder / str(number)).write_bytes(os.urandom(MIB))
    cluster.ok("c", "image", "capture", "two", "--tree", str(tree))
    with (
        loop_disk(tmp_path / "one.img", 96 * MIB) as one,
        loop_disk(tmp_path / "two.img", 96 * MIB) as two,
        loop_disk(tmp_path / "three.img", 400 * MIB) as three,
    ):
        layout = tmp_path / "layout.toml"
        layout.write_text(THREE_DISKS.replace("TWO", two.path).replace("THREE", three.path))
        words = ("clone", "two", "--layout", str(layout), "--disk", one.path, "--yes", "--json")
        report = json.loads(cluster.ok("n1", *words))
        assert report["verified"] is True
        assert set(report["filesystems"]) == {"/", "/a", "/b"}
        finished: dict[str, list[int]] = {}
        for disk, folder in ((two, "a"), (three, "b")):
            with disk.mounted(1, tmp_path / folder) as root:
                files = [root / str(number) for number in range(24)]
                assert all(f.read_bytes() == (tree / folder / f.name).read_bytes() for f in files)
                finished[folder] = sorted(file.stat().st_ctime_ns for file in files)
    assert finished["a"][6] < finished["b"][-1]
    assert finished["b"][6] < finished["a"][-1]


def test_a_peer_that_is_told_to_stop_ends_well(cluster: Commands) -> None:
    process = cluster.start("n1", "serve", "--peer-listen", "127.0.0.1:0", "--json")
    assert json.loads(first_line(process))["ready"]
    stop(process, 15)
