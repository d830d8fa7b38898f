"""`nodectl demo`: the main job on one machine, with nothing to set up."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.progress import observer_for

if TYPE_CHECKING:
    from nodectl.node.demo_result import DemoResult, NodeResult


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(demo)


def demo(
    nodes: Annotated[int, typer.Option("--nodes", min=1, max=64, help="How many peers.")] = 4,
    tree: Annotated[
        Path | None,
        typer.Option("--tree", metavar="DIR", help="What to capture [a good part of this system]."),
    ] = None,
    work: Annotated[
        Path, typer.Option("--work", metavar="DIR", help="Where there is room for the copies.")
    ] = Path("/var/tmp"),  # noqa: S108 - a private folder is made in it
    disks: Annotated[
        bool, typer.Option("--disks/--no-disks", help="As root: clone onto loop disks.")
    ] = True,
    json_output: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Capture, spread, clone, compare and update: a cluster of real processes on this machine.

    Makes a realm in a temporary folder, a controller and some peers on loopback; captures a tree,
    pushes it through the swarm, clones it on every peer (as root onto loop disks with a partition
    table, else into directories), compares every copy entry by entry; then changes files, and
    brings every peer to the second generation in place. Last comes a disk image: captured block by
    block, spread, written to a file on every peer, and compared. Nothing is left behind.

    Exit codes: 0 all peers right, 10 no such tree, 12 no room, 16 a step failed, 31 a peer failed.
    """
    import asyncio

    from nodectl.errors import NodesFailed
    from nodectl.node.demo import run_demo
    from nodectl.node.demo_result import DemoOptions

    options = DemoOptions(nodes=nodes, tree=tree, work=work, disks=disks)
    result = asyncio.run(run_demo(options, observer_for(json_lines=json_output)))
    print(json.dumps(result.to_json()) if json_output else _text(result))
    if not result.ok:
        failed = [node for node in result.nodes if _problem(node)]
        raise NodesFailed(
            f"{len(failed)} of {len(result.nodes)} peers failed: "
            + "; ".join(f"{node.node}: {_problem(node)}" for node in failed)
        )


def _problem(node: "NodeResult") -> str:
    """Return what is wrong with a peer, empty if nothing is."""
    right = node.verified and node.block_verified
    return node.problem or ("" if right else "not compared")


def _text(result: "DemoResult") -> str:
    from nodectl.cli.table import table
    from nodectl.units import format_duration, format_size

    header = ("NODE", "SWARM", "CLONE", "BYTES FROM", "UPDATE", "VERIFIED")
    update = f"{format_size(result.update_bytes)} moved of {format_size(result.sealed_bytes)}"
    plain, sealed = format_size(result.plain_bytes), format_size(result.sealed_bytes)
    copies = f"the seeder sent {result.seeder_copies:.2f} copies"
    block = result.block
    disk = f"{format_size(block.size)}, of it {format_size(block.plain_bytes)} data"
    lines = [
        f"{result.tree}: {result.files} entries, {plain}, {sealed} compressed and sealed",
        f"captured in {format_duration(result.capture_s)}",
        f"on {len(result.nodes)} peers in {format_duration(result.swarm_s)}; {copies}",
        f"cloned and compared in {format_duration(result.restore_s)}",
        f"generation 2 in place in {format_duration(result.update_s)}: {update} for each peer",
        f"disk image ({disk}) on every peer and compared in {format_duration(block.seconds)}",
        "",
        table(header, [_row(node) for node in result.nodes]),
    ]
    return "\n".join(lines)


def _row(node: "NodeResult") -> tuple[str, ...]:
    from nodectl.units import format_duration, format_size

    ordered = sorted(node.bytes_from.items(), key=lambda pair: -pair[1])
    return (
        node.node,
        format_duration(node.swarm_s),
        format_duration(node.restore_s),
        ", ".join(f"{name} {format_size(size)}" for name, size in ordered),
        format_size(node.update_bytes),
        f"NO: {_problem(node)}" if _problem(node) else "yes",
    )
