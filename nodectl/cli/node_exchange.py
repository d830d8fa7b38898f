"""`nodectl node import` and `node export`: the inventory from and for other tools."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.membership import StateOption, ask
from nodectl.cli.node import node_app
from nodectl.cli.nodes import node_names

if TYPE_CHECKING:
    from nodectl.catalog.inventory import NodeInventory
    from nodectl.catalog.inventory_exchange import Form
    from nodectl.node.client import ControlClient

_FILE_MAX = 64 << 20
_PREFIX_MOST = 32

FormText = Annotated[
    str, typer.Option("--format", help="json, csv, hosts, dnsmasq, genders or xcat (lsdef -z).")
]


def register(_app: typer.Typer) -> None:
    """Add these commands beside `node list`."""
    node_app.command("import")(node_import)
    node_app.command("export")(node_export)


def node_import(
    file: Annotated[Path, typer.Argument(help="What to read; - is standard input.")],
    form: FormText,
    interface: Annotated[
        str, typer.Option("--interface", help="Of addresses without one: hosts, dnsmasq, xcat.")
    ] = "eth0",
    prefix: Annotated[
        int, typer.Option("--prefix", min=1, max=_PREFIX_MOST, help="Of IPv4 addresses without.")
    ] = 24,
    update: Annotated[
        bool, typer.Option("--update", help="Change nodes that are there; what is not said stays.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Read nodes into the inventory. All is checked before anything is written.

    Exit codes: 11 the file cannot be read, 14 no such form, 42 the controller does not answer, 43
    no operator, 44 a node is there already (see --update), or two have one MAC or address, 90
    mistakes, with their lines.
    """
    from nodectl.catalog.inventory_exchange import Missing, parse_nodes
    from nodectl.errors import PathUnreadable
    from nodectl.node.inventory import all_inventories, write_inventories

    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as stream:
            text = stream.read(_FILE_MAX).decode("utf-8", "replace")
    except OSError as exc:
        raise PathUnreadable(f"{file} cannot be read: {exc.strerror}") from exc
    missing = Missing(interface=interface, prefix=prefix)
    documents = parse_nodes(text, _form(form), missing, source=str(file))

    async def write(client: "ControlClient") -> int:
        said = {one.name: (one, at) for one, at in await all_inventories(client)} if update else {}
        wanted = [_wanted(name, fields, said, str(file)) for name, fields in documents.items()]
        await write_inventories(client, wanted)
        return len(wanted)

    print(f"{ask(state, write)} nodes are in the inventory")


def _wanted(
    name: str,
    fields: dict[str, Any],
    said: "dict[str, tuple[NodeInventory, int]]",
    source: str,
) -> "tuple[NodeInventory, int]":
    from nodectl.catalog.inventory_text import read_inventory

    before, revision = said.get(name, (None, 0))
    old = before.to_json() if before else {}
    if "attributes" in fields:
        fields = {**fields, "attributes": {**old.get("attributes", {}), **fields["attributes"]}}
    place = f"{source}, node {name}"
    return read_inventory({**old, **fields, "name": name}, name=name, source=place), revision


def node_export(
    form: FormText,
    nodes: Annotated[str, typer.Option("--nodes", help="Such as node[01-40] or @gpu.")] = "all",
    state: StateOption = None,
) -> None:
    """Print the inventory in a form of another tool; on stderr stands what the form cannot hold.

    Exit codes: 14 no such form or node range, 42 the controller does not answer, 43 no operator.
    """
    from nodectl.catalog.inventory_exchange import format_nodes
    from nodectl.node.inventory import all_inventories

    wanted = _form(form)

    async def read(client: "ControlClient") -> "list[NodeInventory]":
        names = set(await node_names(client, nodes, joined=False))
        return [one for one, _ in await all_inventories(client) if one.name in names]

    text, notes = format_nodes(ask(state, read), wanted)
    for note in notes:
        print(f"nodectl: {note}", file=sys.stderr)
    sys.stdout.write(text)


def _form(text: str) -> "Form":
    from nodectl.catalog.inventory_exchange import Form
    from nodectl.errors import InvalidInput

    try:
        return Form(text)
    except ValueError as exc:
        forms = ", ".join(Form)
        raise InvalidInput(f"--format is one of {forms}, not {text[:40]!r}") from exc
