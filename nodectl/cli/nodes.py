"""What every command that takes nodes does with them: a node range becomes names."""

from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask
from nodectl.cli.node import node_app

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient

_ASKING = frozenset("@*?")


def register(_app: typer.Typer) -> None:
    """Add this command beside `node list`."""
    node_app.command("expand")(node_expand)


def node_expand(
    nodes: Annotated[str, typer.Argument(metavar="NODES", help="A node range.")],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show which nodes a range names: a line each.

    node[01-40,99] or node[1-9/2]; a,b for both; a!b (or a,-b) without b; a&b in both; a^b in one of
    them; @GROUP, @rack:R, @image:I, @layout:L; node0? and node* as they match; all or @*.

    Exit codes: 14 no node range, or no such group, 42 the controller does not answer, 43 not
    allowed.
    """
    names = ask(state, lambda client: node_names(client, nodes, joined=False))
    if json_output:
        import json

        print(json.dumps({"nodes": names}))
    else:
        print("".join(f"{name}\n" for name in names), end="")


async def node_names(client: "ControlClient", text: str, *, joined: bool = True) -> list[str]:
    """Return the nodes that a range names; `all` and patterns mean members, if `joined`.

    Raises:
        InvalidInput: it is no node range, or names no node.
    """
    from nodectl.catalog.noderange import ALL, KnownNodes, expand, known_nodes
    from nodectl.errors import InvalidInput
    from nodectl.node.inventory import all_inventories

    known = KnownNodes()
    if _ASKING & set(text) or ALL in text:
        said = (
            [one for one, _ in await all_inventories(client)] if not joined or "@" in text else []
        )
        members = {node["name"] for node in await client.nodes()}
        known = known_nodes(members if joined else members | {one.name for one in said}, said)
    names = expand(text, known)
    if not names:
        raise InvalidInput(
            f"{text[:80]!r} names no node", hint="nodectl node expand NODES tries a range"
        )
    return list(names)
