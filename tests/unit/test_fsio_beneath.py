"""Writing inside somebody else's tree: no link leads out of it, and nothing is half-written."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodectl.errors import UnsafePath
from nodectl.fsio import folder_beneath, read_beneath, write_beneath


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder = tmp_path / "root"
    (folder / "etc").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    yield fd, folder
    os.close(fd)


def test_a_file_is_replaced_with_its_mode_and_its_folder_keeps_its_times(
    root: tuple[int, Path],
) -> None:
    fd, folder = root
    os.utime(folder / "etc", ns=(1, 2))
    write_beneath(fd, "etc/fstab", b"one")
    write_beneath(fd, "etc/fstab", b"two", mode=0o444)
    assert (folder / "etc/fstab").read_bytes() == b"two"
    assert (folder / "etc/fstab").stat().st_mode & 0o7777 == 0o444
    assert (folder / "etc").stat().st_mtime_ns == 2
    assert names(folder / "etc") == ["fstab"]


def test_a_file_at_the_root_is_written(root: tuple[int, Path]) -> None:
    fd, folder = root
    write_beneath(fd, "here", b"x")
    assert (folder / "here").read_bytes() == b"x"


@pytest.mark.parametrize("target", ["../outside", "/", "loop"])
def test_a_linked_folder_is_refused(root: tuple[int, Path], target: str) -> None:
    fd, folder = root
    (folder / "etc").rmdir()
    (folder / "etc").symlink_to(target)
    with pytest.raises(UnsafePath, match="'etc'"):
        write_beneath(fd, "etc/fstab", b"x")
    with pytest.raises(UnsafePath):
        read_beneath(fd, "etc/fstab", limit=10)
    assert names(folder.parent / "outside") == []


def test_a_linked_file_is_replaced_and_its_target_untouched(root: tuple[int, Path]) -> None:
    fd, folder = root
    victim = folder.parent / "outside" / "victim"
    victim.write_bytes(b"mine")
    (folder / "etc/hostname").symlink_to(victim)
    assert read_beneath(fd, "etc/hostname", limit=10) is None
    write_beneath(fd, "etc/hostname", b"new")
    assert victim.read_bytes() == b"mine"
    assert not (folder / "etc/hostname").is_symlink()


@pytest.mark.parametrize("path", ["/etc/x", "../x", "etc/../../x", "etc/\0x", "..", ".", ""])
def test_a_path_that_leads_out_is_refused(root: tuple[int, Path], path: str) -> None:
    with pytest.raises(UnsafePath):
        write_beneath(root[0], path, b"x")


def test_a_folder_in_the_place_of_a_file_is_refused_and_nothing_is_left(
    root: tuple[int, Path],
) -> None:
    fd, folder = root
    (folder / "etc/fstab").mkdir()
    with pytest.raises(UnsafePath, match="is a folder"):
        write_beneath(fd, "etc/fstab", b"x")
    assert names(folder / "etc") == ["fstab"]


def test_reading_stops_at_the_limit_and_never_waits_for_a_fifo(root: tuple[int, Path]) -> None:
    fd, folder = root
    (folder / "etc/big").write_bytes(b"123456")
    os.mkfifo(folder / "etc/fifo")
    assert read_beneath(fd, "etc/big", limit=6) == b"123456"
    with pytest.raises(ValueError, match="more than 5 bytes"):
        read_beneath(fd, "etc/big", limit=5)
    assert read_beneath(fd, "etc/fifo", limit=5) is None
    assert read_beneath(fd, "etc/absent", limit=5) is None
    assert read_beneath(fd, "no/such", limit=5) is None


def test_folders_are_made_when_asked(root: tuple[int, Path]) -> None:
    fd, folder = root
    with pytest.raises(FileNotFoundError), folder_beneath(fd, "var/lib"):
        pass
    with folder_beneath(fd, "var/lib", make=True):
        pass
    assert (folder / "var/lib").is_dir()
