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
    from nodectl.node.client import ControlClient, JobView, WorkRow

NO_LIMIT = "none"
_AGAIN_S = 1.0
_PEERS_SHOWN = 3
_WAITS_SHOWN = 3

RateText = Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes/s such as 50M, or none.")]


def register(_app: typer.Typer) -> None:
    """Add these commands beside `swarm push`."""
    swarm_app.command("status")(swarm_status)
    swarm_app.command("peers")(swarm_peers)
    swarm_app.command("limit")(swarm_limit)
    swarm_app.command("pause")(swarm_pause)
    swarm_app.command("resume")(swarm_resume)


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
    peer (nobody gives what it lacks) or link; WAITED FOR says where its time went so far. The bound
    is what the last node would need at the rate of the fastest. On a terminal again each second,
    until Ctrl-C.

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
    name: Annotated[str | None, typer.Argument(help="An image: its swarms, everywhere.")] = None,
    upload_rate: RateText = None,
    download_rate: RateText = None,
    weight: Annotated[
        int | None, typer.Option(help="Of an image: its share of upload slots, 1 to 100.")
    ] = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Set how fast this machine sends and fetches, all swarms together; without options: show it.

    It holds at once, and until `nodectl serve` ends: its own options say with what it begins.
    With an image, each node keeps its swarms to these rates beside its own, and sends images of
    more weight first; nodes hear of it within seconds, and it holds until it is changed.

    Exit codes: 14 not a rate or weight, 28 no such image, 33 no nodectl serves here, 40 no member.
    """
    given = {"upload_rate": upload_rate, "download_rate": download_rate}
    rates = {key: parse_rate(text) for key, text in given.items() if text is not None}
    if name is not None:
        _print_terms(name, _agree(state, name, rates | _given(weight=weight)), json=json_output)
        return
    if weight is not None:
        from nodectl.errors import InvalidInput

        raise InvalidInput(
            "a weight is that of an image", hint="name it: nodectl swarm limit IMAGE"
        )
    status = _local(state, "/v1/limits", rates) if rates else _local(state, "/v1/swarm")
    if json_output:
        print(json.dumps({key: status[key] for key in given}))
        return
    for key in given:
        print(f"{key.replace('_', ' ')}: {_rate(status[key])}")


JobOption = Annotated[
    int | None, typer.Option("--job", metavar="JOB", help="The image of this job, instead.")
]


def _image_of(state: Path | None, name: str | None, job: int | None) -> str:
    """Return the image that a command line means."""
    from nodectl.errors import InvalidInput

    if (name is None) == (job is None):
        raise InvalidInput(
            "an image or a job, one of them", hint="nodectl swarm pause IMAGE, or --job JOB"
        )
    return name or str(ask(state, lambda client: client.job(job or 0)).job.name)


def swarm_pause(
    name: Annotated[str | None, typer.Argument(help="The image.")] = None,
    job: JobOption = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Let the swarms of an image rest on every node, until `nodectl swarm resume`.

    What was fetched stays, spans that are on their way come to their end, jobs go on waiting; a
    node hears of it with its next announcement (5 s, longer in very large swarms).

    Exit codes: 14 neither image nor job, 28 no such image, 40 this machine is no member, 42 the
    controller does not answer, 46 no such job.
    """
    image = _image_of(state, name, job)
    _print_terms(image, _agree(state, image, {"paused": True}), json=json_output)


def swarm_resume(
    name: Annotated[str | None, typer.Argument(help="The image.")] = None,
    job: JobOption = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Let the swarms of an image go on.

    Exit codes: 14 neither image nor job, 28 no such image, 40 this machine is no member, 42 the
    controller does not answer, 46 no such job.
    """
    image = _image_of(state, name, job)
    _print_terms(image, _agree(state, image, {"paused": False}), json=json_output)


def _given(**values: int | None) -> dict[str, int | None]:
    return {name: value for name, value in values.items() if value is not None}


def _agree(state: Path | None, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change the terms of an image's swarms; return them."""
    import dataclasses

    from nodectl.errors import InvalidInput

    terms = ask(state, lambda client: client.terms(name))
    if changes:
        try:
            wanted = dataclasses.replace(terms, **changes)
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc
        ask(state, lambda client: client.set_terms(name, wanted))
        terms = wanted
    return terms.to_json()


def _print_terms(name: str, terms: Mapping[str, Any], *, json: bool) -> None:
    if json:
        from json import dumps

        print(dumps({"name": name, **terms}))
        return
    print(f"the swarm of {name} {'rests' if terms['paused'] else 'runs'}")
    for key in ("upload_rate", "download_rate"):
        print(f"{key.replace('_', ' ')}: {_rate(terms[key])}")
    print(f"weight: {terms['weight']}")


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
    nodes = [_node(row) for row in rows]
    lacking = {
        node["node"]: node["total"] - node["done"]
        for node, row in zip(nodes, rows, strict=True)
        if row.work.state not in FINAL and node["total"]
    }
    rates = {node["node"]: node["bytes_per_s"] for node in nodes if node.get("bytes_per_s")}
    left = [lack / rates[name] for name, lack in lacking.items() if name in rates]
    last = max(lacking, key=lambda name: (lacking[name], name), default=None)
    fastest = max((*rates.values(), *map(_past_rate, rows)), default=0.0)
    return {
        "job": view.job.job_id,
        "name": view.job.name,
        "generation": view.job.generation,
        "seeder_copies": round(seeded / total, 3) if total else None,
        "seconds_left": round(max(left), 1) if left else None,
        # What it would take if the last node got bytes as fast as the fastest one gets or got them.
        "bound_seconds_left": round(lacking[last] / fastest, 1) if last and fastest else None,
        "last_node": last,
        "nodes": nodes,
    }


def _node(row: "WorkRow") -> dict[str, Any]:
    return {
        "node": row.work.node,
        "state": row.work.state.value,
        "step": row.work.step,
        "done": row.done,
        "total": row.total,
        "waited_ms": row.work.receipt.get("waited_ms", {}),
        **row.swarm,
    }


def _past_rate(row: "WorkRow") -> float:
    """Return the bytes/s at which a node that has everything got it, 0 where it does not say."""
    fetched, seconds = (row.work.receipt.get(name, 0) for name in ("fetched_bytes", "seconds"))
    return float(fetched) / seconds if seconds else 0.0


def _text(swarm: Mapping[str, Any]) -> str:
    from nodectl.cli.table import table
    from nodectl.units import format_duration

    copies, left = swarm["seeder_copies"], swarm["seconds_left"]
    told = "" if copies is None else f", the seeder sent {copies:.2f} copies"
    told += "" if left is None else f", the last node needs {format_duration(left)} more"
    bound = swarm["bound_seconds_left"]
    told += "" if left is None or bound is None else f" (bound: {format_duration(bound)})"
    head = f"job {swarm['job']}: {swarm['name']} generation {swarm['generation']}{told}"
    header = ("NODE", "STATE", "DONE", "RATE", "WAITS FOR", "WAITED FOR", "FROM")
    return f"{head}\n{table(header, [_row(node) for node in swarm['nodes']])}"


def _waited(node: Mapping[str, Any]) -> str:
    """Return what a node spent its time on, as shares of it: "link 81 %, disk 12 %"."""
    waited = node.get("waited_ms") or {}
    whole = sum(waited.values())
    shares = [(name, 100 * ms / whole) for name, ms in waited.items() if ms > 0]
    return ", ".join(f"{name} {share:.0f} %" for name, share in shares[:_WAITS_SHOWN]) or "-"


def _row(node: Mapping[str, Any]) -> tuple[str, ...]:
    came = sorted(node.get("from", {}).items(), key=lambda pair: -pair[1])
    done = f"{100 * node['done'] / node['total']:.0f} %" if node["total"] else "-"
    return (
        node["node"],
        node["step"] if node["state"] == "running" else node["state"],
        done,
        _rate(node["bytes_per_s"]) if "bytes_per_s" in node else "-",
        node.get("waits_for", "-"),
        _waited(node),
        " ".join(name for name, _ in came[:_PEERS_SHOWN]),
    )


def _rate(rate: int | None) -> str:
    from nodectl.units import format_size

    return "no limit" if rate is None else f"{format_size(rate)}/s"
