"""Full file systems on either side: said so, nothing lost, and it goes on when there is space."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from content_lab import ContentLab

from nodectl.errors import NoSpace

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 12 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)], check=True, timeout=10
    )
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=10)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    generator = random.Random(3)
    for number in range(200):
        (path / f"small{number}").write_bytes(generator.randbytes(5000))
    for number in range(4):
        (path / f"large{number}").write_bytes(generator.randbytes(5 * MIB))
    return path


def fill(path: Path, left: int) -> Path:
    """Leave `left` bytes free; return the file that takes the rest."""
    ballast = path / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - left))
    return ballast


def check(lab: ContentLab) -> None:
    for row in lab.store.index.rows():
        assert blake3(lab.store.get(row.frame_id)).digest() == row.frame_id


def remount(path: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True, timeout=10)


def test_a_capture_into_a_full_store_says_so_and_goes_on_later(tree: Path, small: Path) -> None:
    lab = ContentLab(small)
    with pytest.raises(NoSpace, match="no space left") as caught:
        lab.capture(tree)
    assert caught.value.exit_code == 12
    assert caught.value.hint
    check(lab)
    lab.store.close()
    remount(small, "64m")
    lab = ContentLab(small)
    check(lab)
    report = lab.capture(tree)
    check(lab)
    assert lab.verify(report.root, tree).differences == ()
    assert lab.capture(tree).new_frames == 0
    lab.store.close()


@pytest.mark.parametrize("left", [0, 4096, 40_000, 200_000, 2 * MIB])
def test_however_little_is_left_the_error_is_no_space(tree: Path, small: Path, left: int) -> None:
    """Down to no byte for the index's own files; what was there stays readable."""
    lab = ContentLab(small)
    (tree / "keep").mkdir()
    (tree / "keep" / "f").write_bytes(b"kept")
    kept = lab.capture(tree / "keep")
    ballast = fill(small, left)
    with pytest.raises(NoSpace) as caught:
        lab.capture(tree)
    assert caught.value.exit_code == 12
    check(lab)
    ballast.unlink()
    remount(small, "64m")
    assert lab.verify(kept.root, tree / "keep").differences == ()
    report = lab.capture(tree)
    assert lab.verify(report.root, tree).differences == ()
    lab.store.close()


def test_a_store_on_a_full_disk_can_be_opened_and_read(tree: Path, small: Path) -> None:
    (tree / "keep").mkdir()
    (tree / "keep" / "f").write_bytes(b"kept")
    lab = ContentLab(small)
    kept = lab.capture(tree / "keep")
    lab.store.close()
    fill(small, 64 << 10)  # SQLite wants 32 KiB for its shared memory
    lab = ContentLab(small)
    check(lab)
    assert lab.verify(kept.root, tree / "keep").differences == ()
    lab.store.close()


def test_no_space_to_open_a_store_is_said_so(small: Path) -> None:
    fill(small, 0)
    with pytest.raises(NoSpace):
        ContentLab(small)


@pytest.mark.parametrize("size", ["1m", "7m", "19m"])
def test_a_restore_into_a_full_target_says_so_and_goes_on_later(
    tree: Path, tmp_path: Path, small: Path, size: str
) -> None:
    lab = ContentLab(tmp_path / "lab")
    report = lab.capture(tree)
    remount(small, size)
    with pytest.raises(NoSpace, match="no space left") as caught:
        lab.restore(report.root, small)
    assert caught.value.exit_code == 12
    assert caught.value.hint
    remount(small, "64m")
    lab.restore(report.root, small)
    assert lab.verify(report.root, small).differences == ()
    assert lab.restore(report.root, small).written_files == 0
    lab.store.close()
