"""Reaching entries below a directory: nothing outside is reached, whatever stands there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodectl.content.beneath import Beneath
from nodectl.content.mounts import mount_points_below
from nodectl.errors import PathMissing, UnsafePath


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "f").write_bytes(b"f")
    (path / "a" / "link").symlink_to("/etc")
    return path


@pytest.fixture
def beneath(target: Path) -> Iterator[Beneath]:
    with Beneath(target) as one:
        yield one


def names(place: int | str | Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries)


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def make_deep(top: Path, depth: int) -> bytes:
    """Make `depth` directories in each other; return the path of the deepest."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    return b"/".join([b"d"] * depth)


def test_a_target_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(PathMissing):
            Beneath(path)


def test_directories_are_opened_once(beneath: Beneath, target: Path) -> None:
    assert beneath.directory(b"") == beneath.root_fd
    fd = beneath.directory(b"a/b")
    assert inode(fd) == (target / "a" / "b").stat().st_ino
    assert beneath.directory(b"a/b") == fd
    assert beneath.place(b"a/b/c") == (fd, b"c")
    beneath.forget(b"a")
    assert inode(beneath.directory(b"a/b")) == (target / "a" / "b").stat().st_ino


@pytest.mark.parametrize("path", [b"a/link", b"a/f", b"a/link/x", b"a/f/x"])
def test_links_and_files_are_no_directories(beneath: Beneath, path: bytes) -> None:
    with pytest.raises(UnsafePath):
        beneath.directory(path)
    with pytest.raises(UnsafePath):
        beneath.status(path + b"/passwd")


def test_status_and_names(beneath: Beneath, target: Path) -> None:
    assert beneath.status(b"absent") is None
    assert beneath.status(b"absent/below") is None
    root = beneath.status(b"")
    assert root is not None
    assert root.st_ino == target.stat().st_ino
    link = beneath.status(b"a/link")
    assert link is not None
    assert link.st_ino == (target / "a" / "link").lstat().st_ino
    assert sorted(beneath.names(b"a")) == [b"b", b"f", b"link"]
    with pytest.raises(FileNotFoundError):
        beneath.directory(b"absent")


def test_remove_follows_no_link(beneath: Beneath, target: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    (target / "a" / "b" / "out").symlink_to(outside)
    beneath.directory(b"a/b")
    assert beneath.remove(b"a")
    assert not (target / "a").exists()
    assert (outside / "precious").read_bytes() == b"x"
    assert beneath.status(b"a/b") is None
    with pytest.raises(FileNotFoundError):
        beneath.remove(b"a")


def test_remove_leaves_what_is_kept_and_the_way_there(beneath: Beneath, target: Path) -> None:
    (target / "a" / "b" / "key").write_bytes(b"k")
    (target / "a" / "b" / "other").write_bytes(b"o")
    (target / "a" / "c").mkdir()
    assert not beneath.remove(b"a", lambda path: path == b"a/b/key")
    assert sorted(str(one.relative_to(target)) for one in target.rglob("*")) == [
        "a",
        "a/b",
        "a/b/key",
    ]
    assert beneath.remove(b"a")


@pytest.mark.parametrize("depth", [130, 1500])
def test_a_tree_thousands_deep_is_reached_and_removed(
    beneath: Beneath, target: Path, depth: int
) -> None:
    deepest = make_deep(target, depth)
    fd = beneath.directory(deepest)
    assert names(fd) == ["f"]
    beneath.forget(b"d")
    directory, name = beneath.place(deepest + b"/f")
    other, _ = beneath.place(b"a/f")  # two at a time, as a link needs them
    assert os.stat(name, dir_fd=directory).st_size == 0
    directory, _ = beneath.place(b"a/f")
    other, name = beneath.place(deepest + b"/f")
    assert inode(directory) == (target / "a").stat().st_ino
    assert os.stat(name, dir_fd=other).st_size == 0
    assert beneath.remove(b"d")
    assert names(target) == ["a"]


def test_descriptors_are_bounded_and_closed(target: Path) -> None:
    before = len(names("/proc/self/fd"))
    for number in range(300):
        (target / f"{number}").mkdir()
    with Beneath(target) as one:
        for number in range(300):
            fd = one.directory(b"%d" % number)
            assert inode(fd) == (target / f"{number}").stat().st_ino
        assert len(names("/proc/self/fd")) - before < 140
    assert len(names("/proc/self/fd")) == before


def test_by_descriptor_leads_to_the_entry(beneath: Beneath, target: Path) -> None:
    assert os.lstat(beneath.by_descriptor(b"a/link")).st_ino == (target / "a/link").lstat().st_ino


def test_mount_points_are_found_below_any_directory() -> None:
    """Below / too: a node restores its own root in place."""
    assert "/proc" in mount_points_below(Path("/"), b"proc")
    assert mount_points_below(Path("/proc"), b"")[:1] == ["/proc"]
    everywhere = set(mount_points_below(Path("/"), b""))
    assert "/proc" in everywhere
    # In a changed root that is no mount point itself, the kernel lists no "/".
    listed = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    assert ("/" in everywhere) == ("/" in listed)
    assert mount_points_below(Path("/"), b"pro") == []
    assert mount_points_below(Path("/proc"), b"self/task") == []
