"""`nodectl swarm status|peers|limit`: how a swarm goes, and how fast it may go."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.job import swarm_app
from nodectl.cli.membership import JsonOption, StateOption, ask, open_state

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient, JobView

NO_LIMIT = "none"
_AGAIN_S = 1.0
_PEERS_SHOWN = 3

RateText = Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes/s such as 50M, or none.")]


def register(_app: typer.Typer) -> None:
    """Add these commands beside `swarm push`."""
    swarm_app.command("status")(swarm_status)
    swarm_app.command("peers")(swarm_peers)
    swarm_app.command("limit")(swarm_limit)


def parse_rate(text: str) -> int | None:
    """Return the bytes/s of "50M", None for "none".

    Raises:
        InvalidInput: it is no rate.
    """
    from nodectl.errors import InvalidInput
    from nodectl.units import parse_size

    if text == NO_LIMIT:
        return None
    try:
        rate = parse_size(text)
    except ValueError as exc:
        raise InvalidInput(f"not a rate: {exc}") from exc
    if rate < 1:
        raise InvalidInput("a rate is at least 1 byte/s", hint=f"{NO_LIMIT!r} takes a limit away")
    return rate


def swarm_status(
    once: Annotated[bool, typer.Option("--once", help="Once, also on a terminal.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show how far each node of the running jobs is, how fast, from whom, and what it waits for.

    It waits for: disk (what came cannot be stored as fast), limit (its own --download-rate), cpu,
    peer (nobody gives what it lacks) or link. On a terminal again each second, until Ctrl-C.

    Exit codes: 40 this machine is no member, 42 the controller does not answer.
    """
    while True:
        swarms = [_swarm(view) for view in ask(state, _running)]
        if json_output:
            print(json.dumps({"swarms": swarms}))
            return
        live = sys.stdout.isatty() and not once
        clear = "\x1b[H\x1b[J" if live else ""
        print(clear + ("\n\n".join(map(_text, swarms)) or "no job runs"), flush=True)
        if not live:
            return
        time.sleep(_AGAIN_S)


def swarm_peers(
    name: Annotated[str, typer.Argument(help="The image.")],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show the peers that this machine knows for an image, and what they gave and got.

    Exit codes: 28 this machine has nothing of the image, 33 no nodectl serves here.
    """
    from nodectl.errors import UnknownImage

    status = _local(state, "/v1/swarm")
    images = [image for image in status["images"] if image["name"] == name]
    if not images:
        raise UnknownImage(f"this machine has nothing of an image {name}")
    came = (images[-1]["fetch"] or {}).get("from", {})
    peers = [
        {"node": node, "url": url, "came": came.get(node, 0), "sent": status["to"].get(node, 0)}
        for node, url in sorted(images[-1]["peers"].items())
    ]
    if json_output:
        print(json.dumps({"peers": peers}))
        return
    from nodectl.cli.table import table
    from nodectl.units import format_size

    rows = [(p["node"], p["url"], format_size(p["came"]), format_size(p["sent"])) for p in peers]
    print(table(("NODE", "ADDRESS", "CAME", "SENT"), rows))


def swarm_limit(
    upload_rate: RateText = None,
    download_rate: RateText = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Set how fast this machine sends and fetches, all swarms together; without options: show it.

    It holds at once, and until `nodectl serve` ends: its own options say with what it begins.

    Exit codes: 14 not a rate, 33 no nodectl serves here.
    """
    given = {"upload_rate": upload_rate, "download_rate": download_rate}
    rates = {name: parse_rate(text) for name, text in given.items() if text is not None}
    status = _local(state, "/v1/limits", rates) if rates else _local(state, "/v1/swarm")
    if json_output:
        print(json.dumps({name: status[name] for name in given}))
        return
    for name in given:
        print(f"{name.replace('_', ' ')}: {_rate(status[name])}")


def _local(state: Path | None, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    from nodectl.node.local import ask_local

    return asyncio.run(ask_local(open_state(state).folder, path, body))


async def _running(client: "ControlClient") -> "list[JobView]":
    from nodectl.catalog.records import JobState

    jobs = [job for job, state in await client.jobs() if state is JobState.RUNNING]
    return [await client.job(job.job_id) for job in jobs]


def _swarm(view: "JobView") -> dict[str, Any]:
    """Return a job as a swarm: what each node says, and what follows for all."""
    from nodectl.catalog.records import FINAL, Task

    seeders = {row.work.node for row in view.rows if row.work.task is Task.SEED}
    rows = [row for row in view.rows if row.work.task is not Task.SEED]
    total = max((row.total or 0 for row in rows), default=0)
    came = [row.swarm.get("from") or row.work.receipt.get("from", {}) for row in rows]
    seeded = sum(one.get(seeder, 0) for one in came for seeder in seeders)
    left = [
        (row.total - row.done) / row.swarm["bytes_per_s"]
        for row in rows
        if row.work.state not in FINAL and row.total and row.swarm.get("bytes_per_s")
    ]
    return {
        "job": view.job.job_id,
        "name": view.job.name,
        "generation": view.job.generation,
        "seeder_copies": round(seeded / total, 3) if total else None,
        "seconds_left": round(max(left), 1) if left else None,
        "nodes": [
            {
                "node": row.work.node,
                "state": row.work.state.value,
                "step": row.work.step,
                "done": row.done,
                "total": row.total,
                **row.swarm,
            }
            for row in rows
        ],
    }


def _text(swarm: Mapping[str, Any]) -> str:
    from nodectl.cli.table import table
    from nodectl.units import format_duration

    copies, left = swarm["seeder_copies"], swarm["seconds_left"]
    told = "" if copies is None else f", the seeder sent {copies:.2f} copies"
    told += "" if left is None else f", the last node needs {format_duration(left)} more"
    head = f"job {swarm['job']}: {swarm['name']} generation {swarm['generation']}{told}"
    header = ("NODE", "STATE", "DONE", "RATE", "WAITS FOR", "FROM")
    return f"{head}\n{table(header, [_row(node) for node in swarm['nodes']])}"


def _row(node: Mapping[str, Any]) -> tuple[str, ...]:
    came = sorted(node.get("from", {}).items(), key=lambda pair: -pair[1])
    done = f"{100 * node['done'] / node['total']:.0f} %" if node["total"] else "-"
    return (
        node["node"],
        node["step"] if node["state"] == "running" else node["state"],
        done,
        _rate(node["bytes_per_s"]) if "bytes_per_s" in node else "-",
        node.get("waits_for", "-"),
        " ".join(name for name, _ in came[:_PEERS_SHOWN]),
    )


def _rate(rate: int | None) -> str:
    from nodectl.units import format_size

    return "no limit" if rate is None else f"{format_size(rate)}/s"
