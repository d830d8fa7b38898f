"""Block images against `zstd` and `dd`, and what an update of one sends. Same input, same run.

    python bench/block.py [--size 2G] [--work DIR]

Prints one JSON line for each figure: seconds (median of runs), MB/s of plain data, ratio to the
rival. Needs root for the in-place upgraded image (it is mounted), zstd and mkfs.ext4.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from nodectl.units import parse_size

RUNS = 3
REPOSITORY = Path(__file__).parents[1]


def nodectl(state: Path, *words: str) -> dict[str, Any]:
    """Run a command; return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "nodectl", *words, "--json"],
        env={**os.environ, "NODECTL_STATE": str(state), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if lines else {}


def init(state: Path) -> None:
    words = ["init", "--realm", "bench", "--node", "c", "--listen", "127.0.0.1:0"]
    subprocess.run(
        [sys.executable, "-m", "nodectl", *words],
        env={**os.environ, "NODECTL_STATE": str(state), "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def shell(line: str) -> None:
    subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True)


def timed(work, before=lambda: None) -> float:  # noqa: ANN001
    times = []
    for _ in range(RUNS):
        before()
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def say(what: str, seconds: float, plain: int, **more: object) -> None:
    rate = round(plain / 1e6 / seconds)
    print(
        json.dumps({"what": what, "seconds": round(seconds, 2), "MB/s": rate, **more}), flush=True
    )


def fill(path: Path, size: int) -> None:
    """Write this system's files one after the other: data that compresses as disks do."""
    rng = random.Random(1)
    files = sorted(p for p in Path("/usr").rglob("*") if p.is_file() and not p.is_symlink())
    rng.shuffle(files)
    with path.open("wb") as out:
        for file in itertools.cycle(files):
            data = file.read_bytes()
            out.write(data + rng.randbytes(-len(data) % 4096))  # no zeros: all of it counts
            if out.tell() >= size:
                break
        out.truncate(size)


def speed(work: Path, size: int) -> None:
    image, state, packed = work / "image", work / "state", work / "image.zst"
    fill(image, size)
    init(state)
    began = time.perf_counter()
    nodectl(state, "image", "capture-block", "vm", "--device", str(image))
    first = time.perf_counter() - began
    rival = timed(lambda: shell(f"zstd -q -3 -T0 -f {image} -o {packed}"))
    say("zstd -3 -T0", rival, size)
    say("capture, nothing known", first, size, ratio=round(first / rival, 2))
    known = timed(lambda: nodectl(state, "image", "capture-block", "vm", "--device", str(image)))
    say("capture, all known", known, size)
    out, other = work / "out", work / "other"
    into = f"dd of={other} bs=1M iflag=fullblock conv=fsync status=none"
    dd = timed(
        lambda: shell(f"zstd -q -d -c {packed} | {into}"),
        lambda: other.unlink(missing_ok=True),
    )
    say("zstd -d | dd", dd, size)
    restore = timed(
        lambda: nodectl(state, "image", "restore", "vm", str(out)),
        lambda: out.unlink(missing_ok=True),
    )
    say("restore, read back and compared", restore, size, ratio=round(restore / dd, 2))
    again = timed(lambda: nodectl(state, "image", "restore", "vm", str(out), "--yes"))
    say("restore again, in place", again, size)
    assert subprocess.run(["cmp", image, out], check=False).returncode == 0


def update(work: Path) -> None:
    """An ext4 image whose files are replaced in place, and one made anew with the same files."""
    tree, image, state, mount = work / "tree", work / "fs", work / "state2", work / "mnt"
    for path in (tree, mount):
        path.mkdir()
    rng = random.Random(2)
    for number in range(600):
        (tree / f"f{number}").write_bytes(rng.randbytes(rng.randrange(1, 2_000_000)))
    shell(f"truncate -s 1G {image} && mkfs.ext4 -q -d {tree} {image}")
    init(state)
    whole = nodectl(state, "image", "capture-block", "fs", "--device", str(image))
    changed = [tree / f"f{number}" for number in range(0, 600, 20)]
    size = 0
    for path in changed:
        data = rng.randbytes(path.stat().st_size)
        path.write_bytes(data)
        size += len(data)
    shell(f"mount -o loop {image} {mount}")
    for path in changed:  # as a package manager does: new file, then rename
        shutil.copy(path, mount / f"{path.name}.new")
        (mount / f"{path.name}.new").rename(mount / path.name)
    shell(f"umount {mount}")
    upgraded = nodectl(state, "image", "capture-block", "fs", "--device", str(image))
    image.unlink()
    shell(f"truncate -s 1G {image} && mkfs.ext4 -q -d {tree} {image}")
    rebuilt = nodectl(state, "image", "capture-block", "fs", "--device", str(image))
    mib = 1 << 20
    for what, done in (("whole", whole), ("upgraded in place", upgraded), ("rebuilt", rebuilt)):
        sent = round(done["new_bytes"] / mib, 1)
        print(
            json.dumps({"what": what, "new MiB": sent, "changed files MiB": round(size / mib, 1)})
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="2G")
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="bench-block-") as folder:
        speed(Path(folder), parse_size(options.size))
        if os.geteuid() == 0:
            update(Path(folder))


if __name__ == "__main__":
    main()
