"""Capture, restore, verify: on a tree that has everything, judged by rsync as well."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import make_everything, rsync_differences

from nodectl.content.capture import CaptureOptions, CaptureReport, capture_tree
from nodectl.content.frame import FrameCodec
from nodectl.content.restore import RestoreOptions, RestoreReport, restore_tree
from nodectl.content.tree import TreeManifest
from nodectl.content.verify import VerifyReport, verify_tree
from nodectl.events import NullObserver
from nodectl.store.disk import DiskStore
from nodectl.trust.keys import RealmKey

CODEC = FrameCodec(RealmKey(secret=b"k" * 32).content_keys())


class Lab:
    """A store, and the three verbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = DiskStore(folder / "store")

    def capture(self, tree: Path, options: CaptureOptions | None = None) -> CaptureReport:
        return capture_tree(tree, self.store, CODEC, options or CaptureOptions(), NullObserver())

    def manifest(self, report: CaptureReport) -> TreeManifest:
        return TreeManifest.open(report.root, self.store, CODEC)

    def open_store(self) -> DiskStore:
        return DiskStore(self.folder / "store", catch_up=False)

    def restore(
        self, report: CaptureReport, target: Path, options: RestoreOptions | None = None
    ) -> RestoreReport:
        target.mkdir(exist_ok=True)
        return restore_tree(
            self.manifest(report),
            target,
            self.open_store,
            options or RestoreOptions(),
            NullObserver(),
        )

    def verify(self, report: CaptureReport, tree: Path) -> VerifyReport:
        return verify_tree(self.manifest(report), tree, self.open_store, NullObserver())


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    one = Lab(tmp_path)
    yield one
    one.store.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    make_everything(path)
    return path


def test_everything_comes_back(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree)
    assert report.skipped == (b"socket",)
    copy = tmp_path / "copy"
    done = lab.restore(report, copy)
    assert rsync_differences(tree, copy) == []
    assert lab.verify(report, copy).differences == ()
    assert done.entries == report.block.entries
    for name in ("sparse", "all-hole", "hole-at-end"):
        assert (copy / name).stat().st_blocks <= (tree / name).stat().st_blocks
    assert (copy / "small").stat().st_ino == (copy / "deep" / "hard-link").stat().st_ino


def test_the_same_tree_gives_the_same_manifest(lab: Lab, tree: Path, tmp_path: Path) -> None:
    first = lab.capture(tree)
    second = lab.capture(tree)
    assert second.root == first.root
    assert second.new_frames == 0
    (tree / "socket").unlink()
    os.utime(tree, ns=(1_234_567_891, 1_234_567_891))
    copy = tmp_path / "copy"
    lab.restore(first, copy)
    assert lab.capture(copy).root == first.root


def test_in_place_only_what_differs_is_written(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree)
    copy = tmp_path / "copy"
    lab.restore(report, copy)
    kept = (copy / "large").stat().st_ino
    again = lab.restore(report, copy)
    assert (again.written_bytes, again.written_files, again.removed) == (0, 0, 0)

    (copy / "small").write_bytes(b"drifted")
    (copy / "extra").write_bytes(b"x")
    (copy / "extra-dir" / "below").mkdir(parents=True)
    (copy / "extra-dir" / "below" / "f").write_bytes(b"x")
    (copy / "link").unlink()
    (copy / "link").symlink_to("elsewhere")
    (copy / "empty-dir").rmdir()
    (copy / "empty-dir").write_bytes(b"a file now")
    (copy / "fifo").unlink()
    (copy / "deep" / "hard-link").unlink()
    (copy / "a-b" / "f").unlink()
    (copy / "a-b" / "f").mkdir()
    (copy / "one-chunk").chmod(0o600)
    os.setxattr(copy / "empty", "user.extra", b"x")
    assert len(lab.verify(report, copy).differences) >= 10
    mended = lab.restore(report, copy)
    assert rsync_differences(tree, copy) == []
    assert lab.verify(report, copy).differences == ()
    assert mended.removed == 2
    assert mended.written_bytes == len(b"hello") + len(b"a-b")
    assert (copy / "large").stat().st_ino == kept


def test_extra_entries_can_be_kept(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "mine").write_bytes(b"x")
    lab.restore(report, copy, RestoreOptions(keep_extra=True))
    assert (copy / "mine").read_bytes() == b"x"
    assert [one.path for one in lab.verify(report, copy).differences] == [b"mine"]


def test_what_the_image_leaves_out_is_left_alone(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree, CaptureOptions(excludes=("/deep/er/*", "*.key", "/small")))
    copy = tmp_path / "copy"
    (copy / "deep" / "er").mkdir(parents=True)
    (copy / "deep" / "er" / "own").write_bytes(b"own")
    (copy / "node.key").write_bytes(b"secret")
    (copy / "small").write_bytes(b"own")
    lab.restore(report, copy)
    assert (copy / "deep" / "er" / "own").read_bytes() == b"own"
    assert (copy / "node.key").read_bytes() == b"secret"
    assert (copy / "small").read_bytes() == b"own"
    assert not (copy / "deep" / "er" / "est").exists()
    assert lab.verify(report, copy).differences == ()


def test_deep_finds_what_size_and_time_hide(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree)
    copy = tmp_path / "copy"
    lab.restore(report, copy)
    victim = copy / "large"
    status = victim.stat()
    with victim.open("r+b") as file:
        file.seek(3_000_000)
        byte = file.read(1)
        file.seek(3_000_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert lab.restore(report, copy).written_files == 0
    assert [one.what for one in lab.verify(report, copy).differences] == [
        f"content differs from byte {2 << 20} on"
    ]
    lab.restore(report, copy, RestoreOptions(deep=True))
    assert lab.verify(report, copy).differences == ()


def test_every_kind_of_difference_is_named(lab: Lab, tree: Path, tmp_path: Path) -> None:
    report = lab.capture(tree)
    copy = tmp_path / "copy"
    lab.restore(report, copy)
    (copy / "dangling").unlink()
    (copy / "dangling").symlink_to("/other")
    os.utime(
        copy / "dangling", ns=(0, (tree / "dangling").lstat().st_mtime_ns), follow_symlinks=False
    )
    (copy / "small").chmod(0o777)
    (copy / "empty").unlink()
    with (copy / "sparse").open("r+b") as file:
        file.seek(20 << 20)
        file.write(b"in a hole")
    with (copy / "all-hole").open("r+b") as file:
        file.write(bytes(9 << 20))
    with (copy / "hole-at-end").open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"x")
    (copy / "link-to-dir").unlink()
    (copy / "link-to-dir").mkdir()
    found: dict[bytes, list[str]] = {}
    for one in lab.verify(report, copy).differences:
        found.setdefault(one.path, []).append(one.what)
    assert found[b"dangling"] == ["leads elsewhere"]
    assert found[b"small"] == [
        f"mode 0777, not {stat.S_IMODE((tree / 'small').stat().st_mode):04o}"
    ]
    assert found[b"empty"] == ["is missing"]
    assert any("content differs from byte" in what for what in found[b"sparse"])
    assert any("was sparse" in what for what in found[b"all-hole"])
    assert any("content differs from byte 12288" in what for what in found[b"hole-at-end"])
    assert found[b"link-to-dir"] == ["is of another kind"]


def test_a_large_directory(lab: Lab, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    tree.mkdir()
    for number in range(20_000):
        (tree / f"{number:x}").touch()
    report = lab.capture(tree)
    lab.restore(report, copy)
    names = {path.name for path in tree.iterdir()}
    assert {path.name for path in copy.iterdir()} == names
    assert lab.verify(report, copy).differences == ()
