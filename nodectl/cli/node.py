"""`nodectl node list` and `nodectl node remove`."""

import json
from typing import Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask

node_app = typer.Typer(no_args_is_help=True, help="The nodes of the realm.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(node_app, name="node")


@node_app.command("list")
def node_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the nodes: name, role, when last heard of, address.

    Exit codes: 40 this machine is no member, 42 the controller does not answer, 43 no operator.
    """
    nodes = ask(state, lambda client: client.nodes())
    if json_output:
        print(json.dumps({"nodes": nodes}))
        return
    from nodectl.cli.table import table

    rows = [(n["name"], n["role"], _heard(n), n["address"] or "-") for n in nodes]
    print(table(("NODE", "ROLE", "HEARD", "ADDRESS"), rows))


@node_app.command("remove")
def node_remove(name: Annotated[str, typer.Argument()], state: StateOption = None) -> None:
    """Remove a node from the realm: it can do nothing any more until it joins again.

    Exit codes: 42 the controller does not answer, 43 no operator, 45 no such node.
    """
    ask(state, lambda client: client.remove_node(name))
    print(f"removed {name}")


def _heard(node: dict[str, Any]) -> str:
    from nodectl.units import format_duration

    heard_s = node["heard_s"]
    return "never since the controller began" if heard_s is None else _ago(format_duration(heard_s))


def _ago(text: str) -> str:
    return f"{text} ago"
