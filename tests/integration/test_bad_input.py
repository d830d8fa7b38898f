"""What bad input gets, through the command line: one sentence, its own status, nothing left behind.

Wrong tokens and controllers are in test_control.py, disks in test_clone.py and test_disk_apply.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

Result = subprocess.CompletedProcess[str]


def nodectl(*words: object) -> Result:
    return subprocess.run(
        [sys.executable, "-m", "nodectl", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        check=False,
    )


def refused(result: Result, status: int, *words: str) -> None:
    """One clear sentence on stderr that has `words`, its status, and nothing on stdout."""
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("nodectl: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    done = nodectl("init", "--realm", "test", "--state", state, "--node", "master")
    assert done.returncode == 0, done.stderr
    return state


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    return tree


def capture(state: Path, tree: Path, *words: str) -> Result:
    return nodectl("image", "capture", "img", "--tree", tree, "--state", state, *words)


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_tree_that_is_not_there(state: Path, tmp_path: Path) -> None:
    refused(capture(state, tmp_path / "absent"), 10, "absent")


def test_a_tree_that_is_a_file(state: Path, tree: Path) -> None:
    refused(capture(state, tree / "file"), 10, "not a directory")


def test_an_empty_tree(state: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(capture(state, tmp_path / "empty"), 23, "nothing to capture", "next:")
    assert json.loads(nodectl("image", "list", "--json", "--state", state).stdout)["images"] == []


def test_a_name_that_is_none(state: Path, tree: Path) -> None:
    result = nodectl("image", "capture", "../evil", "--tree", tree, "--state", state)
    refused(result, 14, "not a usable name")


@pytest.mark.parametrize(
    "words", [("--compress", "zip"), ("--seal", "perhaps"), ("--exclude", "/")]
)
def test_a_wrong_value(state: Path, tree: Path, words: tuple[str, str]) -> None:
    refused(capture(state, tree, *words), 14)


def test_a_mount_point_that_is_not_there(state: Path, tree: Path) -> None:
    refused(capture(state, tree, "--with-mount", "/boot/efi"), 10, "/boot/efi")


def test_no_realm(tmp_path: Path, tree: Path) -> None:
    refused(capture(tmp_path / "none", tree), 40, "nodectl init", "nodectl join")
    assert not (tmp_path / "none").exists()


def test_init_overwrites_nothing(state: Path) -> None:
    before = {path: path.read_bytes() for path in names(state) if path.is_file()}
    result = nodectl("init", "--realm", "other", "--state", state)
    refused(result, 13, str(state))
    assert {path: path.read_bytes() for path in names(state) if path.is_file()} == before


def test_an_image_that_is_not_there(state: Path, tmp_path: Path) -> None:
    for command in (
        ("image", "restore", "nothing", tmp_path / "out"),
        ("image", "verify", "nothing", "--against", tmp_path),
        ("image", "show", "nothing"),
    ):
        refused(nodectl(*command, "--state", state), 28, "nothing")
    assert not (tmp_path / "out").exists()


def test_a_generation_that_is_not_there(state: Path, tree: Path, tmp_path: Path) -> None:
    assert capture(state, tree).returncode == 0
    refused(nodectl("image", "restore", "img@7", tmp_path / "out", "--state", state), 28, "7")
    refused(nodectl("image", "restore", "img@x", tmp_path / "out", "--state", state), 14, "img@x")


def test_a_target_that_cannot_be(state: Path, tree: Path, tmp_path: Path) -> None:
    assert capture(state, tree).returncode == 0
    restore = ("image", "restore", "img")
    refused(nodectl(*restore, tmp_path / "no" / "parent", "--state", state), 10, "no")
    refused(nodectl(*restore, tree / "file", "--state", state), 10, "not a directory")


def test_a_target_in_use_is_asked_about(state: Path, tree: Path, tmp_path: Path) -> None:
    assert capture(state, tree).returncode == 0
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine").write_text("precious")
    result = nodectl("image", "restore", "img", target, "--state", state)
    refused(result, 18, "--yes", "--keep-extra")
    assert [path.name for path in target.iterdir()] == ["mine"]


def test_differences_are_a_failure(state: Path, tree: Path) -> None:
    assert capture(state, tree).returncode == 0
    (tree / "file").write_text("changed")
    result = nodectl("image", "verify", "img", "--against", tree, "--state", state, "--json")
    assert result.returncode == 24
    document = json.loads(result.stdout)
    assert document["verified"] is False
    assert {one["path"] for one in document["differences"]} == {"file"}


def test_a_damaged_store_is_told(state: Path, tree: Path, tmp_path: Path) -> None:
    (tree / "large").write_bytes(os.urandom(300_000))
    assert capture(state, tree).returncode == 0
    for pack in (state / "store" / "packs").iterdir():
        data = bytearray(pack.read_bytes())
        for at in range(1000, len(data), 50_000):
            data[at] ^= 0xFF
        pack.write_bytes(data)
    result = nodectl("image", "restore", "img", tmp_path / "out", "--state", state)
    assert result.returncode in (20, 21), result.stderr
    assert "Traceback" not in result.stderr


def test_the_demo_says_what_it_lacks(tmp_path: Path) -> None:
    refused(nodectl("demo", "--tree", tmp_path / "absent"), 10, "absent")
    refused(nodectl("demo", "--tree", tmp_path, "--work", tmp_path / "absent"), 10, "absent")
