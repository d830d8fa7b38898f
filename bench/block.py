"""Block images against `zstd` and `dd`, and what an update of one sends. Same input, same run.

    python bench/block.py [--size 2G] [--work DIR]

Prints one JSON line for each figure: seconds (median of runs), CPU seconds, MB/s of plain data,
ratio to the rival. Needs root for the device and for the in-place upgraded image (it is mounted),
zstd and mkfs.ext4.

A restore reads back and compares what it wrote, after it is durable and dropped from memory; the
rival does not. So two ratios stand beside each other: to `zstd -d | dd conv=fsync` alone, which is
what a user waits for today, and to the same followed by `cmp`, which is the same work.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measure import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from nodectl.units import parse_size

RUNS = 3


def nodectl(state: Path, *words: str) -> dict[str, Any]:
    """Run a command; return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "nodectl", *words, "--json"],
        env={**os.environ, "NODECTL_STATE": str(state), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"nodectl {' '.join(words)}: {done.stderr.decode()[-2000:]}")
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


class Took(NamedTuple):
    """What a work took, wall clock and CPU of all its processes."""

    seconds: float
    cpu_s: float


def timed(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> Took:
    """Return the median run by wall clock."""
    return statistics.median_low(_once(work, before) for _ in range(RUNS))


def alternating(
    works: dict[str, Callable[[], object]], before: Callable[[], object]
) -> dict[str, Took]:
    """Return the median run of each work; they take turns, so that all meet the same machine."""
    rounds = [{name: _once(work, before) for name, work in works.items()} for _ in range(RUNS)]
    return {name: statistics.median_low(one[name] for one in rounds) for name in works}


def _once(work: Callable[[], object], before: Callable[[], object]) -> Took:
    before()
    os.sync()
    usage, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime)


def say(what: str, took: Took, plain: int, **more: object) -> None:
    figures = {"seconds": round(took.seconds, 2), "cpu_s": round(took.cpu_s, 2)}
    rate = round(plain / 1e6 / took.seconds)
    print(json.dumps({"what": what, **figures, "MB/s": rate, **more}), flush=True)


def fill(path: Path, size: int) -> None:
    """Write this system's files one after the other: data that compresses as disks do."""
    rng = random.Random(1)
    files = sorted(p for p in Path("/usr").rglob("*") if p.is_file() and not p.is_symlink())
    rng.shuffle(files)
    with path.open("wb") as out:
        out.write(rng.randbytes(4096))  # or the first file says what kind of file this is
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
    capture = ("image", "capture-block", "vm", "--device", str(image))
    first = _once(lambda: nodectl(state, *capture), lambda: None)
    rival = timed(lambda: shell(f"zstd -q -3 -T0 -f {image} -o {packed}"))
    say("zstd -3 -T0", rival, size)
    say("capture, nothing known", first, size, ratio=round(first.seconds / rival.seconds, 2))
    say("capture, all known", timed(lambda: nodectl(state, *capture)), size)
    restores(work, size, work / "out", "file")
    again = timed(lambda: nodectl(state, "image", "restore", "vm", str(work / "out"), "--yes"))
    say("restore again, in place", again, size)
    (work / "out").unlink()
    if os.geteuid() == 0:
        with loop_device(work / "disk", size) as device:
            restores(work, size, device, "device")


def restores(work: Path, size: int, out: Path, kind: str) -> None:
    """Restore to a new file, or to a device whose blocks are all unused, and with the rival."""
    image, packed, state = work / "image", work / "image.zst", work / "state"
    options = "conv=fsync" if kind == "file" else "conv=fsync,notrunc"
    dd = f"zstd -q -d -c {packed} | dd of={out} bs=1M iflag=fullblock {options} status=none"

    def fresh() -> None:
        if kind == "file":
            out.unlink(missing_ok=True)
        else:
            shell(f"blkdiscard {out}")

    took = alternating(
        {
            f"zstd -d | dd to a {kind}": lambda: shell(dd),
            f"zstd -d | dd to a {kind}, then cmp": lambda: shell(
                f"{dd}; dd of={out} oflag=nocache conv=notrunc,fdatasync count=0 status=none; "
                f"cmp -n {size} {image} {out}"
            ),
            f"restore to a {kind}, read back and compared": lambda: nodectl(
                state, "image", "restore", "vm", str(out), "--yes"
            ),
        },
        fresh,
    )
    alone, compared, ours = took.values()
    for name, one in took.items():
        ratios = {
            "ratio": round(one.seconds / alone.seconds, 2),
            "ratio with cmp": round(one.seconds / compared.seconds, 2),
        }
        say(name, one, size, **(ratios if one is ours else {}))
    shell(f"cmp -n {size} {image} {out}")


@contextlib.contextmanager
def loop_device(backing: Path, size: int) -> Iterator[Path]:
    """Yield a loop device on a sparse file."""
    with backing.open("wb") as file:
        file.truncate(size)
    made = subprocess.run(
        ["losetup", "--find", "--show", backing], stdout=subprocess.PIPE, check=True
    )
    device = made.stdout.decode().strip()
    try:
        yield Path(device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        backing.unlink()


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
