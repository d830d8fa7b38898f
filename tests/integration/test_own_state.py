"""nodectl's own state inside the tree: never captured, never removed, never compared."""

from pathlib import Path

import pytest
from commands import Commands

from nodectl.content.mounts import mount_points_below


def test_the_state_in_the_tree_is_left_out_and_left_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "srv").mkdir(parents=True)
    (tree / "srv" / "data").write_text("data")
    commands = Commands(tree / "srv")  # the state folders are srv/c and so on
    commands.ok("c", "init", "--realm", "lab", "--node", "c")
    commands.ok("c", "image", "capture", "img", "--tree", str(tree))
    (tree / "extra").write_text("x")
    (tree / "srv" / "data").write_text("drifted")
    commands.ok("c", "image", "restore", "img", str(tree), "--yes")
    assert not (tree / "extra").exists()
    assert (tree / "srv" / "data").read_text() == "data"
    commands.ok("c", "image", "verify", "img", "--against", str(tree))
    commands.ok("c", "image", "restore", "img", str(tmp_path / "copy"))
    assert [path.name for path in (tmp_path / "copy" / "srv").iterdir()] == ["data"]


def test_mount_points_are_found_below_the_root_directory_too() -> None:
    """What is mounted below / must be seen, or a restore onto a live system would reach into it."""
    assert "/proc" in mount_points_below(Path("/"), b"proc")
    assert mount_points_below(Path("/"), b"proc/self/no-such") == []
    assert "/proc" not in mount_points_below(Path("/proc"), b"self")


@pytest.mark.parametrize("path", [b"pro", b"process"])
def test_a_name_that_only_begins_alike_is_no_mount_point(path: bytes) -> None:
    assert mount_points_below(Path("/"), path) == []
