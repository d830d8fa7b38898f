"""Make a tree to measure with: the same bytes for the same seed, or a part of this system.

    .venv/bin/python bench/tree.py /tmp/tree --bytes 200M               # made up, has everything
    .venv/bin/python bench/tree.py /tmp/tree --from /usr --bytes 1700M   # a part of what is here

The made-up tree has what a Unix tree can have: sizes as on a real system (most files small, most
bytes in large ones), hard links, links that dangle, holes, empty files and folders, names that are
not UTF-8, odd modes, times in nanoseconds, user attributes; and as root owners, a device, a fifo,
file capabilities and an ACL.
"""

import argparse
import contextlib
import os
import random
import shutil
import stat
import struct
import sys
import zlib
from pathlib import Path

from measure import REPOSITORY, look, say, walk

sys.path.insert(0, str(REPOSITORY))

from nodectl.units import parse_size

_WORDS = b"the of node disk image swarm chunk frame store kernel boot module library system".split()
_EPOCH_NS = 1_700_000_000_123_456_789
_PARTS = 1000


def _content(rng: random.Random, size: int) -> bytes:
    """Return bytes of which about half shrink: words or noise, in pieces of 4 KiB."""
    pieces = []
    for start in range(0, size, 4096):
        length = min(4096, size - start)
        if rng.random() < 0.5:
            pieces.append(rng.randbytes(length))
        else:
            pieces.append(b" ".join(rng.choices(_WORDS, k=length // 2))[:length].ljust(length))
    return b"".join(pieces)


def _size(rng: random.Random) -> int:
    """Return a file's size: log-normal around 3 KiB, now and then megabytes."""
    if rng.random() < 0.004:
        return rng.randrange(1 << 20, 16 << 20)
    return min(int(rng.lognormvariate(8, 1.8)), 1 << 20)


def _odd_ones(top: Path) -> None:
    """Put in one of each that a tree can have beside plain files."""
    odd = top / "odd"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "empty-folder").mkdir(mode=0o700)
    (odd / "dangling").symlink_to("../nowhere/to be found")
    (odd / "set-uid").write_bytes(b"#!/bin/true\n")
    (odd / "set-uid").chmod(0o4755)
    (odd / "sticky").mkdir()
    (odd / "sticky").chmod(0o1777)
    Path(os.fsdecode(os.fsencode(odd) + b"/not-utf8-\xff\xfe")).write_bytes(b"name\n")
    (odd / "new\nline and 'quotes'").write_bytes(b"name\n")
    (odd / ("n" * 255)).write_bytes(b"name\n")
    (odd / "one").write_bytes(b"linked\n")
    (odd / "two").hardlink_to(odd / "one")
    with (odd / "holes").open("wb") as file:
        file.seek(32 << 20)
        file.write(b"island")
        file.truncate(64 << 20)
    os.mkfifo(odd / "fifo")
    with contextlib.suppress(OSError):  # a file system without user attributes
        os.setxattr(odd / "one", "user.comment", b"a \0 comment")


def _roots_ones(top: Path) -> None:
    """Put in what only root can make."""
    odd = top / "odd"
    os.mknod(odd / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (odd / "owned").write_bytes(b"owned\n")
    os.chown(odd / "owned", 1234, 5678)
    # vfs_cap_data revision 2 (linux/capability.h): cap_net_raw (bit 13), permitted and effective.
    capability = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
    # posix_acl_xattr version 2: tag, permissions, id; user 1234 may read.
    anybody = 0xFFFFFFFF
    entries = ((1, 6, anybody), (2, 4, 1234), (4, 4, anybody), (16, 4, anybody), (32, 0, anybody))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    with contextlib.suppress(OSError):  # a file system without them
        os.setxattr(odd / "set-uid", "security.capability", capability)
        os.setxattr(odd / "owned", "system.posix_acl_access", acl)


def make(top: Path, size: int, seed: int) -> None:
    """Make a tree of about `size` plain bytes."""
    rng = random.Random(seed)
    top.mkdir(parents=True)
    written = number = 0
    while written < size:
        folder = top / f"d{number // 2000:03}" / f"e{number // 40 % 50:02}"
        folder.mkdir(parents=True, exist_ok=True)
        data = _content(rng, min(_size(rng), size - written))
        (folder / f"file-{number}").write_bytes(data)
        written += len(data)
        number += 1
    _odd_ones(top)
    if os.geteuid() == 0:
        _roots_ones(top)
    paths = sorted((os.fsencode(path) for path, _ in walk(top)), reverse=True)
    paths.append(os.fsencode(top))
    for number, path in enumerate(paths):  # deepest first: a folder's time is set after its content
        time_ns = _EPOCH_NS + number * 1_000_000_007
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def take(top: Path, source: Path, size: int) -> None:
    """Copy about `size` bytes of `source`: the same part of the files whenever the source is."""
    share = min(_PARTS, _PARTS * size // max(1, look(source).plain_bytes))
    top.mkdir(parents=True)
    for path, info in walk(source):
        target = top / os.path.relpath(path, source)
        if stat.S_ISDIR(info.st_mode):
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(stat.S_IMODE(info.st_mode) | 0o700)
        elif zlib.crc32(os.fsencode(target.relative_to(top))) % _PARTS >= share:
            continue
        elif stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode):
            shutil.copy2(path, target, follow_symlinks=False)
            if os.geteuid() == 0:
                os.chown(target, info.st_uid, info.st_gid, follow_symlinks=False)


def main() -> None:
    """Parse, make, and say what was made."""
    parser = argparse.ArgumentParser(description="Make a tree to measure with.")
    parser.add_argument("top", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--bytes", type=parse_size, default="200M", help="plain bytes, about")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--from", dest="source", type=Path, help="copy a part of this folder")
    args = parser.parse_args()
    if args.top.exists():
        parser.error(f"{args.top} exists")
    if args.source:
        take(args.top, args.source.resolve(), args.bytes)
    else:
        make(args.top, args.bytes, args.seed)
    say(f"{args.top}: {look(args.top)}")


if __name__ == "__main__":
    main()
