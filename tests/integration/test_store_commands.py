"""`nodectl store` on real nodes: damage is found, comes back from the swarm; gc and retention."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Commands
from loop_disks import MIB, LoopDisk, loop_disk, sh
from trees import rsync_differences

from nodectl.ids import FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.scrub import ScrubState, last_scrub


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


def _json(commands: Commands, node: str, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(commands.ok(node, *words, "--json"))
    return found


def _tree(folder: Path, generation: int) -> Path:
    tree = folder / "tree"
    tree.mkdir(exist_ok=True)
    (tree / "same").write_bytes(random.Random(1).randbytes(768_000))
    (tree / "large").write_bytes(generation.to_bytes(2, "little") * 700_000)
    for number in range(20):
        (tree / f"f{number}").write_bytes(f"{generation} {number}".encode() * 50)
    return tree


def _damage(state: Path) -> None:
    """Flip a byte of one frame of a store."""
    with DiskStore(state / "store") as store:
        row = max(store.index.rows(), key=lambda row: row.sealed_len)
        with (store.packs / f"{row.pack}.pack").open("r+b") as file:
            file.seek(row.offset + row.sealed_len // 2)
            byte = file.read(1)[0]
            file.seek(row.offset + row.sealed_len // 2)
            file.write(bytes([byte ^ 4]))


def test_old_generations_go_and_the_newest_is_whole(commands: Commands, tmp_path: Path) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    for generation in (1, 2, 3):
        commands.ok("c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, generation)))
    before = _json(commands, "c", "store", "status")
    assert len(before["images"]) == 3
    plan = _json(commands, "c", "store", "gc", "--keep-last", "1", "--grace", "0", "--dry-run")
    assert plan["releases_deleted"] == ["golden@1", "golden@2"]
    assert _json(commands, "c", "store", "status")["frames"] == before["frames"]

    done = _json(commands, "c", "store", "gc", "--keep-last", "1", "--grace", "0")
    assert done["plan"]["dead_frames"] == plan["plan"]["dead_frames"] > 0
    after = _json(commands, "c", "store", "status")
    assert [one["generation"] for one in after["images"]] == [3]
    assert after["frames"] < before["frames"]
    assert "golden generation 3" in commands.ok("c", "store", "verify", "golden")
    commands.ok("c", "image", "restore", "golden", str(tmp_path / "out"), "--yes")
    assert (tmp_path / "out" / "f3").read_bytes() == (tmp_path / "tree" / "f3").read_bytes()
    commands.fails("c", 28, "image", "restore", "golden@1", str(tmp_path / "old"))
    assert "packs deleted" in commands.ok("c", "store", "gc")
    commands.fails("c", 28, "store", "verify", "nothing")


def test_damage_is_found_and_comes_back_from_the_swarm(commands: Commands, tmp_path: Path) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, 1)))
    commands.serve("c", "--controller", "--no-scrub")
    token = commands.ok("c", "token", "create").strip()
    commands.ok("n1", "join", "--token", token, "--name", "n1")
    node, _ = commands.serve("n1", "--no-scrub")
    commands.ok("c", "swarm", "push", "golden", "--nodes", "n1")
    node.terminate()
    node.wait(timeout=30)
    assert _json(commands, "n1", "store", "scrub")["damaged"] == []

    _damage(tmp_path / "n1")
    told = commands.run("n1", "store", "verify", "--json")
    assert told.returncode == 24
    assert len(json.loads(told.stdout)["images"][0]["damaged"]) == 1
    told = commands.run("n1", "store", "scrub", "--json")
    assert told.returncode == 24
    assert len(json.loads(told.stdout)["damaged"]) == 1
    assert commands.run("n1", "store", "status").returncode == 24
    repaired = _json(commands, "n1", "store", "repair")
    assert repaired["whole"] is True
    assert repaired["images"][0]["fetched_bytes"] > 0
    commands.ok("n1", "store", "verify")
    commands.ok("n1", "store", "status")


def test_a_node_lets_go_of_old_generations(commands: Commands, tmp_path: Path) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.serve("c", "--controller", "--no-scrub")
    token = commands.ok("c", "token", "create").strip()
    commands.ok("n1", "join", "--token", token, "--name", "n1")
    node, _ = commands.serve("n1", "--no-scrub")
    for generation in (1, 2):
        commands.ok("c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, generation)))
        commands.ok("c", "swarm", "push", "golden", "--nodes", "n1")
    node.terminate()
    node.wait(timeout=30)
    for words in (
        ("--keep-last", "2"),
        ("--keep-days", "1"),
        ("--keep-last", "1", "--keep-days", "1"),
    ):
        kept = _json(commands, "n1", "store", "gc", "--grace", "0", *words)
        assert kept["images_let_go"] == []
    old = _json(commands, "n1", "store", "gc", "--keep-days", "0", "--grace", "0")
    assert old["images_let_go"] == ["golden@1"]
    (left,) = _json(commands, "n1", "store", "status")["images"]
    assert left["generation"] == 2
    commands.ok("n1", "store", "verify", "golden")


def test_repair_says_what_it_could_not_bring_back(commands: Commands, tmp_path: Path) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, 1)))
    _damage(tmp_path / "c")
    assert commands.run("c", "store", "scrub").returncode == 24
    told = commands.run("c", "store", "repair", "--json")
    assert told.returncode == 31
    (image,) = json.loads(told.stdout)["images"]
    assert image["problem"]
    assert (len(image["missing"]), image["missing_parts"], image["hit"]) == (1, 0, ["/same"])
    assert image["missing_bytes"] > 700_000
    with DiskStore(tmp_path / "c" / "store") as store:
        assert store.missing([FrameId(bytes.fromhex(image["missing"][0]))])
    told = commands.run("c", "store", "repair")
    assert (told.returncode, "lacks something: /same" in told.stdout) == (31, True)
    assert f"1 of {image['frames']} frames" in told.stdout
    # What is needed is known still, so gc may run; the image is captured again.
    commands.ok("c", "store", "gc", "--grace", "0")
    commands.ok("c", "image", "capture", "golden", "--tree", str(tmp_path / "tree"))
    commands.ok("c", "store", "verify")


@pytest.fixture
def read_only(commands: Commands, tmp_path: Path) -> Iterator[LoopDisk]:
    """A state folder with an image, a block image and a gc behind it, on a read-only mount m."""
    mount = tmp_path / "m"
    mount.mkdir()
    with loop_disk(tmp_path / "disk.img", 64 * MIB) as disk:
        sh("mkfs.ext4", "-q", disk.path)
        sh("mount", disk.path, mount)
        commands.ok("m/c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        commands.ok("m/c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, 1)))
        (tmp_path / "vm").write_bytes(random.Random(9).randbytes(3 * MIB))
        commands.ok("m/c", "image", "capture-block", "vm", "--device", str(tmp_path / "vm"))
        sh("mount", "-o", "remount,ro", mount)
        yield disk


# Run by a process that dies, so that SQLite does not put things in order at the end.
_HARMS = {
    "a lying row": """
import os, sqlite3, sys
index = sqlite3.connect(sys.argv[1], isolation_level=None)
index.execute("UPDATE frames SET sealed_len = sealed_len + 1")
index.close()
os._exit(9)
""",
    "a log that was not closed": """
import os, sqlite3, sys
index = sqlite3.connect(sys.argv[1], isolation_level=None)
index.execute("CREATE TABLE kept AS SELECT * FROM frames")
index.execute("DELETE FROM frames")
index.execute("PRAGMA wal_checkpoint(TRUNCATE)")
index.execute("INSERT INTO frames SELECT * FROM kept")  # these stand in the log alone
os._exit(9)
""",
}
READS = (
    "image verify golden@1 --against {tree}",
    "image restore golden@1 {out} --yes",
    "store status",
    "store verify",
    "image restore vm@1 {vm}",
    "image verify vm@1 --against {vm}",
    "image restore golden {out} --yes",
)


@pytest.mark.root
def test_what_is_on_a_read_only_file_system_is_restored_and_verified(
    commands: Commands, tmp_path: Path, read_only: LoopDisk
) -> None:
    before = read_only.digest()
    places = {"tree": tmp_path / "tree", "out": tmp_path / "out", "vm": tmp_path / "vm2"}
    for words in READS:
        commands.ok("m/c", *words.format(**places).split())
    assert rsync_differences(tmp_path / "tree", tmp_path / "out") == []
    assert (tmp_path / "vm2").read_bytes() == (tmp_path / "vm").read_bytes()
    assert read_only.digest() == before


@pytest.mark.root
@pytest.mark.usefixtures("read_only")
@pytest.mark.parametrize("harm", ["no index", "a lying row", "a log that was not closed"])
def test_a_store_that_was_not_left_in_order_is_read_where_nothing_can_be_mended(
    commands: Commands, tmp_path: Path, harm: str
) -> None:
    store = tmp_path / "m/c/store"
    sh("mount", "-o", "remount,rw", tmp_path / "m")
    if harm == "no index":
        (store / "index.sqlite").unlink()
    else:
        harmed = subprocess.run(
            [sys.executable, "-c", _HARMS[harm], store / "index.sqlite"], check=False
        )
        assert harmed.returncode == 9
    assert (store / "index.sqlite-wal").exists() == (harm == "a log that was not closed")
    sh("mount", "-o", "remount,ro", tmp_path / "m")
    commands.ok("m/c", "image", "restore", "golden@1", str(tmp_path / "out"), "--yes")
    assert rsync_differences(tmp_path / "tree", tmp_path / "out") == []
    commands.ok("m/c", "store", "verify")


@pytest.mark.root
def test_what_would_write_to_a_read_only_file_system_is_refused(
    commands: Commands, tmp_path: Path, read_only: LoopDisk
) -> None:
    before = read_only.digest()
    for status, words in (
        (26, ("image", "capture", "golden", "--tree", str(tmp_path / "tree"))),
        (26, ("image", "capture-block", "vm", "--device", str(tmp_path / "vm"))),
        (26, ("store", "gc", "--grace", "0")),
        (26, ("store", "scrub")),
        (26, ("store", "repair")),
        (19, ("serve", "--controller")),
    ):
        done = commands.run("m/c", *words)
        assert (done.returncode, done.stdout) == (status, ""), (words, done.stderr)
        said = [line for line in done.stderr.splitlines() if line.startswith("nodectl: ")]
        assert len(said) == 1, done.stderr
        assert "ead-only file system" in said[0]
        assert "mount it read-write" in done.stderr
        assert "Traceback" not in done.stderr
    assert read_only.digest() == before
    sh("mount", "-o", "remount,rw", tmp_path / "m")
    commands.ok("m/c", "store", "verify")


def test_a_serving_node_scrubs_in_the_background_and_status_tells(
    commands: Commands, tmp_path: Path
) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "image", "capture", "golden", "--tree", str(_tree(tmp_path, 1)))
    _damage(tmp_path / "c")
    assert _json(commands, "c", "store", "status")["scrub"] is None
    commands.serve("c", "--controller", "--scrub-rate", "100M")
    until = time.monotonic() + 30
    while not (last_scrub(tmp_path / "c" / "store") or ScrubState()).ended:
        assert time.monotonic() < until
        time.sleep(0.05)
    told = commands.run("c", "store", "status", "--json")
    assert told.returncode == 24
    assert json.loads(told.stdout)["scrub"]["damaged"]
    told = commands.run("c", "store", "status")
    assert "1 damaged" in told.stdout


def test_two_captures_work_on_one_store_at_the_same_time(
    commands: Commands, tmp_path: Path
) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    trees = {}
    for number, name in enumerate(("one", "two")):
        (tmp_path / name).mkdir()
        trees[name] = _tree(tmp_path / name, number + 1)
    started = [
        commands.start("c", "image", "capture", name, "--tree", str(tree))
        for name, tree in trees.items()
    ]
    for process in started:
        _, story = process.communicate(timeout=60)
        assert process.returncode == 0, story
    commands.ok("c", "store", "verify")
    for path in (tmp_path / "c" / "store").glob("index.sqlite*"):
        path.unlink()
    commands.ok("c", "store", "verify")  # and from an index made again
    for name, tree in trees.items():
        commands.ok("c", "image", "restore", name, str(tmp_path / f"out-{name}"))
        assert rsync_differences(tree, tmp_path / f"out-{name}") == []
