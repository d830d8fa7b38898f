"""`nodectl image access`: whom an image is for."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.capturing import check_name
from nodectl.cli.membership import JsonOption, StateOption, ask
from nodectl.cli.nodes import node_names

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient


def register(image_app: typer.Typer) -> None:
    """Add this command to `nodectl image`."""
    image_app.command("access")(image_access)


def image_access(
    name: Annotated[str, typer.Argument(help="Name of the image.")],
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help='Only for these, such as db[01-04]; "": operators only.'),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="For every node of the realm.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show whom an image is for, or say it: every node of the realm, or those named.

    Operators may have every image, and an installer what a job names it for. A node that an image
    is not for gets neither its release nor the key of its swarm, and no job for it; one that had it
    gets no frame of it any more within a minute, and keeps what it has.

    Example: nodectl image access payroll --nodes db01,db02

    Exit codes: 14 a wrong name, or --nodes and --all together, 28 no such image, 42 the controller
    does not answer, 43 no operator, 45 no such node.
    """
    from nodectl.errors import InvalidInput

    check_name(name)
    if every and nodes is not None:
        raise InvalidInput("--nodes and --all contradict each other", hint="give one of them")
    if every or nodes is not None:

        async def change(client: "ControlClient") -> None:
            named = await node_names(client, nodes) if nodes and not every else []
            await client.set_access(name, None if every else named)

        ask(state, change)
    allowed = ask(state, lambda client: client.access(name))
    if json_output:
        print(json.dumps({"name": name, "nodes": allowed}))
        return
    everybody = "every node of the realm"
    whom = everybody if allowed is None else ", ".join(["operators", *allowed])
    print(f"{name} is for {whom}")
