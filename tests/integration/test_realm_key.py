"""The realm key is changed while a swarm goes on: real processes, one of them killed."""

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from commands import Commands

from nodectl.content.frame import FrameCodec
from nodectl.content.opening import open_manifest
from nodectl.errors import ContentInvalid
from nodectl.ids import Root, id_from_hex
from nodectl.node.state import StateFolder
from nodectl.store.disk import DiskStore
from nodectl.trust.realm import load_realm

T = TypeVar("T")

WITHIN_S = 60


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


def _wait(condition: Callable[[], T], *, every_s: float = 0.2) -> T:
    """Return the first true thing that a condition says."""
    until = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < until, "it does not come"
        time.sleep(every_s)
    return found


def _shown(commands: Commands) -> dict[str, Any]:
    return dict(json.loads(commands.ok("c", "realm", "show", "--json")))


def _tree(folder: Path) -> Path:
    tree = folder / "tree"
    tree.mkdir()
    for number in range(30):
        (tree / f"f{number}").write_bytes(os.urandom(3000) + bytes(10_000))
    (tree / "large").write_bytes(os.urandom(5 << 20))
    return tree


def _opens(state: StateFolder, root: str, *, alone: bool) -> bool:
    """Say whether a node reads an image in its store, perhaps with its newest key alone."""
    keys = state.membership().content_keys
    codec = FrameCodec(dataclasses.replace(keys, older=()) if alone else keys)
    with DiskStore(state.store) as store:
        try:
            manifest = open_manifest(Root(id_from_hex(root)), store, codec)
            for ref in manifest.payload():
                codec.open(store.get(ref.frame_id), ref)
        except ContentInvalid:
            return False
    return True


@pytest.mark.slow
def test_the_realm_key_is_changed_while_the_swarm_goes_on(
    commands: Commands, tmp_path: Path
) -> None:
    tree = _tree(tmp_path)
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    controller, _ = commands.serve("c", "--controller")
    token = commands.ok("c", "token", "create", "--uses", "2").strip()
    for node in ("n1", "gone"):
        commands.ok(node, "join", "--token", token, "--name", node)
        commands.serve(node)
    first = json.loads(commands.ok("c", "image", "capture", "g", "--tree", str(tree), "--json"))
    commands.ok("c", "swarm", "push", "g", "--nodes", "n1,gone")
    before = StateFolder(tmp_path / "gone").membership().content_keys
    commands.ok("c", "node", "remove", "gone")
    commands.fails("c", 14, "realm", "rotate-key", "--finish")  # not begun
    old_key = load_realm(tmp_path / "c" / "realm").key

    commands.ok("c", "realm", "rotate-key")
    commands.fails("c", 13, "realm", "rotate-key")
    assert "g@1" in _shown(commands)["under_old_key"]
    # The old generation stays good: a node that has lost it gets it while the key changes.
    commands.ok("c", "swarm", "push", "g", "--nodes", "n1", "--generation", "1")

    # The controller's machine seals it again by itself; the next generation goes out as ever.
    listed = _wait(lambda: _generations(commands)[1:])
    again = listed[0]["release"]
    assert again["generation"] == 2
    assert again["totals"] == _generations(commands)[0]["release"]["totals"]
    n1 = StateFolder(tmp_path / "n1")
    _wait(lambda: n1.membership().content_keys.older)
    commands.ok("c", "swarm", "push", "g", "--nodes", "n1")
    assert _opens(n1, again["root"], alone=True)
    assert _opens(n1, first["root"], alone=False)
    assert not _opens(n1, first["root"], alone=True)
    commands.ok("n1", "image", "restore", "g", str(tmp_path / "out"), "--yes")
    assert (tmp_path / "out" / "large").read_bytes() == (tree / "large").read_bytes()

    # Whoever was removed knows nothing of it.
    assert StateFolder(tmp_path / "gone").membership().content_keys == before
    assert "does not accept gone" in commands.fails("gone", 43, "image", "list")
    _end_of_the_old_key(commands, n1, old_key.secret)
    commands.ok("n1", "image", "verify", "g", "--against", str(tmp_path / "out"))
    commands.ok("c", "image", "capture", "g", "--tree", str(tree))  # nothing is new
    assert len(_generations(commands)) == 1
    assert controller.poll() is None


def _end_of_the_old_key(commands: Commands, n1: StateFolder, secret: bytes) -> None:
    """It is needed for the first generation, and then for none."""
    assert "g@1" in commands.fails("c", 14, "realm", "rotate-key", "--finish")
    commands.ok("c", "store", "gc", "--keep-last", "1", "--grace", "0")
    commands.ok("c", "realm", "rotate-key", "--finish")
    assert "realm_key" not in _shown(commands)
    files = [path.read_bytes() for path in (commands.folder / "c" / "realm").iterdir()]
    assert not any(secret.hex().encode() in data for data in files)
    _wait(lambda: not n1.membership().content_keys.older)
    assert [held.generation for held in n1.held_roots()] == [2]
    commands.ok("n1", "store", "gc", "--grace", "0")
    commands.ok("c", "audit", "verify")
    said = commands.ok("c", "audit", "show", "--json")
    assert '"rotate-key"' in said
    assert '"rotate-key finish"' in said


def _generations(commands: Commands) -> list[dict[str, Any]]:
    return list(json.loads(commands.ok("c", "image", "show", "g", "--json"))["generations"])


def test_sealing_again_may_be_killed_at_any_time(commands: Commands, tmp_path: Path) -> None:
    """kill -9 in the middle of it; the next run ends with the one root that there can be."""
    tree = _tree(tmp_path)
    (tree / "larger").write_bytes(os.urandom(96 << 20))
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "image", "capture", "g", "--tree", str(tree))
    commands.ok("c", "realm", "rotate-key")
    state = StateFolder(tmp_path / "c")
    frames = _frames(state)
    child = commands.start("c", "image", "reseal", "g")
    _wait(lambda: _frames(state) > frames or child.poll() is not None, every_s=0.005)
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=WITHIN_S)
    assert len(_generations(commands)) == 1
    done = json.loads(commands.ok("c", "image", "reseal", "g", "--json"))
    assert done["generation"] == 2
    assert done["new_bytes"] < 96 << 20  # what was stored is not stored again
    assert json.loads(commands.ok("c", "image", "reseal", "g", "--json"))["generation"] == 2
    assert _opens(state, done["root"], alone=True)
    commands.ok("c", "image", "restore", "g", str(tmp_path / "out"), "--yes")
    same = ["diff", "-r", str(tree), str(tmp_path / "out")]
    assert subprocess.run(same, check=False).returncode == 0
    commands.ok("c", "realm", "rotate-key", "--finish", "--force")
    assert [one["release"]["generation"] for one in _generations(commands)] == [2]


def _frames(state: StateFolder) -> int:
    with DiskStore(state.store, catch_up=False) as store:
        return store.statistics().frames
