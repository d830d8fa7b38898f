"""Trees for tests: one that holds everything a Unix tree can hold, and ways to look at one."""

import os
import socket
import subprocess
from pathlib import Path

NS = 1_234_567_891


def make_everything(tree: Path) -> None:
    """Fill `tree` with all kinds of entries that this user may make."""
    _make_files(tree)
    _make_sparse_files(tree)
    _make_attributes(tree)
    if os.geteuid() == 0:
        _make_what_only_root_can(tree)
    for path in sorted(tree.rglob("*"), reverse=True):
        os.utime(path, ns=(NS, hash_of(path) % 2**61 + 7), follow_symlinks=False)
    os.utime(tree / "a" / "x", ns=(0, -5_000_000_001))  # before 1970
    os.utime(tree, ns=(NS, NS))


def _make_files(tree: Path) -> None:
    (tree / "deep" / "er" / "est").mkdir(parents=True)
    (tree / "empty-dir").mkdir(mode=0o1777)
    (tree / "a" / "x").mkdir(parents=True)
    (tree / "a-b").mkdir()  # stands after a/x in tree order, before it by plain string order
    (tree / "a-b" / "f").write_text("a-b")
    (tree / "empty").write_bytes(b"")
    (tree / "small").write_bytes(b"hello")
    (tree / "one-chunk").write_bytes(bytes(range(256)) * 4096)
    (tree / "chunk-and-one").write_bytes(os.urandom((1 << 20) + 1))
    (tree / "large").write_bytes(os.urandom(5 << 20))
    (tree / "same-as-small").write_bytes(b"hello")
    (tree / "deep" / "er" / "est" / "text").write_text("text\n" * 1000)
    os.link(tree / "small", tree / "deep" / "hard-link")
    os.link(tree / "large", tree / "a" / "hard-large")
    (tree / "link").symlink_to("small")
    (tree / "dangling").symlink_to("/no/such/place")
    (tree / "link-to-dir").symlink_to("deep")
    os.mkfifo(tree / "fifo", 0o640)
    (tree / os.fsdecode(b"not-utf8-\xff\xfe")).write_bytes(b"odd name")
    (tree / "new\nline and 'quotes' \t\x01").write_bytes(b"odd")
    (tree / ("n" * 255)).write_bytes(b"long name")
    with socket.socket(socket.AF_UNIX) as one:
        # A path of a socket has 108 bytes; through the descriptor it always fits.
        fd = os.open(tree, os.O_RDONLY)
        one.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)


def _make_sparse_files(tree: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle" * 1000)
        file.seek(40 << 20)
        file.write(b"end")
    with (tree / "all-hole").open("wb") as file:
        file.truncate(10 << 20)
    with (tree / "hole-at-end").open("wb") as file:
        file.write(b"x" * 10000)
        file.truncate(9 << 20)


def _make_attributes(tree: Path) -> None:
    (tree / "same-as-small").chmod(0o400)
    (tree / "one-chunk").chmod(0o4755)
    os.setxattr(tree / "small", "user.colour", b"blue\0green")
    os.setxattr(tree / "deep", "user.dir", b"d")
    os.setxattr(tree / "large", "user.empty", b"")


def _make_what_only_root_can(tree: Path) -> None:
    os.mknod(tree / "char", 0o020640, os.makedev(1, 3))
    os.mknod(tree / "block", 0o060600, os.makedev(7, 200))
    os.chown(tree / "deep", 1234, 5678)
    os.chown(tree / "link", 4321, 8765, follow_symlinks=False)
    os.chown(tree / "chunk-and-one", 4_000_000_000, 70_000)
    (tree / "chunk-and-one").chmod(0o6711)
    subprocess.run(["setcap", "cap_net_raw+ep", tree / "one-chunk"], check=True)
    subprocess.run(["setfacl", "-m", "u:1111:rwx,g:2222:r", tree / "large"], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:3333:rx", tree / "deep" / "er"], check=True)


def hash_of(path: Path) -> int:
    """Return a number that is the same in each run."""
    return int.from_bytes(os.fsencode(path.name)[:7], "little")


def rsync_differences(left: Path, right: Path) -> list[str]:
    """Compare two trees with another tool: owner, mode, time, content, links, ACLs, xattrs."""
    root = os.geteuid() == 0
    done = subprocess.run(
        [
            "rsync",
            "-rlptD" + ("ogAX" if root else "") + "HniS",
            "--delete",
            "--checksum",
            "--numeric-ids",
            "--exclude=/socket",
            "--filter=-x trusted.SGI_ACL_*",  # how XFS shows root an ACL a second time
            f"{left}/",
            f"{right}/",
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return done.stdout.decode("utf-8", "backslashreplace").splitlines()
