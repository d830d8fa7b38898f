"""`nodectl node add|set|show|forget`: what is said of a node, before it joined and ever after."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import node_exchange, site_files
from nodectl.cli import nodes as node_ranges
from nodectl.cli.membership import JsonOption, StateOption, ask
from nodectl.cli.node import node_app
from nodectl.cli.nodes import node_names

if TYPE_CHECKING:
    from nodectl.catalog.inventory import NodeInventory
    from nodectl.node.client import ControlClient

_LISTS = frozenset({"addresses", "gateway", "dns", "search", "members"})
_SINGULAR = {"address": "addresses", "member": "members"}
_FILE_MAX = 1 << 20

Name = Annotated[str, typer.Argument(help="The node.")]
Nodes = Annotated[str, typer.Argument(metavar="NODES", help="One, or such as node[01-40].")]
Rack = Annotated[str | None, typer.Option(metavar="RACK", help="Where it stands.")]
Group = Annotated[
    list[str] | None, typer.Option("--group", metavar="NAME", help="A group it is in; repeat.")
]
Mac = Annotated[
    list[str] | None,
    typer.Option(
        "--mac", metavar="MAC", help="A hardware address besides the interfaces'; repeat."
    ),
]
InterfaceText = Annotated[
    list[str] | None,
    typer.Option(
        "--interface",
        metavar="NAME,KEY=VALUE,...",
        help="eth0,mac=52:54:00:12:34:56,address=10.0.0.7/24,gateway=10.0.0.1,mtu=9000,dns=...; "
        "also dhcp=ipv4, search=, bond=802.3ad with member=eth1,member=eth2, vlan=20 with "
        "link=eth0, bridge=yes with member=. Takes the place of the one of that name; "
        "NAME= removes it.",
    ),
]
Attribute = Annotated[
    list[str] | None,
    typer.Option("--attribute", metavar="KEY=VALUE", help="Anything; KEY= removes it. Repeat."),
]
Bmc = Annotated[str | None, typer.Option("--bmc", help="Address of its management controller.")]
Image = Annotated[str | None, typer.Option("--image", help="The image that it is meant to run.")]
Layout = Annotated[str | None, typer.Option("--layout", help="The disk layout that is for it.")]
File = Annotated[
    Path | None,
    typer.Option("--file", help="All of it, in TOML (or JSON: *.json); options come on top."),
]


def register(app: typer.Typer) -> None:
    """Add these commands beside `node list`, and what else says something of nodes."""
    node_ranges.register(app)
    node_exchange.register(app)
    site_files.register(app)
    node_app.command("add")(node_add)
    node_app.command("set")(node_set)
    node_app.command("show")(node_show)
    node_app.command("forget")(node_forget)


def node_add(
    nodes: Nodes,
    rack: Rack = None,
    group: Group = None,
    mac: Mac = None,
    interface: InterfaceText = None,
    attribute: Attribute = None,
    bmc: Bmc = None,
    image: Image = None,
    layout: Layout = None,
    file: File = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what a node is: before it joins, or for one that has joined already.

    Exit codes: 14 a wrong option or file, 42 the controller does not answer, 43 no operator, 44 it
    is there already, or another node has its MAC or address, 90 mistakes, all of them listed.
    """
    given = _given(rack, group, mac, interface, attribute, bmc=bmc, image=image, layout=layout)
    from nodectl.catalog.inventory import NodeInventory
    from nodectl.node.inventory import write_inventories

    async def add(client: "ControlClient") -> list[NodeInventory]:
        names = await node_names(client, nodes, joined=False)
        wanted = [_changed(NodeInventory(name=_checked(name)), given, file) for name in names]
        await write_inventories(client, [(one, 0) for one in wanted])
        return wanted

    _print_all(ask(state, add), json_output=json_output)


def node_set(
    nodes: Nodes,
    rack: Rack = None,
    group: Group = None,
    mac: Mac = None,
    interface: InterfaceText = None,
    attribute: Attribute = None,
    bmc: Bmc = None,
    image: Image = None,
    layout: Layout = None,
    file: File = None,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Change what is said of a node; what no option names stays as it is.

    NODES is a node range (see: node expand): all of them get the same, or none.
    --group and --mac say all of them; an empty text (--rack '') takes a field away.

    Exit codes: as of node add; 45 the inventory has no such node, 47 somebody else changed it.
    """
    given = _given(rack, group, mac, interface, attribute, bmc=bmc, image=image, layout=layout)
    from nodectl.node.inventory import inventories_of, write_inventories

    async def change(client: "ControlClient") -> "list[NodeInventory]":
        names = await node_names(client, nodes, joined=False)
        before = await inventories_of(client, names)
        wanted = [(_changed(one, given, file), revision) for one, revision in before]
        await write_inventories(client, wanted)
        return [one for one, _ in wanted]

    _print_all(ask(state, change), json_output=json_output)


def node_show(
    name: Annotated[str, typer.Argument(help="The node [this one].")] = "",
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show what the inventory says of a node; a node may ask about itself.

    Exit codes: 42 the controller does not answer, 43 not allowed, 45 no such node.
    """
    from nodectl.node.inventory import inventory_of

    if name:
        _checked(name)
    found, _ = ask(state, lambda client: inventory_of(client, name or client.node))
    _print(found, json_output=json_output)


def node_forget(name: Name, state: StateOption = None) -> None:
    """Take a node out of the inventory; what it may do as a member stays (see: node remove).

    Exit codes: 42 the controller does not answer, 43 no operator, 45 no such node.
    """
    from nodectl.node.inventory import forget_inventory

    _checked(name)
    ask(state, lambda client: forget_inventory(client, name))
    print(f"the inventory has no {name} any more")


def _checked(name: str) -> str:
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name

    try:
        return checked_name(name)
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc


def _given(
    rack: str | None,
    group: list[str] | None,
    mac: list[str] | None,
    interface: list[str] | None,
    attribute: list[str] | None,
    **texts: str | None,
) -> dict[str, Any]:
    """Return the fields that options name: texts, lists, and what to merge."""
    fields: dict[str, Any] = {key: text for key, text in texts.items() if text is not None}
    if rack is not None:
        fields["rack"] = rack
    if group is not None:
        fields["groups"] = [each for each in group if each]
    if mac is not None:
        fields["macs"] = [each for each in mac if each]
    fields["attributes"] = dict(_pair(text) for text in attribute or ())
    fields["interfaces"] = [parse_interface(text) for text in interface or ()]
    return fields


def _pair(text: str) -> tuple[str, str]:
    from nodectl.errors import InvalidInput

    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidInput(f"--attribute {text[:80]!r} is not of the form KEY=VALUE")
    return key, value


def parse_interface(text: str) -> dict[str, Any]:
    """Return the fields of "eth0,address=10.0.0.7/24,..."; only `removed` for "eth0=".

    Raises:
        InvalidInput: it is not of that form.
    """
    from nodectl.errors import InvalidInput

    name, *rest = text.split(",")
    if name.endswith("=") and not rest:
        return {"name": name[:-1], "removed": True}
    fields: dict[str, Any] = {"name": name}
    for piece in rest:
        key, equals, value = piece.partition("=")
        if not equals:
            raise InvalidInput(f"--interface {text[:80]!r}: {piece[:40]!r} is not KEY=VALUE")
        key = _SINGULAR.get(key, key)
        if key in _LISTS:
            fields.setdefault(key, []).append(value)
        elif key in fields:
            raise InvalidInput(f"--interface {text[:80]!r}: {key} is there twice")
        else:
            fields[key] = int(value) if value.isascii() and value.isdigit() else value
    return _nested(fields)


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with bond, vlan and bridge as the tables that they are in a file."""
    members = fields.pop("members", [])
    if "bond" in fields:
        fields["bond"] = {"mode": fields["bond"], "members": members}
    elif "bridge" in fields:
        fields["bridge"] = {"members": members}
    elif members:
        fields["members"] = members  # refused by name: it belongs to nothing
    if "vlan" in fields:
        fields["vlan"] = {"id": fields["vlan"], "link": fields.pop("link", "")}
    return fields


def _changed(
    before: "NodeInventory", given: Mapping[str, Any], file: Path | None
) -> "NodeInventory":
    from nodectl.catalog.inventory_text import read_inventory

    document = before.to_json() if file is None else {"name": before.name, **_read_file(file)}
    attributes = {**document.get("attributes", {}), **given["attributes"]}
    document["attributes"] = {key: value for key, value in attributes.items() if value != ""}
    document["interfaces"] = _merged(document.get("interfaces", []), given["interfaces"])
    for key, value in given.items():
        if key not in {"attributes", "interfaces"}:
            document[key] = value
    source = f"node {before.name}" if file is None else str(file)
    return read_inventory(document, name=before.name, source=source)


def _merged(old: Sequence[Any], new: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the interfaces, each new one in the place of the old one of its name."""
    by_name = {one["name"]: one for one in new}
    kept = []
    for one in old:
        name = one.get("name") if isinstance(one, Mapping) else None
        kept.append(by_name.pop(name, one))
    return [one for one in (*kept, *by_name.values()) if "removed" not in one]


def _read_file(path: Path) -> dict[str, Any]:
    from nodectl.catalog.inventory_text import parse_document
    from nodectl.errors import InventoryInvalid, PathUnreadable

    try:
        text = path.read_bytes()[:_FILE_MAX].decode()
    except OSError as exc:
        raise PathUnreadable(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise InventoryInvalid(f"{path} is no text in UTF-8") from exc
    return parse_document(text, source=str(path))


def _print_all(nodes: "Sequence[NodeInventory]", *, json_output: bool) -> None:
    """Print one node as it is, many as a list."""
    if len(nodes) == 1:
        _print(nodes[0], json_output=json_output)
    elif json_output:
        print(json.dumps({"nodes": [one.to_json() for one in nodes]}))
    else:
        print(f"{len(nodes)} nodes: {nodes[0].name} to {nodes[-1].name}")


def _print(one: "NodeInventory", *, json_output: bool) -> None:
    document = one.to_json()
    if json_output:
        print(json.dumps(document))
        return
    for key, value in document.items():
        if key not in {"interfaces", "attributes"}:
            print(f"{key + ':':12}{' '.join(value) if isinstance(value, list) else value}")
    for name, text in document.get("attributes", {}).items():
        print(f"{'attribute:':12}{name}={text}")
    for interface in document.get("interfaces", ()):
        words = [f"{key}={_words(value)}" for key, value in interface.items() if key != "name"]
        print(f"{'interface:':12}{' '.join((interface['name'], *words))}")


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + " ".join(f"{key}={_words(each)}" for key, each in value.items()) + ")"
    return ",".join(map(_words, value)) if isinstance(value, list) else str(value)
