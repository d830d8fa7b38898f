"""`nodectl job list|show|watch` and `nodectl swarm push`."""

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask, open_state, size_option
from nodectl.cli.nodes import node_names

if TYPE_CHECKING:
    from nodectl.catalog.records import JobKind, Work
    from nodectl.node.client import ControlClient, JobView, WorkRow

job_app = typer.Typer(no_args_is_help=True, help="Jobs: what was asked of nodes.")
swarm_app = typer.Typer(no_args_is_help=True, help="The swarm that spreads images.")

MULTICAST_RATE = "10M"  # bytes/s: what a network of 100 Mbit/s carries


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(job_app, name="job")
    app.add_typer(swarm_app, name="swarm")


@swarm_app.command("push")
def swarm_push(
    name: Annotated[str, typer.Argument(help="The image.")],
    nodes: Annotated[
        str, typer.Option("--nodes", help="Such as node[01-40],@gpu!node07, or: all.")
    ],
    generation: Annotated[
        int | None, typer.Option("--generation", min=1, help="Which one [the last].")
    ] = None,
    restore: Annotated[
        Path | None,
        typer.Option(
            "--restore",
            metavar="DIR",
            help="Then make DIR on each node equal to it; {node} in it is the node's name.",
        ),
    ] = None,
    keep_extra: Annotated[
        bool, typer.Option("--keep-extra", help="With --restore: remove nothing from DIR.")
    ] = False,
    allow_rollback: Annotated[
        bool, typer.Option("--allow-rollback", help="Also an older generation than a node has.")
    ] = False,
    multicast: Annotated[
        bool, typer.Option("--multicast", help="Send each byte once, to all nodes together.")
    ] = False,
    rate: Annotated[
        str, typer.Option("--rate", metavar="SIZE", help="Bytes/s of the multicast.")
    ] = MULTICAST_RATE,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the nodes.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Spread an image to nodes; they fetch it from each other.

    With --multicast the node that has the image sends it to all of them at once, at a rate that
    their links carry; what a node does not get that way it fetches from the others meanwhile.

    Exit codes: 14 wrong options, 28 no such image, 31 a node failed, 42 the controller does not
    answer, 43 no operator, 45 no such node (then nothing was started).
    """
    from nodectl.catalog.records import JobKind

    options: dict[str, Any] = {"allow_rollback": True} if allow_rollback else {}
    if restore is not None:
        options |= {"path": str(restore), "keep_extra": keep_extra}
    if multicast:
        options["multicast"] = {"rate": size_option(rate, "--rate")}
    kind = JobKind.FETCH if restore is None else JobKind.RESTORE
    wanted = WantedJob(kind=kind, name=name, nodes=nodes, generation=generation, options=options)
    start_job(state, wanted, no_wait=no_wait, json_output=json_output)


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedJob:
    """A job to be made."""

    kind: "JobKind"
    name: str  # of the image
    nodes: str  # a node range
    generation: int | None = None
    options: dict[str, Any]


def start_job(state: Path | None, wanted: WantedJob, *, no_wait: bool, json_output: bool) -> None:
    """Make a job and follow it, or print that it has begun."""

    async def create(client: "ControlClient") -> "JobView":
        names = await node_names(client, wanted.nodes)
        return await client.create_job(
            wanted.kind,
            wanted.name,
            names,
            generation=wanted.generation,
            options=wanted.options,
        )

    view = ask(state, create)
    if no_wait:
        _print_started(view, json_output=json_output)
        return
    follow(state, view.job.job_id, json_output=json_output)


@job_app.command("list")
def job_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List all jobs.

    Exit codes: 40 this machine is no member, 42 the controller does not answer.
    """
    jobs = ask(state, lambda client: client.jobs())
    if json_output:
        print(json.dumps({"jobs": [{**j.to_json(), "state": s.value} for j, s in jobs]}))
        return
    from nodectl.cli.table import table

    rows = [
        (str(job.job_id), job.kind.value, f"{job.name} {job.generation}", s.value,
         str(len(job.nodes)), _when(job.created))
        for job, s in jobs
    ]  # fmt: skip
    print(table(("JOB", "KIND", "IMAGE", "STATE", "NODES", "CREATED"), rows))


@job_app.command("show")
def job_show(
    job_id: Annotated[int, typer.Argument(min=1)],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show a job and what each node did for it.

    Exit codes: 42 the controller does not answer, 46 no such job.
    """
    _print_view(ask(state, lambda client: client.job(job_id)), json_output=json_output)


@job_app.command("watch")
def job_watch(
    job_id: Annotated[int, typer.Argument(min=1)],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Follow a job to its end. Ctrl-C ends the watching, not the job.

    Exit codes: 31 a node failed, 42 the controller does not answer, 46 no such job.
    """
    follow(state, job_id, json_output=json_output)


def follow(state: Path | None, job_id: int, *, json_output: bool) -> None:
    """Follow a job to its end and print its result.

    Raises:
        NodesFailed: a node of it failed.
    """
    from nodectl.cli.progress import observer_for
    from nodectl.node.client import ControlClient
    from nodectl.node.watch import check_all_done, watch_job

    membership = open_state(state).membership()
    observer = observer_for(json_lines=json_output)

    async def watching() -> "JobView":
        async with ControlClient(membership) as client:
            return await watch_job(client, job_id, observer)

    try:
        view = asyncio.run(watching())
    except KeyboardInterrupt:
        print(
            f"\nnodectl: job {job_id} goes on; watch it again: nodectl job watch {job_id}",
            file=sys.stderr,
        )
        raise
    _print_view(view, json_output=json_output)
    check_all_done(view)


def view_document(view: "JobView") -> dict[str, Any]:
    """Return a job's result as `--json` prints it."""
    from nodectl.catalog.records import JobState

    return {
        "ok": view.state is JobState.OK,
        "state": view.state.value,
        "job": view.job.to_json(),
        "nodes": [
            {**row.work.to_json(), "done": row.done, "total": row.total} for row in view.rows
        ],
    }


def _print_started(view: "JobView", *, json_output: bool) -> None:
    if json_output:
        print(json.dumps(view_document(view)))
    else:
        print(f"job {view.job.job_id} started; watch it: nodectl job watch {view.job.job_id}")


def _print_view(view: "JobView", *, json_output: bool) -> None:
    if json_output:
        print(json.dumps(view_document(view)))
        return
    from nodectl.cli.table import table

    job = view.job
    print(
        f"job {job.job_id}: {job.kind.value} {job.name} generation {job.generation}: {view.state}"
    )
    rows = [(row.work.node, row.work.task.value, row.work.state.value, _told(row))
            for row in view.rows]  # fmt: skip
    print(table(("NODE", "TASK", "STATE", ""), rows))
    for row in view.rows:
        for line in row.work.lines:
            print(f"  {row.work.node}| {line}")


def _told(row: "WorkRow") -> str:
    from nodectl.catalog.records import Task, WorkState
    from nodectl.units import format_duration, format_size

    work = row.work
    match work.state:
        case WorkState.FAILED:
            return f"at step {work.step}: {work.sentence}"
        case WorkState.RUNNING:
            of = f" of {format_size(row.total)}" if row.total else ""
            return f"{work.step} {format_size(row.done)}{of}"
        case WorkState.DONE if work.task is Task.CLONE:
            return _what_booted(work)
        case WorkState.DONE if isinstance(work.receipt.get("seconds"), (int, float)):
            return f"in {format_duration(work.receipt['seconds'])}"
        case WorkState.APPLIED:
            return "on its disk and read back; waits for its first start"
        case WorkState.REBOOTING:
            return "went down to start from its new disk"
        case WorkState.WAITING:
            return "not taken yet"
        case _:
            return ""


def _what_booted(work: "Work") -> str:
    """Return what a clone's first start read back, or why nobody did."""
    booted = work.receipt.get("booted")
    if not isinstance(booted, dict):
        return f"{work.step}; {work.sentence}" if work.sentence else work.step
    entry = f", entry {booted['entry']}" if booted.get("entry") else ""
    failed = booted.get("failed_units") or []
    units = f"failed units: {', '.join(map(str, failed))}" if failed else "no failed units"
    what = f"{booted.get('hostname')} by {booted.get('firmware')}{entry}"
    return f"booted {what}, kernel {booted.get('kernel')}, {units}"


def _when(seconds: int) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
