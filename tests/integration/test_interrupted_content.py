"""Captures and restores that are killed: nothing acknowledged is lost, the next run completes."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from content_lab import CODEC, ContentLab

from nodectl.content.tree import TreeManifest
from nodectl.ids import Root, id_from_hex
from nodectl.store.model import NO_CHUNK

REPOSITORY = Path(__file__).parents[2]

# The verbs as a command has them: Ctrl-C is an exception in the parent and ends with 130.
DRIVER = """
import sys
from pathlib import Path
from content_lab import ContentLab
from nodectl.ids import Root

verb, folder, path, *root = sys.argv[1:]
lab = ContentLab(Path(folder))
try:
    print("ready", flush=True)
    if verb == "capture":
        report = lab.capture(Path(path))
        print(report.root.hex(), report.new_frames, flush=True)
    else:
        lab.restore(Root(bytes.fromhex(root[0])), Path(path))
        print("done", flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree that takes a while: 60 MB that does not shrink, small files and large."""
    path = tmp_path_factory.mktemp("interrupted")
    generator = random.Random(7)
    for number in range(12):
        folder = path / f"d{number}"
        folder.mkdir()
        for name in range(60):
            (folder / f"f{name}").write_bytes(generator.randbytes(4000))
        (folder / "large").write_bytes(generator.randbytes(5 << 20))
    return path


class Child:
    """The driver as a process of its own, in a group of its own."""

    def __init__(self, verb: str, folder: Path, path: Path, *more: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, verb, str(folder), str(path), *more],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}"},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def finish(self) -> list[str]:
        """Wait for its end; return the words that it said."""
        out, _ = self._process.communicate(timeout=60)
        assert self._process.returncode == 0
        return out.split()

    def stop(self, how: signal.Signals) -> int:
        """Send a signal; return the status of the parent when its workers have ended too.

        A terminal sends Ctrl-C to all of them; a kill takes the parent alone.
        """
        send = os.killpg if how == signal.SIGINT else os.kill
        with contextlib.suppress(ProcessLookupError):
            send(self._process.pid, how)
        self._process.communicate(timeout=30)
        deadline = time.monotonic() + 15
        while _group(self._process.pid):
            assert time.monotonic() < deadline, "workers were left behind"
            time.sleep(0.02)
        return self._process.returncode


def _group(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            if int(words[2]) == group and words[0] != "Z":
                found.append(int(path.parent.name))
    return found


def grown(folder: Path, size: int) -> None:
    """Wait until the files below a folder have `size` bytes in all: a moment in the work."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if sum(path.lstat().st_size for path in folder.rglob("*")) >= size:
                return
        time.sleep(0.002)
    pytest.fail("the work did not get that far")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "lab"
    path.mkdir()
    return path


@pytest.fixture
def lab(tmp_path: Path, tree: Path) -> Iterator[tuple[ContentLab, Root]]:
    one = ContentLab(tmp_path / "lab")
    report = one.capture(tree)
    yield one, report.root
    one.store.close()


def check_store(folder: Path) -> int:
    """Open the store and check every frame; return how many there are."""
    lab = ContentLab(folder)
    rows = list(lab.store.index.rows())
    for row in rows:
        sealed = lab.store.get(row.frame_id)
        assert blake3(sealed).digest() == row.frame_id
        if row.chunk_id != NO_CHUNK:
            ref = CODEC.seal(b"", CODEC.chunk_id(b"")).ref._replace(
                chunk_id=row.chunk_id,
                frame_id=row.frame_id,
                plain_len=row.plain_len,
                sealed_len=row.sealed_len,
            )
            CODEC.open(sealed, ref)
    lab.store.close()
    return len(rows)


@pytest.mark.parametrize("megabytes", [0, 5, 20, 50])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_capture_that_is_stopped_is_completed_by_the_next(
    folder: Path, tree: Path, megabytes: int, how: signal.Signals
) -> None:
    child = Child("capture", folder, tree)
    grown(folder / "store" / "packs", megabytes * 1_000_000)
    status = child.stop(how)
    assert status in {-how, 0} if how == signal.SIGKILL else status in {130, 0}
    stored = check_store(folder)
    root, new_frames = Child("capture", folder, tree).finish()
    total = check_store(folder)
    lab = ContentLab(folder)
    manifest = TreeManifest.open(Root(id_from_hex(root)), lab.store, CODEC)
    data = {ref.frame_id for entry in manifest.entries() for ref in entry.chunks}
    assert int(new_frames) <= len(data)
    assert int(new_frames) + stored <= total  # what was stored was not stored again
    if megabytes >= 50 and status:
        assert stored > 0
    assert lab.verify(Root(id_from_hex(root)), tree).differences == ()
    lab.store.close()
    assert Child("capture", folder, tree).finish() == [root, "0"]


def test_a_worker_that_is_killed_ends_the_capture_with_a_word(folder: Path, tree: Path) -> None:
    child = Child("capture", folder, tree)
    grown(folder / "store" / "packs", 3_000_000)
    workers = [pid for pid in _group(child._process.pid) if pid != child._process.pid]
    if workers:
        os.kill(workers[0], signal.SIGKILL)
    out, _ = child._process.communicate(timeout=30)
    assert child._process.returncode == (1 if workers and not out else 0)
    assert _group(child._process.pid) == []
    check_store(folder)


@pytest.mark.parametrize("megabytes", [0, 10, 30, 55])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_restore_that_is_stopped_is_completed_by_the_next(
    lab: tuple[ContentLab, Root], tmp_path: Path, megabytes: int, how: signal.Signals
) -> None:
    one, root = lab
    target = tmp_path / "target"
    target.mkdir()
    child = Child("restore", one.folder, target, root.hex())
    grown(target, megabytes * 1_000_000)
    status = child.stop(how)
    assert status in {-how, 0} if how == signal.SIGKILL else status in {130, 0}
    one.restore(root, target)
    assert one.verify(root, target).differences == ()
    assert list(target.rglob(".nodectl-*")) == []
    assert one.restore(root, target).written_files == 0


def test_readers_see_the_old_or_the_new_file_whenever_it_is_killed(
    lab: tuple[ContentLab, Root], tree: Path, tmp_path: Path
) -> None:
    """In place: a file that stood there is whole at every moment."""
    one, root = lab
    target = tmp_path / "target"
    for size in (1, 15, 40):
        one.restore(root, target)
        old = b"old version " * 1000
        names = [path.relative_to(target) for path in target.rglob("*") if path.is_file()]
        for name in names:
            (target / name).write_bytes(old)
        child = Child("restore", one.folder, target, root.hex())
        grown(target, len(names) * len(old) + size * 1_000_000)
        child.stop(signal.SIGKILL)
        for name in names:
            data = (target / name).read_bytes()
            assert data in {old, (tree / name).read_bytes()}, name
