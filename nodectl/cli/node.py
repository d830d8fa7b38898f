"""`nodectl node list` and `nodectl node remove`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient

node_app = typer.Typer(no_args_is_help=True, help="The nodes of the realm.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(node_app, name="node")


@node_app.command("list")
def node_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the nodes: name, role, when last heard of, address, rack, groups.

    Those that the inventory has and that have not joined stand there with the role "-".

    Exit codes: 40 this machine is no member, 42 the controller does not answer, 43 no operator.
    """
    nodes = ask(state, _joined_or_not)
    if json_output:
        print(json.dumps({"nodes": nodes}))
        return
    from nodectl.cli.table import table

    rows = [
        (n["name"], n["role"] or "-", _heard(n), n["address"] or "-", n["rack"] or "-",
         ",".join(n["groups"]) or "-") for n in nodes
    ]  # fmt: skip
    print(table(("NODE", "ROLE", "HEARD", "ADDRESS", "RACK", "GROUPS"), rows))


async def _joined_or_not(client: "ControlClient") -> list[dict[str, Any]]:
    """Return members and what the inventory has besides, by name."""
    from nodectl.node.inventory import all_inventories

    nodes = {node["name"]: node for node in await client.nodes()}
    said = {one.name: one for one, _ in await all_inventories(client)}
    absent = {"role": None, "joined": None, "heard_s": None, "address": ""}
    return [
        {
            **nodes.get(name, {"name": name, **absent}),
            "rack": said[name].rack if name in said else "",
            "groups": list(said[name].groups) if name in said else [],
        }
        for name in sorted(nodes.keys() | said.keys())
    ]


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
    if node["role"] is None:
        return "has not joined"
    return "never since the controller began" if heard_s is None else _ago(format_duration(heard_s))


def _ago(text: str) -> str:
    return f"{text} ago"
