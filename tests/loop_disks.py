"""Loop devices to clone onto, and an image source that is a folder: for tests that are root."""

import contextlib
import hashlib
import os
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodectl.events import Observer
from nodectl.node.clone import FillResult

MIB = 1 << 20
_ATTACH_TRIES = 20


def sh(*argv: str | Path) -> str:
    """Run a program that must succeed and return what it said."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class LoopDisk:
    path: str  # /dev/loopN
    backing: Path

    @property
    def name(self) -> str:
        return self.path.removeprefix("/dev/")

    def digest(self) -> str:
        """Return the hash of everything on the disk."""
        sh("sync", self.backing)
        with self.backing.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()

    def is_released(self) -> bool:
        """Say whether nobody mounts, holds or shows a part of it."""
        if list(Path(f"/sys/block/{self.name}").glob(f"{self.name}p*")):
            return False
        if self.path in Path("/proc/mounts").read_text():
            return False
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL))
        except OSError:
            return False
        return True

    @contextlib.contextmanager
    def partitions(self) -> Iterator[None]:
        """Show its partitions to the kernel for a while."""
        sh("partx", "--update", self.path)
        try:
            yield
        finally:
            self._hide_partitions()

    def _hide_partitions(self) -> None:
        """Take them off again; a program that looks at all disks may hold one for a moment."""
        deadline = time.monotonic() + 10
        while True:
            done = subprocess.run(
                ["partx", "--delete", self.path], check=False, capture_output=True, text=True
            )
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.05)

    @contextlib.contextmanager
    def mounted(self, number: int, folder: Path) -> Iterator[Path]:
        folder.mkdir(exist_ok=True)
        with self.partitions():
            sh("mount", "--read-only", f"{self.path}p{number}", folder)
            try:
                yield folder
            finally:
                sh("umount", folder)


@contextlib.contextmanager
def loop_disk(backing: Path, size: int, *flags: str) -> Iterator[LoopDisk]:
    """Make a sparse file and attach it; detached at the end whatever happened."""
    if not backing.exists():
        with backing.open("wb") as file:
            file.truncate(size)
    disk = LoopDisk(attach(backing, *flags), backing)
    try:
        yield disk
    finally:
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if line.startswith(disk.path):
                subprocess.run(["umount", line.split()[1]], check=False)
        for swap in Path("/proc/swaps").read_text().splitlines():
            if swap.startswith(disk.path):
                subprocess.run(["swapoff", swap.split()[0]], check=False)
        subprocess.run(["partx", "--delete", disk.path], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", disk.path], check=False)


def attach(backing: Path, *flags: str) -> str:
    """Return the loop device of `backing`; another process may take the free one before us."""
    said = ""
    for _ in range(_ATTACH_TRIES):
        done = subprocess.run(
            ["losetup", "--find", "--show", *flags, backing],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout.strip()
        said = done.stderr
        time.sleep(0.05)
    raise AssertionError(said)


@dataclass(frozen=True)
class FolderImage:
    """A folder as image: copied by cp, compared entry by entry."""

    source: Path
    plain_bytes: int = 0
    realm_id: str = "realm"
    kept_bytes: int = 0
    node_name: str = "node"

    def paths(self) -> Iterable[str]:
        return (str(path.relative_to(self.source)) for path in self.source.rglob("*"))

    def restore(self, target: Path, observer: Observer) -> FillResult:  # noqa: ARG002
        sh("cp", "--archive", f"{self.source}/.", target)
        paths = list(self.source.rglob("*"))
        size = sum(each.stat().st_size for each in paths if each.is_file())
        return FillResult(entries=len(paths), plain_bytes=size)

    def verify(
        self, target: Path, *, ignored: frozenset[str], extra: frozenset[str]
    ) -> Sequence[str]:
        wanted, found = described(self.source), described(target)
        lines = [f"missing: {path}" for path in wanted.keys() - found.keys() - ignored]
        lines += [f"extra: {path}" for path in found.keys() - wanted.keys() - extra - ignored]
        both = wanted.keys() & found.keys() - ignored
        return lines + [f"differs: {path}" for path in both if wanted[path] != found[path]]


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Return what stands beneath `root`: path -> type, mode, owner, times, content."""
    found = {}
    for path in [root, *root.rglob("*")]:
        now = path.lstat()
        content: object = None
        if stat.S_ISLNK(now.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(now.st_mode):
            content = path.read_bytes()
        facts = (now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns, content)
        found[str(path.relative_to(root))] = facts
    return found


def make_tree(folder: Path) -> Path:
    """Make a small system tree: owners, modes, links, times, a fstab of another machine."""
    (folder / "etc").mkdir(parents=True)
    (folder / "home/user").mkdir(parents=True)
    (folder / "etc/fstab").write_text("UUID=old / ext4 defaults 0 1\nnas:/x /mnt nfs rw 0 0\n")
    (folder / "etc/machine-id").write_text("0" * 32 + "\n")
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 gold\n")
    (folder / "home/user/data").write_bytes(os.urandom(3 * MIB))
    os.chown(folder / "home/user/data", 1234, 4321)
    (folder / "home/user/data").chmod(0o4711)
    (folder / "home/user/link").symlink_to("../nowhere")
    os.mkfifo(folder / "home/fifo")
    os.utime(folder / "home/user", ns=(1, 1_600_000_000_123_456_789))
    return folder
