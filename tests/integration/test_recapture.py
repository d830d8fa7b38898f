"""Capturing again: what did not change is not read, and the manifest is as if it all had been."""

import os
import shutil
import time
from pathlib import Path

import pytest
from trees import make_everything

from nodectl.content import reading
from nodectl.content.capture import CaptureOptions, CaptureReport, capture_tree
from nodectl.content.frame import FrameCodec
from nodectl.content.workers import WorkerPool
from nodectl.events import NullObserver
from nodectl.store.disk import DiskStore
from nodectl.trust.keys import RealmKey

CODEC = FrameCodec(RealmKey(secret=b"k" * 32).content_keys())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_everything(tree)
    (tree / "socket").unlink()
    for folder in range(30):
        (tree / f"d{folder}").mkdir()
        for file in range(60):
            (tree / f"d{folder}" / f"f{file}").write_text(f"{folder} {file}")
    return tree


class Lab:
    def __init__(self, tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp_path = tmp_path
        self.tree = tree
        self.read = tmp_path / "read"
        real = reading.CaptureHandler.handle

        def noted(self_: reading.CaptureHandler, job: list[reading.FileJob]) -> reading.BatchResult:
            with self.read.open("ab") as file:  # workers are other processes
                file.write(b"".join(one.path + b"\0" for one in job))
            return real(self_, job)

        monkeypatch.setattr(reading.CaptureHandler, "handle", noted)

    def capture(self, options: CaptureOptions | None = None) -> tuple[CaptureReport, set[bytes]]:
        """Capture as a node does; return the report and the files that were read."""
        self.settle()
        self.read.write_bytes(b"")
        with DiskStore(self.tmp_path / "store") as store:
            report = capture_tree(
                self.tree,
                store,
                CODEC,
                options or CaptureOptions(),
                NullObserver(),
                memory=self.tmp_path / "memory",
            )
        return report, set(self.read.read_bytes().split(b"\0")[:-1])

    def settle(self) -> None:
        """Wait until what was just changed lies further back than the clock's granularity."""
        newest = max(path.lstat().st_ctime_ns for path in (self.tree, *self.tree.rglob("*")))
        while time.time_ns() - newest < 40_000_000:
            time.sleep(0.01)

    def from_nothing(self, options: CaptureOptions | None = None) -> CaptureReport:
        """Capture with no memory, into a store of its own."""
        folder = self.tmp_path / "other"
        shutil.rmtree(folder, ignore_errors=True)
        with DiskStore(folder) as store:
            return capture_tree(
                self.tree, store, CODEC, options or CaptureOptions(), NullObserver()
            )


@pytest.fixture
def lab(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(tmp_path, tree, monkeypatch)


def test_nothing_changed_nothing_read(lab: Lab) -> None:
    first, read = lab.capture()
    assert len(read) > 1800
    second, read = lab.capture()
    assert read == set()
    assert second.root == first.root
    assert (second.new_frames, second.new_bytes) == (0, 0)


def test_only_what_changed_is_read_and_the_manifest_is_the_true_one(lab: Lab, tree: Path) -> None:
    lab.capture()
    (tree / "d3" / "f5").write_text("changed")
    (tree / "d7" / "new").write_text("new")
    (tree / "d9" / "f1").unlink()
    shutil.rmtree(tree / "d11")
    (tree / "d13" / "f2").chmod(0o600)
    os.setxattr(tree / "d15" / "f3", "user.x", b"y")
    (tree / "d17" / "f4").rename(tree / "d17" / "g4")
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    os.link(tree / "d1" / "f1", tree / "a" / "first-link")  # stands before the file itself
    report, read = lab.capture()
    assert read == {
        b"d3/f5",
        b"d7/new",
        b"d13/f2",
        b"d15/f3",
        b"d17/g4",
        b"a/first-link",
    }
    assert report.root == lab.from_nothing().root


def test_a_change_that_keeps_size_and_mtime_is_seen(lab: Lab, tree: Path) -> None:
    lab.capture()
    victim = tree / "d2" / "f2"
    status = victim.stat()
    victim.write_text("9 9")
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    report, read = lab.capture()
    assert read == {b"d2/f2"}
    assert report.root == lab.from_nothing().root


def test_other_options_begin_anew(lab: Lab) -> None:
    lab.capture()
    options = CaptureOptions(excludes=("/d3",))
    report, read = lab.capture(options)
    assert len(read) > 1700
    assert report.root == lab.from_nothing(options).root


def test_a_memory_of_frames_that_are_gone_is_not_believed(lab: Lab, tmp_path: Path) -> None:
    first, _ = lab.capture()
    for pack in (tmp_path / "store" / "packs").iterdir():
        pack.unlink()
    second, read = lab.capture()
    assert len(read) > 1800
    assert second.root == first.root
    with DiskStore(tmp_path / "store") as store:
        assert store.statistics().frames > 1000


@pytest.mark.parametrize("damage", [b"", b"{", b"x" * 100])
def test_a_damaged_memory_is_not_used(lab: Lab, tmp_path: Path, damage: bytes) -> None:
    first, _ = lab.capture()
    (record,) = (tmp_path / "memory").iterdir()
    record.write_bytes(damage or record.read_bytes()[:-50])
    second, read = lab.capture()
    assert len(read) > 1800
    assert second.root == first.root


def test_files_of_several_records_are_taken_over(
    lab: Lab, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodectl.content.manifest.RECORD_CHUNKS_MAX", 2)
    monkeypatch.setattr("nodectl.content.tree.RECORD_CHUNKS_MAX", 2)
    first, _ = lab.capture()
    (tree / "d3" / "f5").write_text("changed")
    report, read = lab.capture()
    assert read == {b"d3/f5"}
    assert report.root == lab.from_nothing().root != first.root


def test_pools_stay_usable_after_a_capture(lab: Lab) -> None:
    """No worker outlives its pool."""
    lab.capture()
    with WorkerPool(lambda: _Echo(), count=2) as pool:  # noqa: PLW0108 - made in the worker
        assert sorted(pool.run(range(10))) == list(range(10))


class _Echo:
    def handle(self, job: int) -> int:
        return job

    def finish(self) -> int:
        return -1
