"""Walking a tree: tree order, and what is met on the way."""

import os
from pathlib import Path

import pytest

from nodectl.content.excludes import Excludes
from nodectl.content.manifest import Entry, Kind, TreeOrder
from nodectl.content.walk import Walk
from nodectl.errors import EmptyTree, PathMissing, PathUnreadable


def walk(tree: Path, *patterns: str) -> Walk:
    return Walk(tree, Excludes(patterns), frozenset())


def paths(tree: Path, *patterns: str) -> list[bytes]:
    return [found.path for found in walk(tree, *patterns)]


def test_entries_come_in_tree_order(tmp_path: Path) -> None:
    for name in ("a/x/deep", "a-b", "b", "a/y", "a\x01/z"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("f", "a/f", "a-b/f", "a/x/f", os.fsdecode(b"a/\xff"), "\n", "..f"):
        (tmp_path / name).touch()
    found = paths(tmp_path)
    assert found == [
        b"", b"\n", b"..f", b"a", b"a\x01", b"a-b", b"b", b"f", b"a/f", b"a/x", b"a/y", b"a/\xff",
        b"a/x/deep", b"a/x/f", b"a\x01/z", b"a-b/f",
    ]  # fmt: skip
    order = TreeOrder()
    for path in found:
        kind = Kind.DIRECTORY if (tmp_path / os.fsdecode(path)).is_dir() else Kind.FILE
        order.add(Entry(path, kind))


def test_what_is_left_out_is_listed_and_not_entered(tmp_path: Path) -> None:
    (tmp_path / "a" / "cache" / "x").mkdir(parents=True)
    (tmp_path / "k.o").touch()
    one = walk(tmp_path, "cache", "*.o")
    assert [found.path for found in one] == [b"", b"a"]
    assert sorted(one.left_out) == [b"a/cache", b"k.o"]


@pytest.mark.parametrize("make", ["absent", "file", "link to file"])
def test_a_tree_that_is_none_is_named(tmp_path: Path, make: str) -> None:
    tree = tmp_path / "tree"
    if make == "file":
        tree.touch()
    elif make == "link to file":
        (tmp_path / "file").touch()
        tree.symlink_to("file")
    with pytest.raises(PathMissing, match="tree"):
        list(walk(tree))


def test_an_empty_tree_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(EmptyTree):
        list(walk(tmp_path))
    (tmp_path / "only").touch()
    with pytest.raises(EmptyTree):
        list(walk(tmp_path, "only"))
    assert paths(tmp_path) == [b"", b"only"]


def test_what_goes_away_meanwhile_is_as_if_it_never_was(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").touch()
    found = []
    for one in walk(tmp_path):
        found.append(one.path)
        if one.path == b"a":
            (tmp_path / "a" / "f").unlink()
            (tmp_path / "a").rmdir()
    assert found == [b"", b"a"]


@pytest.mark.parametrize("swap", ["link", "file", "other"])
def test_a_directory_swapped_meanwhile_is_never_entered(tmp_path: Path, swap: str) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    (tree / "a").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").touch()
    entries = iter(walk(tree))
    assert [next(entries).path, next(entries).path] == [b"", b"a"]
    (tree / "a").rename(tmp_path / "was-a")
    if swap == "link":
        (tree / "a").symlink_to(outside)
    elif swap == "file":
        (tree / "a").touch()
    else:
        outside.rename(tree / "a")
    with pytest.raises(PathUnreadable):
        next(entries)


def test_absolute_paths(tmp_path: Path) -> None:
    one = walk(tmp_path)
    assert one.absolute(b"") == os.fsencode(tmp_path)
    assert one.absolute(b"a/b") == os.fsencode(tmp_path) + b"/a/b"


def test_what_a_killed_restore_left_is_no_file_of_the_tree(tmp_path: Path) -> None:
    for name in (".nodectl-0123456789abcdef.part", ".nodectl-x.part", "f"):
        (tmp_path / name).touch()
    one = walk(tmp_path)
    assert [found.path for found in one] == [b"", b".nodectl-x.part", b"f"]
    assert one.left_out == [b".nodectl-0123456789abcdef.part"]
