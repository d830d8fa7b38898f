"""`nodectl bench`: what this machine can do."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.progress import observer_for

if TYPE_CHECKING:
    from nodectl.node.bench import BenchResult


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(bench)


def bench(
    work: Annotated[
        Path, typer.Option("--work", metavar="DIR", help="A folder on the disk to measure.")
    ] = Path("/var/tmp"),  # noqa: S108 - a nameless file is made in it
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Measure hashing, compressing, sealing, the disk and loopback, in under a minute.

    Run it on two nodes to tell a slow disk from a slow network: a push or a restore goes as fast as
    the slowest of what it needs, and nodectl swarm status shows how fast one goes. Nothing is left
    behind. In JSON, rates are bytes a second of plain data.

    Exit codes: 0, 10 no such folder, 12 too little space to measure the disk.
    """
    from nodectl.node.bench import BenchOptions, run_bench

    result = run_bench(BenchOptions(folder=work), observer_for(json_lines=json_output))
    print(json.dumps(result.to_json()) if json_output else _text(result))


def _text(result: "BenchResult") -> str:
    from nodectl.cli.table import table
    from nodectl.node.bench import advice
    from nodectl.units import format_size

    def rate(value: float | None) -> str:
        return "" if value is None else f"{format_size(int(value))}/s"

    rows = [
        ("hash (BLAKE3)", rate(result.hash_one), rate(result.hash_all)),
        ("compress (zstd 3)", rate(result.compress_one), ""),
        ("seal: all that a capture does", rate(result.seal_one), rate(result.seal_all)),
        ("open: all that a restore does", rate(result.open_one), rate(result.open_all)),
        (f"disk of {result.folder}: write", rate(result.disk_write), ""),
        (f"disk of {result.folder}: read", rate(result.disk_read), ""),
        ("disk: 4 KiB durable", f"{result.disk_sync_ms:.2f} ms", ""),
        ("loopback, one connection", rate(result.loopback), ""),
    ]
    cores = "1 CORE" if result.cores == 1 else f"{result.cores} CORES"
    lines = [table(("WHAT", "ONE", cores), rows), "", *advice(result)]
    return "\n".join(lines)
