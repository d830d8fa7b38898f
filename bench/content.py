"""Capture, capture again and restore one tree, with nodectl and with what people use today.

    .venv/bin/python bench/content.py --tree /usr/share --runs 3

Every tool works on the same tree, in the same call, on the same file system, one after the other in
each round. The tree is read once before (page cache warm); what was written before is synced before
each measurement; repositories are made outside of it. Each tool syncs or does not sync its own
output as it does by default: tar, zstd and rsync do not, restic, borg and nodectl do.

A result is one JSON line on stdout: the median of the rounds by wall clock. After each restore
the entries and bytes of the copy are compared with the tree's.
"""

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import (
    DEFAULT_NODECTL,
    REPOSITORY,
    Failed,
    Tree,
    Usage,
    command_words,
    emit,
    look,
    machine,
    pipeline,
    say,
    size_on_disk,
)

WORKS = ("capture", "recapture", "restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One pipeline to measure."""

    stages: Sequence[Sequence[str]]
    stdout: Path | None = None
    cwd: Path | None = None


class Tool:
    """One way to keep a tree. `place` is an empty folder of its own; `kept` is what it fills."""

    name = ""
    needs: Sequence[str] = ()  # programs

    def __init__(self, tree: Path, place: Path) -> None:
        self.tree = tree
        self.place = place
        self.kept = place / "kept"
        self.env: dict[str, str] = {}

    def prepare(self) -> Sequence[Sequence[str]]:
        """Return what must run before, not measured."""
        return ()

    def capture(self) -> Command:
        """Return the command that keeps the tree."""
        raise NotImplementedError

    def recapture(self) -> Command | None:
        """Return the command that keeps it again with nothing changed; None: it has no such."""
        return self.capture()

    def restore(self, target: Path) -> Command:
        """Return the command that brings the tree back into the empty folder `target`."""
        raise NotImplementedError

    def restored(self, target: Path) -> Path:
        """Return where below `target` the tree's top is."""
        return target


class TarZstd(Tool):
    """`tar | zstd -3 -T0`: no metadata beyond the plain, no checks, no second version."""

    name = "tar-zstd"
    needs = ("tar", "zstd")

    def capture(self) -> Command:
        tar = ("tar", "--create", "--one-file-system", f"--directory={self.tree}", ".")
        return Command(stages=(tar, ("zstd", "-3", "-T0", "--quiet", "--stdout")), stdout=self.kept)

    def recapture(self) -> None:
        return None

    def restore(self, target: Path) -> Command:
        tar = ("tar", "--extract", "--preserve-permissions", f"--directory={target}")
        return Command(stages=(("zstd", "-d", "--stdout", "--quiet", str(self.kept)), tar))


class Rsync(Tool):
    """`rsync -a`, local: both sides on this machine."""

    name = "rsync"
    needs = ("rsync",)

    def _copy(self, source: Path, target: Path) -> Command:
        return Command(
            stages=(("rsync", "--archive", "--one-file-system", f"{source}/", f"{target}/"),)
        )

    def capture(self) -> Command:
        return self._copy(self.tree, self.kept)

    def restore(self, target: Path) -> Command:
        return self._copy(self.kept, target)


class Restic(Tool):
    """restic, encrypted and compressed as it is by default, cache in its place."""

    name = "restic"
    needs = ("restic",)

    def _restic(self, *words: str) -> tuple[str, ...]:
        return (
            "restic",
            f"--repo={self.kept}",
            f"--password-file={self.place / 'password'}",
            f"--cache-dir={self.place / 'cache'}",
            "--quiet",
            *words,
        )

    def prepare(self) -> Sequence[Sequence[str]]:
        (self.place / "password").write_text("bench\n", encoding="ascii")
        return (self._restic("init"),)

    def capture(self) -> Command:
        return Command(stages=(self._restic("backup", "--one-file-system", "."),), cwd=self.tree)

    def restore(self, target: Path) -> Command:
        return Command(stages=(self._restic("restore", "latest", f"--target={target}"),))

    def restored(self, target: Path) -> Path:
        # restic 0.14 keeps "." as the folder's content; older and newer ones the whole path
        whole = target / self.tree.relative_to("/")
        return whole if whole.is_dir() and len(list(target.iterdir())) == 1 else target


class Borg(Tool):
    """borg, authenticated encryption (repokey-blake2), zstd 3; its cache in its place."""

    name = "borg"
    needs = ("borg",)

    def __init__(self, tree: Path, place: Path) -> None:
        super().__init__(tree, place)
        self.archives = 0
        self.env = {
            "BORG_BASE_DIR": str(place / "base"),
            "BORG_PASSPHRASE": "bench",
            "BORG_EXIT_CODES": "modern",
        }

    def prepare(self) -> Sequence[Sequence[str]]:
        return (("borg", "init", "--encryption=repokey-blake2", str(self.kept)),)

    def capture(self) -> Command:
        self.archives += 1
        archive = f"{self.kept}::{self.archives}"
        options = ("--compression=zstd,3", "--one-file-system")
        return Command(stages=(("borg", "create", *options, archive, "."),), cwd=self.tree)

    def restore(self, target: Path) -> Command:
        return Command(stages=(("borg", "extract", f"{self.kept}::{self.archives}"),), cwd=target)


class Nodectl(Tool):
    """This program, through its command line."""

    name = "nodectl"
    command: Sequence[str] = ()

    def __init__(self, tree: Path, place: Path) -> None:
        super().__init__(tree, place)
        self.state = place / "state"
        self.kept = self.state / "store"
        self.env = {"PYTHONPATH": str(REPOSITORY), "HOME": str(place)}

    def _nodectl(self, *words: str) -> tuple[str, ...]:
        return (*self.command, *words, "--state", str(self.state))

    def prepare(self) -> Sequence[Sequence[str]]:
        return (self._nodectl("init", "--realm", "bench"),)

    def capture(self) -> Command:
        return Command(
            stages=(self._nodectl("image", "capture", "bench", "--tree", str(self.tree)),)
        )

    def restore(self, target: Path) -> Command:
        return Command(stages=(self._nodectl("image", "restore", "bench", str(target)),))


TOOLS: dict[str, type[Tool]] = {tool.name: tool for tool in (Nodectl, TarZstd, Rsync, Restic, Borg)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement."""

    usage: Usage
    kept_bytes: int


def one_round(tool: Tool, works: Sequence[str], expected: Tree) -> dict[str, Sample]:
    """Capture, capture again, restore, as far as `works` asks for; returns what each took."""
    samples: dict[str, Sample] = {}
    for argv in tool.prepare():
        pipeline((argv,), env=tool.env)

    def measured(work: str, command: Command | None) -> None:
        if command is None:
            return
        os.sync()
        usage = pipeline(
            command.stages, stdout=command.stdout, cwd=command.cwd or tool.place, env=tool.env
        )
        samples[work] = Sample(usage=usage, kept_bytes=size_on_disk(tool.kept))
        say(f"  {work} {tool.name}: {usage.seconds:.2f} s")

    measured("capture", tool.capture())
    if "recapture" in works:
        measured("recapture", tool.recapture())
    if "restore" in works:
        target = tool.place / "target"
        target.mkdir()
        measured("restore", tool.restore(target))
        found = look(tool.restored(target))
        if found != expected:
            raise Failed(f"{tool.name} brought back {found}, and the tree is {expected}")
    return {work: sample for work, sample in samples.items() if work in works}


def row(work: str, tool: str, samples: Sequence[Sample], tree: Tree) -> dict[str, Any]:
    """Return the JSON object for one work of one tool: medians; memory: the highest."""
    return {
        "work": work,
        "tool": tool,
        "seconds": round(statistics.median(s.usage.seconds for s in samples), 3),
        "cpu_s": round(statistics.median(s.usage.cpu_s for s in samples), 3),
        "max_rss_bytes": max(s.usage.max_rss_bytes for s in samples),
        "sum_rss_bytes": max(s.usage.sum_rss_bytes for s in samples),
        "plain_bytes": tree.plain_bytes,
        "sealed_bytes": samples[-1].kept_bytes,
        "entries": tree.entries,
        "runs": [round(s.usage.seconds, 3) for s in samples],
        "page_cache": "warm",
        **machine(),
    }


def missing(name: str) -> str:
    """Return which program the tool lacks, or nothing."""
    needs = TOOLS[name].needs or Nodectl.command[:1]
    return next((program for program in needs if not shutil.which(program)), "")


@dataclass(slots=True)
class Results:
    """What the rounds have shown so far."""

    samples: dict[tuple[str, str], list[Sample]]  # by work and tool
    failures: dict[str, str]  # by tool: the first thing that went wrong

    def line(self, work: str, name: str, tree: Tree) -> dict[str, Any]:
        """Return the JSON object for one work of one tool."""
        if name in self.failures:
            return {"work": work, "tool": name, "error": self.failures[name]}
        if (work, name) not in self.samples:
            return {"work": work, "tool": name, "skipped": "it has no such work"}
        return row(work, name, self.samples[work, name], tree)


def one_place(name: str, args: argparse.Namespace, folder: Path, tree: Tree, to: Results) -> None:
    """Run one round of one tool in a folder of its own, and remove that."""
    place = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder))
    try:
        samples = one_round(TOOLS[name](args.tree, place), args.work, tree)
    except Failed as failed:
        to.failures[name] = str(failed)
        say(f"  {name} failed: {failed}")
    else:
        for work, sample in samples.items():
            to.samples.setdefault((work, name), []).append(sample)
    finally:
        shutil.rmtree(place)


def measure_all(args: argparse.Namespace, folder: Path, tree: Tree) -> int:
    """Run the rounds, tool after tool in each; print the results. Returns how many tools failed."""
    lacking = {name: missing(name) for name in args.tool}
    tools = [name for name in args.tool if not lacking[name]]
    results = Results({}, {})
    for number in range(args.runs):
        say(f"round {number + 1} of {args.runs}")
        for name in tools:
            if name not in results.failures:
                one_place(name, args, folder, tree, results)
    for name in args.tool:
        if lacking[name]:
            emit({"tool": name, "skipped": f"{lacking[name]} is not installed"})
    for work in args.work:
        for name in tools:
            emit(results.line(work, name, tree))
    return len(results.failures)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")

    def names(allowed: Sequence[str]) -> Any:  # noqa: ANN401 - argparse wants a callable
        def parse(text: str) -> list[str]:
            words = text.split(",")
            if unknown := set(words) - set(allowed):
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
            return words

        return parse

    parser.add_argument("--tree", type=Path, required=True, help="the tree to work on; only read")
    parser.add_argument("--work", type=names(WORKS), default=list(WORKS), help=",".join(WORKS))
    parser.add_argument("--tool", type=names(tuple(TOOLS)), default=list(TOOLS), help="of these")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scratch", type=Path, help="where to write (default: $TMPDIR or /tmp)")
    parser.add_argument("--nodectl", default=DEFAULT_NODECTL, help="how to call nodectl")
    parser.add_argument("--json", action="store_true", help="nothing but results, not even stderr")
    args = parser.parse_args()
    if not args.tree.is_dir():
        parser.error(f"{args.tree} is not a folder")
    args.tree = args.tree.resolve()
    return args


def main() -> None:
    """Measure and end with status 0 when every tool that was there worked."""
    args = arguments()
    if args.json:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - to the end
    Nodectl.command = command_words(args.nodectl)
    say(f"reading {args.tree} once")
    tree = look(args.tree, read=True)
    say(f"{tree.entries} entries, {tree.plain_bytes} bytes")
    with tempfile.TemporaryDirectory(prefix="nodectl-bench-", dir=args.scratch) as folder:
        failed = measure_all(args, Path(folder), tree)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
