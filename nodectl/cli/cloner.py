"""`nodectl cloner`: names and flags as cv-cloner has them; here those of multicast sessions.

The others stand in cloner_image.py, cloner_parts.py and efiboot.py.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from nodectl.cli.job import MULTICAST_RATE, WantedJob, start_job
from nodectl.cli.membership import JsonOption, StateOption, ask, size_option

cloner_app = typer.Typer(no_args_is_help=True, help="What cv-cloner does, under its names.")

_WAITING_S = 30.0  # a node that serves asks for work every 20 s


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(cloner_app, name="cloner")


@cloner_app.command("multicast-status")
def multicast_status(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the nodes that wait for a multicast session, and the sessions under way.

    Every node that runs nodectl serve waits; it hears of a session at once.

    Exit codes: 40 this machine is no member, 42 the controller does not answer, 43 no operator.
    """
    from nodectl.catalog.records import FINAL, JobState
    from nodectl.node.client import ControlClient

    async def look(client: ControlClient) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        running = [job for job, at in await client.jobs() if at is JobState.RUNNING]
        sessions = []
        busy: dict[str, int] = {}
        for job in running:
            view = await client.job(job.job_id)
            open_rows = [row for row in view.rows if row.work.state not in FINAL]
            busy |= {row.work.node: job.job_id for row in open_rows}
            if session := job.options.get("multicast"):
                told = {"job": job.job_id, "image": job.name, "nodes": list(job.nodes)}
                sessions.append({**told, **session})
        return [_node(one, busy) for one in await client.nodes()], sessions

    nodes, sessions = ask(state, look)
    if json_output:
        print(json.dumps({"nodes": nodes, "sessions": sessions}))
        return
    from nodectl.cli.table import table
    from nodectl.units import format_duration, format_size

    rows = [
        (node["node"], _state(node),
         "never" if node["heard_s"] is None else format_duration(node["heard_s"]),
         node["address"])
        for node in nodes
    ]  # fmt: skip
    print(table(("NODE", "STATE", "HEARD", "ADDRESS"), rows))
    for one in sessions:
        print(
            f"job {one['job']}: {one['image']} to {len(one['nodes'])} nodes at "
            f"{format_size(one['rate'])}/s, group {one['group']} port {one['port']}"
        )


@cloner_app.command("multicast-image")
def multicast_image(
    image: Annotated[str, typer.Option("--image", help="The image.")],
    nodes: Annotated[str, typer.Option("--nodes", help="Such as node[01-40],@gpu!n07, or: all.")],
    rate: Annotated[
        str, typer.Option("--rate", metavar="SIZE", help="Bytes/s that all links carry.")
    ] = MULTICAST_RATE,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the nodes.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Start a multicast session of an image for the nodes that are expected.

    It begins when those that are there listen. What a node misses it fetches from the others.

    Exit codes: 14 wrong options, 28 no such image, 31 a node failed, 42 the controller does not
    answer, 43 no operator, 45 no such node (then nothing was started).
    """
    from nodectl.catalog.records import JobKind

    options = {"multicast": {"rate": size_option(rate, "--rate")}}
    wanted = WantedJob(kind=JobKind.FETCH, name=image, nodes=nodes, options=options)
    start_job(state, wanted, no_wait=no_wait, json_output=json_output)


def _node(node: Mapping[str, Any], busy: Mapping[str, int]) -> dict[str, Any]:
    """Return one node of the list; `busy` says at which job nodes are."""
    heard_s, job = node["heard_s"], busy.get(node["name"])
    there = heard_s is not None and heard_s < _WAITING_S
    return {
        "node": node["name"],
        "waits": there and job is None,
        "job": job,
        "heard_s": heard_s,
        "address": node["address"],
    }


def _state(node: Mapping[str, Any]) -> str:
    if node["waits"]:
        return "waits"
    return "-" if node["job"] is None else f"job {node['job']}"
