"""Fuzz every parser of `fuzz_targets.py` with atheris (libFuzzer), for a bounded time.

    python -m pip install atheris
    python tests/fuzz/run.py --minutes 30                 # all, each its share of the time
    python tests/fuzz/run.py --minutes 5 --only token,mac

The corpus is kept outside of the tree (--corpus), so that the next run goes on from it. Prints one
JSON line for each target: executions, corpus files and bytes, covered edges, findings. An input
that made a parser fail is kept in CORPUS/findings, named by its target; the exit code is 1 then.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_RSS_MB = 1024
_INPUT_MAX = 8192  # bytes
_STATE = re.compile(r"cov: (\d+)")
_DONE = re.compile(r"Done (\d+) runs")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description="Fuzz the parsers.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--corpus", type=Path, default=Path.home() / ".cache/nodectl-fuzz")
    parser.add_argument("--only", default="", help="targets, with commas between")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if given.child:
        return _fuzz(given.child, rest)
    import fuzz_targets

    names = given.only.split(",") if given.only else list(fuzz_targets.TARGETS)
    unknown = sorted(set(names) - set(fuzz_targets.TARGETS))
    if unknown:
        parser.error(f"no target is named {', '.join(unknown)}")
    seconds = max(1, int(given.minutes * 60 / len(names)))
    failed = 0
    for name in names:
        failed += _run(name, fuzz_targets.TARGETS[name].seeds, given.corpus, seconds)
    return 1 if failed else 0


def _run(name: str, seeds: tuple[bytes, ...], corpus: Path, seconds: int) -> int:
    """Fuzz one target in a process of its own; say what came of it."""
    folder, findings = corpus / name, corpus / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    argv = [
        sys.executable, __file__, "--child", name, str(folder), f"-max_total_time={seconds}",
        f"-max_len={_INPUT_MAX}", f"-rss_limit_mb={_RSS_MB}", "-timeout=120",
        f"-artifact_prefix={findings / name}-", "-print_final_stats=1",
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 300, check=False)
    files = [path for path in folder.iterdir() if path.is_file()]
    covered = _STATE.findall(done.stderr)
    runs = _DONE.findall(done.stderr)
    result = {
        "target": name,
        "seconds": seconds,
        "executions": int(runs[-1]) if runs else None,
        "covered": int(covered[-1]) if covered else None,
        "corpus_files": len(files),
        "corpus_bytes": sum(path.stat().st_size for path in files),
        "findings": len(list(findings.glob(f"{name}-*"))),
        "exit": done.returncode,
    }
    print(json.dumps(result), flush=True)
    if done.returncode:
        said = [*done.stdout.splitlines()[-20:], *done.stderr.splitlines()[-20:]]
        print("\n".join(said), file=sys.stderr, flush=True)
    return int(done.returncode != 0)


def _fuzz(name: str, arguments: list[str]) -> int:
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: python -m pip install atheris", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["nodectl"]):
        import fuzz_targets
    atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[name].try_bytes)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    raise SystemExit(main())
