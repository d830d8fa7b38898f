"""How much memory nodectl takes for large inputs: a sparse 20 GB image, and a million small files.

    .venv/bin/python bench/memory.py                      # all of it: minutes, and 12 GB of disk
    .venv/bin/python bench/memory.py --input files --files 100000

Each input is captured, captured again, restored, compared, and restored again over what stands
there. A result is one JSON line on stdout for each of these, of all processes of the command:
`hwm_bytes` is the highest resident set that the kernel saw of any one of them (VmHWM), `pss_bytes`
the highest sampled sum of them all, in which a page that n processes share counts 1/n for each.
Status 1: one of the sums is above the limit for its input.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import DEFAULT_NODECTL, REPOSITORY, Failed, command_words, emit, family, machine, say

sys.path.insert(0, str(REPOSITORY))

from nodectl.units import parse_size

_SAMPLE_S = 0.1
_ISLAND = 1 << 20  # bytes of data in each stretch of the sparse input
_STRETCH = 32 << 20
_FILES_IN_FOLDER = 500
LIMITS = {"tree": 200 << 20, "block": 200 << 20, "files": 600 << 20}  # bytes


def make_sparse(path: Path, size: int) -> None:
    """Make a file of `size` bytes with 1 MiB of data that does not shrink in every 32."""
    rng = random.Random(1)
    with path.open("wb") as file:
        for begin in range(0, size, _STRETCH):
            file.seek(begin)
            file.write(rng.randbytes(_ISLAND))
        file.truncate(size)


def make_files(top: Path, count: int) -> None:
    """Make `count` files of some bytes each, no two of them the same."""
    for begin in range(0, count, _FILES_IN_FOLDER):
        folder = top / f"d{begin // _FILES_IN_FOLDER // 50:03}" / f"e{begin:07}"
        folder.mkdir(parents=True)
        for number in range(begin, min(count, begin + _FILES_IN_FOLDER)):
            (folder / f"file-{number}.txt").write_bytes(b"%d of a million\n" % number)


def _kib(path: str, name: str) -> int:
    """Return a figure of a file below /proc, in bytes; 0 when the process has gone."""
    try:
        for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def watched(argv: Sequence[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end; return seconds and memory.

    Raises:
        Failed: its status is not 0.
    """
    began = time.monotonic()
    hwm: dict[int, int] = {}
    pss = 0
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=log)
        while process.poll() is None:
            pids = family([process.pid])
            for pid in pids:
                hwm[pid] = max(hwm.get(pid, 0), _kib(f"/proc/{pid}/status", "VmHWM:"))
            pss = max(pss, sum(_kib(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids))
            time.sleep(_SAMPLE_S)
        if process.returncode:
            log.seek(0)
            raise Failed(f"{argv}: {log.read()[-2000:].decode(errors='replace')}")
    return {
        "seconds": round(time.monotonic() - began, 1),
        "processes": len(hwm),
        "hwm_bytes": max(hwm.values(), default=0),
        "pss_bytes": pss,
    }


def commands(kind: str, source: Path, target: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield what is done with an input, in order."""
    verb, option = ("capture-block", "--device") if kind == "block" else ("capture", "--tree")
    capture = ("image", verb, kind, option, str(source))
    restore = ("image", "restore", kind, str(target), "--yes")
    yield "capture", capture
    yield "capture again", capture
    yield "restore", restore
    yield "verify", ("image", "verify", kind, "--against", str(target))
    yield "restore in place", restore


def prepare(kind: str, place: Path, sparse: int, files: int) -> tuple[Path, Path]:
    """Make an input; return it and the target for its restores."""
    source, target = place / "source", place / "target"
    if kind == "block":
        make_sparse(source, sparse)
    else:
        source.mkdir()
        target.mkdir()
        if kind == "tree":
            make_sparse(source / "sparse", sparse)
        else:
            make_files(source, files)
    return source, target


def measure(kind: str, place: Path, args: argparse.Namespace) -> list[str]:
    """Do all with one input, which is removed again; return what took more than the limit."""
    above = []
    words = command_words(args.nodectl)
    own = {"PYTHONPATH": str(REPOSITORY), "NODECTL_STATE": str(place / "state")}
    environment = {**os.environ, **own}
    size = {"files": args.files} if kind == "files" else {"plain_bytes": args.sparse}
    place.mkdir()
    say(f"{kind}: making the input")
    source, target = prepare(kind, place, args.sparse, args.files)
    watched([*words, "init", "--realm", "bench"], environment)
    for work, command in commands(kind, source, target):
        found = watched([*words, *command], environment)
        emit({"input": kind, "work": work, **size, **found, **machine()})
        if found["pss_bytes"] > LIMITS[kind]:
            above.append(f"{work} of {kind}")
    subprocess.run(["rm", "-rf", place], check=True)
    return above


def main() -> None:
    """Measure; end with status 1 when something took more than its limit."""
    parser = argparse.ArgumentParser(description="Measure the memory of capture and restore.")
    parser.add_argument("--input", choices=tuple(LIMITS), action="append", help="only these")
    parser.add_argument("--sparse", type=parse_size, default="20G")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--scratch", type=Path, help="where to write (default: $TMPDIR or /tmp)")
    parser.add_argument("--nodectl", default=DEFAULT_NODECTL, help="how to call nodectl")
    args = parser.parse_args()
    above = []
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-", dir=args.scratch) as folder:
        for kind in args.input or LIMITS:
            above += measure(kind, Path(folder) / kind, args)
    say(f"above the limit: {', '.join(above) or 'nothing'}")
    sys.exit(1 if above else 0)


if __name__ == "__main__":
    main()
