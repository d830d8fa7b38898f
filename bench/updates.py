"""What an update sends: 30 Debian packages upgraded in a tree of 2 GiB, and in images of it.

    sudo .venv/bin/python bench/updates.py --cache DIR

Made once and kept in DIR (13 GiB; a Debian mirror and debootstrap are needed, and root): a system
with the packages of the suite alone, an ext4 image of it made by mkfs.ext4 -d, the same image with
30 packages upgraded by apt inside it, an image made anew of what is there now, and the trees of the
first two images, `a` and `b`. All is mounted in a mount namespace of its own.

Measured is what travels: a node that holds the first generation fetches the second from another
through the swarm, on loopback, and its receipt counts sealed bytes, manifests included. Beside it
stand, of the same trees and images in the same run, the floors of other ways to cut (what is new,
each piece compressed by zstd -1): whole files, 1 MiB of a file, and of an image blocks of 64 KiB
and 4 MiB; and what `rsync -a` sends, with its differences within files and zstd.
"""

import argparse
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3
from measure import REPOSITORY, emit, look, machine, say

SUITE = "bookworm"
IMAGE_BYTES = "3500M"
UUID = "6c1b5d0e-5a3f-4a57-9c7b-0f1d2b3c4d5e"
MIB = 1 << 20
# Fill the tree to 2 GiB; none of them is upgraded.
_BULK = (
    "linux-headers-cloud-amd64 build-essential libboost1.74-dev cmake python3-scipy "
    "python3-matplotlib python3-pandas git vim-nox gdb qtbase5-dev libicu-dev subversion "
    "tcl8.6-dev postgresql-15 nodejs clamav clamav-freshclam "
)
# An update of the usual size: interpreters, headers, libraries, a server or two.
_UPGRADED = (
    "apt libapt-pkg6.0 perl perl-base libperl5.36 perl-modules-5.36 python3.11 "
    "python3.11-dev python3.11-minimal libpython3.11 libpython3.11-dev libpython3.11-stdlib "
    "libpython3.11-minimal libssl3 openssl linux-libc-dev linux-kbuild-6.1 "
    "linux-compiler-gcc-12-x86 libgs10 libgs10-common libgs-common ghostscript dovecot-core mutt "
    "git-lfs libaom3 apache2-bin apache2-data libpng16-16 libarchive13 "
)
_ALONE = "NODECTL_BENCH_UNSHARED"
POLICY = "#!/bin/sh\nexit 101\n"  # no service is started inside


def sh(*argv: str | Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        words = " ".join(map(str, argv))
        raise SystemExit(
            f"{words}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done.stdout


# ---------------------------------------------------------------- what is measured


class Made:
    """The trees and images of the cache."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.built = cache / "built"
        self.a, self.b = cache / "a", cache / "b"
        self.image = cache / "a.img"
        self.upgraded = cache / "upgraded.img"
        self.rebuilt = cache / "rebuilt.img"

    def make(self) -> None:
        for name in ("built", "image", "a", "upgraded", "b", "rebuilt"):
            done = self.cache / f".{name}-done"
            if not done.exists():
                say(f"making {name}")
                getattr(self, f"_make_{name}")()
                done.touch()

    def _make_built(self) -> None:
        shutil.rmtree(self.built, ignore_errors=True)
        sh("debootstrap", "--variant=minbase", SUITE, self.built)
        with inside(self.built):
            apt(self.built, "update")
            apt(self.built, "install", *_BULK.split(), *_UPGRADED.split())
        clean(self.built)

    def _make_image(self) -> None:
        make_image(self.image, self.built)

    def _make_a(self) -> None:
        make_tree(self.a, self.image, self.cache / "mnt")

    def _make_upgraded(self) -> None:
        sh("cp", "--sparse=always", self.image, self.upgraded)
        with mounted(self.upgraded, self.cache / "mnt") as root, inside(root):
            before = versions(root)
            source = f"deb http://deb.debian.org/debian-security {SUITE}-security main\n"
            (root / "etc/apt/sources.list.d/security.list").write_text(source)
            apt(root, "update")
            apt(root, "install", "--only-upgrade", *_UPGRADED.split())
            after = versions(root)
            changed = sorted(name for name, one in after.items() if before.get(name) != one)
            (self.cache / "upgraded.json").write_text(json.dumps(changed))
            clean(root)

    def _make_b(self) -> None:
        make_tree(self.b, self.upgraded, self.cache / "mnt")

    def _make_rebuilt(self) -> None:
        make_image(self.rebuilt, self.b)


def make_tree(tree: Path, image: Path, folder: Path) -> None:
    """Copy a tree out of an image: both trees go that way, which cuts times and makes holes."""
    shutil.rmtree(tree, ignore_errors=True)
    with mounted(image, folder, "ro") as root:
        sh("rsync", "-aHAXS", "--exclude=/lost+found", f"{root}/", tree)


def make_image(path: Path, tree: Path) -> None:
    path.unlink(missing_ok=True)
    sh("mkfs.ext4", "-q", "-U", UUID, "-E", f"hash_seed={UUID}", "-d", tree, path, IMAGE_BYTES)


@contextmanager
def mounted(image: Path, folder: Path, *options: str) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    sh("mount", "-o", ",".join(("loop", *options)), image, folder)
    try:
        yield folder
    finally:
        sh("umount", folder)


@contextmanager
def inside(root: Path) -> Iterator[None]:
    """Let programs run in a tree: names resolve, /proc is there, no service starts."""
    for name in ("resolv.conf", "hosts"):
        shutil.copy(Path("/etc") / name, root / "etc" / name)
    (root / "usr/sbin/policy-rc.d").write_text(POLICY)
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    sh("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield
    finally:
        sh("umount", root / "proc")
        (root / "usr/sbin/policy-rc.d").unlink()


def apt(root: Path, *words: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    argv = ("chroot", root, "apt-get", "-q", "-y", "--no-install-recommends", *words)
    sh(*argv, env=environment)


def clean(root: Path) -> None:
    """Remove what apt keeps for itself: no image has it."""
    sh("chroot", root, "apt-get", "clean")
    for folder in ("var/lib/apt/lists", "var/log", "tmp"):
        for path in (root / folder).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def versions(root: Path) -> dict[str, str]:
    listed = sh("dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show")
    return dict(line.split("\t") for line in listed.splitlines())


# ---------------------------------------------------------------- the rivals


def contents(tree: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(tree.rglob("*")):
        if stat.S_ISREG(path.lstat().st_mode):
            yield str(path.relative_to(tree)), path.read_bytes()


def pieces_of_tree(tree: Path, size: int) -> Iterator[bytes]:
    """Yield the files, cut every `size` bytes from their start; 0: whole."""
    for _, data in contents(tree):
        yield from (data[at : at + size] for at in range(0, len(data), size)) if size else (data,)


def pieces_of_image(image: Path, size: int) -> Iterator[bytes]:
    """Yield the blocks of an image that are not all zeros."""
    zeros = bytes(size)
    with image.open("rb") as file:
        while block := file.read(size):
            if block != zeros:
                yield block


def floor(a: Iterator[bytes], b: Iterator[bytes]) -> dict[str, float]:
    """Pieces of b that are nowhere in a, raw and each compressed by zstd -1."""
    known = {blake3(data).digest() for data in a}
    compressor = zstandard.ZstdCompressor(level=1)
    raw = packed = count = 0
    for data in b:
        digest = blake3(data).digest()
        if digest not in known:
            known.add(digest)
            count += 1
            raw += len(data)
            packed += len(compressor.compress(data))
    return {"pieces": count, "raw MiB": mib(raw), "MiB": mib(packed)}


def rsync(a: Path, b: Path, work: Path) -> dict[str, float]:
    """What rsync sends to make a copy of a into b; from and to, over its own protocol."""
    copy = work / "copy"
    sh("cp", "-a", a, copy)
    words = ("--archive", "--hard-links", "--delete", "--no-whole-file", "--stats")
    said = sh("rsync", *words, "--compress", "--compress-choice=zstd", f"{b}/", f"{copy}/")
    shutil.rmtree(copy)
    sent, received = (
        int(re.search(rf"Total bytes {word}: ([\d,]+)", said)[1].replace(",", ""))  # type: ignore[index]
        for word in ("sent", "received")
    )
    return {"MiB": mib(sent), "back MiB": mib(received)}


# ---------------------------------------------------------------- nodectl


class Lab:
    """A controller that captures, and one node, as real processes."""

    def __init__(self, work: Path, stack: ExitStack) -> None:
        self._work = work
        self._stack = stack
        self.ok("c", "init", "--realm", "bench", "--node", "c", "--listen", "127.0.0.1:0")
        self._serve("c", "--controller")
        token = self.ok("c", "token", "create").strip()
        self.ok("n1", "join", "--token", token, "--name", "n1")
        self._serve("n1")

    def _start(self, node: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "nodectl", *words],
            env={
                **os.environ,
                "NODECTL_STATE": str(self._work / node),
                "PYTHONPATH": str(REPOSITORY),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ok(self, node: str, *words: str) -> str:
        process = self._start(node, *words)
        said, story = process.communicate()
        if process.returncode:
            raise SystemExit(f"nodectl {' '.join(words)}: {story[-2000:]}")
        return said

    def _serve(self, node: str, *words: str) -> None:
        listen = ("--peer-listen", "127.0.0.1:0", "--no-scrub", "--json")
        process = self._start(node, "serve", *listen, *words)
        assert process.stdout is not None
        process.stdout.readline()
        self._stack.callback(process.communicate)
        self._stack.callback(process.send_signal, signal.SIGTERM)

    def generation(self, name: str, *words: str) -> dict[str, Any]:
        """Capture, push, and return what the node fetched."""
        captured = json.loads(self.ok("c", "image", *words, "--json").splitlines()[-1])
        job = json.loads(
            self.ok("c", "swarm", "push", name, "--nodes", "n1", "--json").splitlines()[-1]
        )
        (receipt,) = (row["receipt"] for row in job["nodes"] if row["node"] == "n1")
        return {
            "MiB": mib(receipt["fetched_bytes"]),
            "of MiB": mib(receipt["sealed_bytes"]),
            "new chunks MiB": mib(captured["new_bytes"]),
        }


def mib(size: float) -> float:
    return round(size / MIB, 1)


def measure(made: Made, work: Path, compress: str) -> None:
    what = ("--compress", compress)
    changed = json.loads((made.cache / "upgraded.json").read_text())
    for name, tree in (("a", made.a), ("b", made.b)):
        found = look(tree)
        emit({"tree": name, "entries": found.entries, "MiB": mib(found.plain_bytes)})
    emit({**machine(), "packages upgraded": len(changed), "compress": compress})
    for name, size in (("whole files", 0), ("1 MiB of a file", MIB)):
        found = floor(pieces_of_tree(made.a, size), pieces_of_tree(made.b, size))
        emit({"what": f"tree: {name}, zstd -1", **found})
    emit({"what": "tree: rsync with differences and zstd", **rsync(made.a, made.b, work)})
    with ExitStack() as stack:
        lab = Lab(work, stack)
        lab.generation("tree", "capture", "tree", "--tree", str(made.a), *what)
        sent = lab.generation("tree", "capture", "tree", "--tree", str(made.b), *what)
        emit({"what": "tree: nodectl", **sent})
        for name, path in (("upgraded in place", made.upgraded), ("rebuilt", made.rebuilt)):
            image = "disk-" + name.split()[0]
            words = ("capture-block", image, *what, "--device")
            whole = lab.generation(image, *words, str(made.image))
            for kib in (64, 4096):
                cut = (pieces_of_image(one, kib << 10) for one in (made.image, path))
                emit({"what": f"image {name}: blocks of {kib} KiB, zstd -1", **floor(*cut)})
            emit({"what": f"image {name}: first generation", **whole})
            emit({"what": f"image {name}: nodectl", **lab.generation(image, *words, str(path))})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where trees and images are kept")
    parser.add_argument("--work", type=Path, help="where stores are made [the cache]")
    parser.add_argument("--compress", default="fast", choices=("fast", "best"))
    options = parser.parse_args()
    if os.environ.get(_ALONE) is None:
        # Another program's namespace would keep a copy of what is mounted here, and so the device.
        os.environ[_ALONE] = "1"
        unshare = ("unshare", "--mount", "--propagation=private", sys.executable)
        os.execvp(unshare[0], (*unshare, *sys.argv))
    options.cache.mkdir(parents=True, exist_ok=True)
    made = Made(options.cache.resolve())
    made.make()
    with tempfile.TemporaryDirectory(
        dir=options.work or made.cache, prefix="bench-updates-"
    ) as work:
        measure(made, Path(work), options.compress)


if __name__ == "__main__":
    main()
