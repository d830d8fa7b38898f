"""What a new file is by itself depends on where it is made: a restore gives it what it should be.

Mode, owner and attributes are set only where they are not what is wanted already; here are the
places where they are not.
"""

import os
import stat
import struct
from array import array
from pathlib import Path

import pytest
from content_lab import CODEC, ContentLab
from trees import rsync_differences

from nodectl.content.tree import TreeManifest
from nodectl.content.uses import FillJob
from nodectl.content.writing import RestoreHandler

FILES = 6  # in each directory: the first ones of a kind are looked at, the others are not
_ANYBODY = 0xFFFFFFFF


def _acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL as the kernel takes it: tag, permissions, id."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


MINIMAL = _acl((1, 6, _ANYBODY), (4, 4, _ANYBODY), (32, 0, _ANYBODY))
NAMED = _acl((1, 6, _ANYBODY), (2, 6, 1234), (4, 4, _ANYBODY), (16, 6, _ANYBODY), (32, 0, _ANYBODY))
DEFAULT = "system.posix_acl_default"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of many modes, beside each other."""
    tree = tmp_path / "tree"
    for folder in (tree, tree / "below"):
        folder.mkdir()
        for mode in (0o644, 0o600, 0o755, 0o666, 0o777, 0o000, 0o444, 0o4755, 0o2711, 0o1644):
            for number in range(FILES):
                path = folder / f"{mode:04o}-{number}"
                path.write_bytes(path.name.encode())
                path.chmod(mode)
    return tree


def _restored(tmp_path: Path, tree: Path, target: Path) -> None:
    lab = ContentLab(tmp_path)
    root = lab.capture(tree).root
    lab.restore(root, target, keep_extra=True)
    assert lab.verify(root, target).differences == ()
    assert rsync_differences(tree, target) == []


def _umasked(mask: int, tmp_path: Path, tree: Path) -> None:
    before = os.umask(mask)
    try:
        _restored(tmp_path, tree, tmp_path / "copy")
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_umask_counts_for_nothing(mask: int, tmp_path: Path, tree: Path) -> None:
    _umasked(mask, tmp_path, tree)


@pytest.mark.parametrize("acl", [MINIMAL, NAMED], ids=["minimal", "named"])
def test_a_default_acl_of_the_target_is_not_inherited(
    acl: bytes, tmp_path: Path, tree: Path
) -> None:
    target = tmp_path / "copy"
    target.mkdir()
    os.setxattr(target, DEFAULT, acl)
    _restored(tmp_path, tree, target)


@pytest.mark.parametrize("acl", [MINIMAL, NAMED], ids=["minimal", "named"])
def test_a_default_acl_that_comes_with_a_directory_is_kept_off_its_files(
    acl: bytes, tmp_path: Path, tree: Path
) -> None:
    """In place: one directory has its ACL already when files are made in it, and one has none."""
    os.setxattr(tree / "below", DEFAULT, acl)
    target = tmp_path / "copy"
    _restored(tmp_path, tree, target)
    for path in (*target.iterdir(), *(target / "below").iterdir()):
        if path.is_file():
            path.unlink()
    _restored(tmp_path, tree, target)


@pytest.mark.root
def test_owners_and_the_group_of_a_set_gid_directory(tmp_path: Path, tree: Path) -> None:
    for number, path in enumerate(sorted((tree / "below").iterdir())):
        mode = path.stat().st_mode
        os.chown(path, 1000 * (number % 2), 2001 * (number % 3 // 2))
        path.chmod(mode)
    target = tmp_path / "copy"
    (target / "below").mkdir(parents=True)
    os.chown(target / "below", 0, 2001)
    (target / "below").chmod(0o2770)
    _restored(tmp_path, tree, target)


@pytest.mark.root
def test_nobody_reads_a_file_before_it_is_his(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to belong to another group is for root alone until it does."""
    tree, target = tmp_path / "tree", tmp_path / "copy"
    for folder in (tree, target):
        folder.mkdir()
    for number in range(FILES):
        path = tree / f"f{number}"
        path.write_bytes(b"secret")
        os.chown(path, 0, 4242 * (number % 2))
        path.chmod(0o640)
    (tree / "set-uid").write_bytes(b"program")
    (tree / "set-uid").chmod(0o4711)
    lab = ContentLab(tmp_path)
    manifest = TreeManifest.open(lab.capture(tree).root, lab.store, CODEC)
    seen = []
    write = os.write

    def watched(fd: int, data: bytes) -> int:
        status = os.fstat(fd)
        seen.append((stat.S_IMODE(status.st_mode), status.st_gid))
        return write(fd, data)

    mask = os.umask(0o022)  # a worker sets it to 0, and this is the test's own process
    try:
        handler = RestoreHandler(manifest, lab.open_store, target)
        monkeypatch.setattr(os, "write", watched)
        rows, zeros = array("I", range(1, FILES + 2)), array("I", [0] * (FILES + 1))
        assert handler.handle(FillJob(zeros, rows, zeros)).files == FILES + 1
        handler.finish()
    finally:
        os.umask(mask)
    # The first one shows what files are by themselves here; it is not known before.
    assert seen == [(0o600, 0), (0o600, 0), *[(0o640, 0), (0o600, 0)] * 2, (0o600, 0)]
    assert lab.verify(manifest.root, target).differences[1:] == ()  # [0]: the time of the root
