"""Careful file work."""

import errno
import os
import stat
from pathlib import Path

import pytest

from nodectl.fsio import (
    fsync_folder,
    make_private_folder,
    punch_hole,
    write_atomic,
    write_private,
)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_with_mode_and_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o777)
    write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert _mode(path) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "file", b"", mode=0o644)
    finally:
        os.umask(before)
    assert _mode(tmp_path / "file") == 0o644


def test_short_writes_are_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:3]))
    write_atomic(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_data_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(fd: int) -> None:
        calls.append("sync folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "sync file")
        fsync(fd)

    def record_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_atomic(tmp_path / "file", b"new")
    assert calls == ["sync file", "rename", "sync folder"]


def test_a_secret_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")
    assert _mode(tmp_path / "key") == 0o600


def test_a_private_folder_is_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_private_folder(folder)
    assert _mode(folder) == 0o700
    folder.chmod(0o750)
    make_private_folder(folder)
    assert _mode(folder) == 0o750


def test_only_a_folder_is_synced_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fsync_folder(tmp_path)
    with pytest.raises(NotADirectoryError):
        fsync_folder(tmp_path / "file")


def test_a_hole_is_punched_where_that_can_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    with path.open("r+b") as file:
        assert punch_hole(file.fileno(), 10, 99_990 - 10)
    assert path.read_bytes() == b"x" * 10 + bytes(99_980) + b"x" * 10
    with path.open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        punch_hole(file.fileno(), 0, 1)
