"""Capturing what changes, what cannot be read, and what is mounted."""

import os
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest
from content_lab import CODEC, ContentLab

from nodectl.content import reading
from nodectl.content.manifest import Entry, Kind
from nodectl.content.reading import CaptureHandler, FileJob, Signature
from nodectl.content.tree import TreeManifest
from nodectl.errors import (
    EmptyTree,
    FileChanged,
    PathMissing,
    PathUnreadable,
)
from nodectl.ids import Root
from nodectl.units import MIB

NOBODY = 65534


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ContentLab]:
    one = ContentLab(tmp_path / "lab")
    yield one
    one.store.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    (path / "still").write_bytes(b"still")
    return path


def entries(lab: ContentLab, root: Root) -> dict[bytes, Entry]:
    manifest = TreeManifest.open(root, lab.store, CODEC)
    return {entry.path: entry for entry in manifest.entries()}


def content(lab: ContentLab, entry: Entry) -> bytes:
    return b"".join(CODEC.open(lab.store.get(ref.frame_id), ref) for ref in entry.chunks)


class Writer:
    """Does something to a file again and again, until told to stop."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self._work = work
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.rounds = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._work(self.rounds)
            self.rounds += 1


@pytest.mark.parametrize("size", [4096, 3 * MIB])
def test_an_overwritten_file_is_never_torn(lab: ContentLab, tree: Path, size: int) -> None:
    """Each version is one byte repeated, so that a mixture of two versions shows."""
    path = tree / "busy"
    path.write_bytes(b"\0" * size)
    fd = os.open(path, os.O_WRONLY)
    taken = 0
    with Writer(lambda number: os.pwrite(fd, bytes([number % 251]) * size, 0) and None) as writer:
        for _ in range(12):
            report = lab.capture(tree, skip_changing=True)
            found = entries(lab, report.root)
            assert content(lab, found[b"still"]) == b"still"
            if b"busy" in found:
                data = content(lab, found[b"busy"])
                assert len(data) == size
                assert len(set(data)) == 1, "torn"
                taken += 1
            else:
                assert report.skipped == (b"busy",)
                assert any("changed each time" in text for text in lab.notes.texts)
    os.close(fd)
    assert writer.rounds > 12
    assert content(lab, entries(lab, lab.capture(tree).root)[b"busy"])


def test_a_growing_file_is_taken_as_it_once_was(lab: ContentLab, tree: Path) -> None:
    """A log of numbered lines: what is captured is a beginning of it, or nothing."""
    path = tree / "log"
    path.write_bytes(b"")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    with Writer(lambda number: os.write(fd, b"%09d\n" % number) and None):
        for _ in range(10):
            found = entries(lab, lab.capture(tree, skip_changing=True).root)
            if b"log" in found:
                lines = content(lab, found[b"log"]).split(b"\n")
                assert lines[-1] == b""
                assert lines[:-1] == [b"%09d" % number for number in range(len(lines) - 1)]
    os.close(fd)


def test_a_file_that_always_changes_is_an_error_unless_told_otherwise(
    lab: ContentLab, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed by the test whenever its last byte has been read, so by no chance of time."""
    path = tree / "busy"
    path.write_bytes(b"0" * 10)
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        data = real(fd, length, offset)
        if data.startswith(b"0"):
            path.write_bytes(b"0" * (len(data) + 1))
        return data

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(FileChanged, match="busy") as caught:
        lab.capture(tree)
    assert "--skip-changing" in caught.value.hint
    report = lab.capture(tree, skip_changing=True)
    assert set(entries(lab, report.root)) == {b"", b"still"}
    assert report.skipped == (b"busy",)


def handler(lab: ContentLab, tree: Path) -> CaptureHandler:
    return CaptureHandler(tree, lab.store.packs, lab.store.folder / "index.sqlite", CODEC)


def job(tree: Path, name: str) -> FileJob:
    return FileJob(0, os.fsencode(name), Signature.of((tree / name).lstat()))


@pytest.mark.parametrize("becomes", ["nothing", "fifo", "directory", "socket", "device"])
def test_what_is_no_file_any_more_is_gone_or_named(
    lab: ContentLab, tree: Path, becomes: str
) -> None:
    """Between the walk and the reading; a fifo must not be waited for."""
    path = tree / "f"
    path.write_bytes(b"x")
    work = job(tree, "f")
    path.unlink()
    match becomes:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(str(path))
        case "device" if os.geteuid() == 0:
            os.mknod(path, 0o020600, os.makedev(1, 3))
    (result,) = handler(lab, tree).handle([work]).files
    assert result.gone or result.problem
    assert not result.chunks


def test_a_link_in_place_of_a_file_is_not_followed(
    lab: ContentLab, tree: Path, tmp_path: Path
) -> None:
    path, secret = tree / "f", tmp_path / "secret"
    path.write_bytes(b"x")
    secret.write_bytes(b"secret")
    work = job(tree, "f")
    path.unlink()
    path.symlink_to(secret)
    (result,) = handler(lab, tree).handle([work]).files
    assert result.problem
    assert not result.chunks


@pytest.mark.parametrize("how", ["grown", "cut", "replaced", "touched"])
def test_a_file_changed_since_the_walk_is_taken_as_it_is_now(
    lab: ContentLab, tree: Path, how: str
) -> None:
    path = tree / "f"
    path.write_bytes(b"x" * 5000)
    work = job(tree, "f")
    match how:
        case "grown":
            path.write_bytes(b"y" * 9000)
        case "cut":
            path.write_bytes(b"y")
        case "replaced":
            (tree / "new").write_bytes(b"y" * 5000)
            (tree / "new").rename(path)
        case "touched":
            os.utime(path, ns=(1, 1))
    one = handler(lab, tree)
    (result,) = one.handle([work]).files
    lab.store.add_packed(one.finish().durable)
    assert (result.gone, result.problem, result.changed) == (False, "", False)
    assert result.status is not None
    assert Signature.of(result.status) == Signature.of(path.stat())
    data = b"".join(CODEC.open(lab.store.get(ref.frame_id), ref) for ref in result.chunks)
    assert data == path.read_bytes()


def test_hard_links_to_a_file_that_was_left_out_go_with_it(
    lab: ContentLab, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "a").write_bytes(b"0")
    os.link(tree / "a", tree / "b")
    monkeypatch.setattr(CaptureHandler, "_read", _refuse_zero(CaptureHandler._read))
    with pytest.raises(PathUnreadable, match="/a"):
        lab.capture(tree)
    report = lab.capture(tree, skip_unreadable=True)
    assert report.skipped == (b"a", b"b")
    assert set(entries(lab, report.root)) == {b"", b"still"}


def _refuse_zero(real: Callable[..., object]) -> Callable[..., object]:
    def read(self: CaptureHandler, fd: int, work: FileJob) -> object:
        if os.pread(fd, 1, 0) == b"0":
            raise OSError(5, "Input/output error")
        return real(self, fd, work)

    return read


def test_a_read_error_is_named(
    lab: ContentLab, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "bad").write_bytes(b"0")
    monkeypatch.setattr(CaptureHandler, "_read", _refuse_zero(CaptureHandler._read))
    with pytest.raises(PathUnreadable, match="bad: Input/output error"):
        lab.capture(tree)


@pytest.mark.parametrize("what", ["file", "directory"])
@pytest.mark.root
def test_what_a_plain_user_cannot_read_is_an_error_that_can_be_left_out(
    tmp_path: Path, what: str
) -> None:
    """In a child that is nobody; root can read everything."""
    tree = tmp_path / "tree"
    (tree / "private").mkdir(parents=True)
    (tree / "private" / "f").write_bytes(b"f")
    (tree / "readable").write_bytes(b"r")
    (tree / "private" / "f" if what == "file" else tree / "private").chmod(0)
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    tmp_path.chmod(0o755)
    for parent in (tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    # Not a new Python: nobody may not be allowed to read its library. All that a capture imports
    # late is imported by one that root makes.
    warm = ContentLab(tmp_path / "warm")
    warm.capture(tree)
    warm.store.close()
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os._exit(_capture_as_nobody(own, tree, write_end))
    os.close(write_end)
    with open(read_end, encoding="utf-8") as said:  # noqa: PTH123 - a descriptor
        lines = said.read().splitlines()
    assert os.waitpid(pid, 0)[1] == 0, lines
    error, report = lines
    assert "private" in error
    assert "ermission denied" in error
    assert "--skip-unreadable" in error
    left = "b'private/f'" if what == "file" else "b'private'"
    assert report.endswith(f"({left},)")


def _capture_as_nobody(own: Path, tree: Path, write_end: int) -> int:
    try:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        lab = ContentLab(own)
        try:
            lab.capture(tree)
        except PathUnreadable as exc:
            os.write(write_end, f"{exc} | {exc.hint}\n".encode())
        report = lab.capture(tree, skip_unreadable=True)
        os.write(write_end, f"{report.block.entries} {report.skipped}\n".encode())
        lab.store.close()
    except BaseException:  # noqa: BLE001 - the parent says it
        os.write(write_end, traceback.format_exc().encode())
        return 1
    return 0


def test_a_socket_is_left_out_with_a_note(lab: ContentLab, tree: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(f"/proc/self/fd/{here}/s")
    os.close(here)
    report = lab.capture(tree)
    assert report.skipped == (b"s",)
    # In place a socket stays: its program runs, and no image could bring it back.
    lab.restore(report.root, tree)
    assert (tree / "s").is_socket()
    assert lab.verify(report.root, tree).differences == ()
    assert any("is a socket" in text for text in lab.notes.texts)


def test_an_empty_file_has_no_chunk(lab: ContentLab, tree: Path) -> None:
    (tree / "empty").touch()
    entry = entries(lab, lab.capture(tree).root)[b"empty"]
    assert (entry.kind, entry.size, entry.chunks, entry.extents) == (Kind.FILE, 0, (), ())


def test_nothing_to_capture_is_said_so(lab: ContentLab, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmptyTree):
        lab.capture(tmp_path / "empty")
    with pytest.raises(PathMissing):
        lab.capture(tmp_path / "absent")
    with pytest.raises(PathMissing):
        lab.capture(tmp_path / "lab" / "store" / "index.sqlite")
    assert lab.store.statistics().frames == 0


@pytest.mark.slow
def test_a_directory_of_100_000_entries(lab: ContentLab, tree: Path, tmp_path: Path) -> None:
    folder = os.open(tree, os.O_RDONLY)
    for number in range(100_000):
        os.close(os.open(f"{number:x}", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    report = lab.capture(tree)
    assert report.block.entries == 100_002
    copy = tmp_path / "copy"
    lab.restore(report.root, copy)
    assert lab.verify(report.root, copy).differences == ()


# ---------------------------------------------------------------- mounts


@pytest.fixture
def mount() -> Iterator[Callable[[Path], None]]:
    mounted: list[Path] = []

    def make(path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(path)], check=True, timeout=10)
        mounted.append(path)

    yield make
    for path in reversed(mounted):
        subprocess.run(["umount", str(path)], check=True, timeout=10)


Mount = Callable[[Path], None]


@pytest.mark.root
def test_other_file_systems_are_left_out_and_left_alone(
    lab: ContentLab, tree: Path, tmp_path: Path, mount: Mount
) -> None:
    mount(tree / "srv" / "data")
    (tree / "srv" / "data" / "huge").write_bytes(b"huge")
    report = lab.capture(tree)
    found = entries(lab, report.root)
    assert b"srv/data" in found
    assert b"srv/data/huge" not in found
    manifest = TreeManifest.open(report.root, lab.store, CODEC)
    assert manifest.head["mounts_left_out"] == ["srv/data"]
    lab.restore(report.root, tree)
    assert (tree / "srv" / "data" / "huge").read_bytes() == b"huge"
    copy = tmp_path / "copy"
    (copy / "srv" / "data").mkdir(parents=True)
    (copy / "srv" / "data" / "own").write_bytes(b"own")
    (copy / "srv" / "extra").write_bytes(b"extra")
    lab.restore(report.root, copy)
    assert (copy / "srv" / "data" / "own").read_bytes() == b"own"
    assert not (copy / "srv" / "extra").exists()
    wanted = lab.capture(tree, mounts=("srv/data",))
    assert b"srv/data/huge" in entries(lab, wanted.root)


@pytest.mark.root
@pytest.mark.parametrize("place", ["extra", "extra/deep/er", "still"])
def test_what_is_mounted_on_the_node_alone_is_never_emptied(
    lab: ContentLab, tree: Path, tmp_path: Path, mount: Mount, place: str
) -> None:
    """Where it stands in the way of an entry of the image, the restore says so."""
    report = lab.capture(tree)
    copy = tmp_path / "copy"
    copy.mkdir()
    mount(copy / place)
    (copy / place / "precious").write_bytes(b"precious")
    if place == "still":
        with pytest.raises(Exception, match="cannot be replaced"):
            lab.restore(report.root, copy)
    else:
        lab.restore(report.root, copy)
        assert any("mounted" in text for text in lab.notes.texts)
        assert (copy / "still").read_bytes() == b"still"
    assert (copy / place / "precious").read_bytes() == b"precious"


@pytest.mark.root
def test_what_is_mounted_below_the_root_itself_is_never_emptied(
    lab: ContentLab, tree: Path, tmp_path: Path, mount: Mount
) -> None:
    """A node that restores / in place: here / of a child that lives in a chroot."""
    report = lab.capture(tree)
    jail = tmp_path / "jail"
    jail.mkdir()
    mount(jail)
    mount(jail / "extra")
    (jail / "extra" / "precious").write_bytes(b"precious")
    (jail / "proc").mkdir()
    subprocess.run(["mount", "--bind", "/proc", str(jail / "proc")], check=True, timeout=10)
    try:
        pid = os.fork()
        if not pid:
            os.chroot(jail)
            os.chdir("/")
            from nodectl.content.mounts import mount_points_below  # noqa: PLC0415

            os._exit(0 if mount_points_below(Path("/"), b"extra") == ["/extra"] else 1)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        subprocess.run(["umount", str(jail / "proc")], check=True, timeout=10)
    assert report.root


def test_what_the_image_leaves_alone_is_kept_inside_extra_directories(
    lab: ContentLab, tree: Path, tmp_path: Path
) -> None:
    """An image of a tree without var/lib, restored onto a node: its own keys stay."""
    report = lab.capture(tree, excludes=("*.key",))
    copy = tmp_path / "copy"
    for name in ("var/lib/nodectl/node.json", "var/lib/other", "opt/own/x.key", "opt/own/y"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(b"own")
    lab.restore(report.root, copy)
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(copy)) for path in files) == [
        "opt/own/x.key",
        "still",
        "var/lib/nodectl/node.json",
    ]
    assert any("leaves alone" in text for text in lab.notes.texts)
    # A second time nothing is removed, and the tree counts as what the image says but for those.
    assert lab.restore(report.root, copy).removed == 0


def test_what_kept_changing_is_not_taken_for_extra(
    lab: ContentLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the image lacks because it could not be captured stays on the nodes."""
    tree, copy = tmp_path / "t", tmp_path / "copy"
    tree.mkdir()
    (tree / "steady").write_text("steady")
    (tree / "busy").write_text("busy")
    real = reading.CaptureHandler._read

    def read(self: reading.CaptureHandler, fd: int, job: reading.FileJob) -> reading.FileResult:
        if job.path == b"busy":
            return reading.FileResult(job.number, job.begin, changed=True)
        return real(self, fd, job)

    monkeypatch.setattr(reading.CaptureHandler, "_read", read)
    report = lab.capture(tree, skip_changing=True)
    assert report.skipped == (b"busy",)
    copy.mkdir()
    (copy / "busy").write_text("the node's own")
    lab.restore(report.root, copy)
    assert (copy / "busy").read_text() == "the node's own"
    assert lab.verify(report.root, copy).differences == ()
