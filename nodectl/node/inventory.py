"""The inventory as a member asks for it: its own, or as an operator everybody's."""

from collections.abc import Mapping, Sequence
from typing import Any

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.inventory_text import read_inventory
from nodectl.errors import UnknownNode
from nodectl.node.client import ControlClient

_SHOWN = 10
_BATCH = 100  # nodes in one request: the controller answers others in between


async def inventory_of(client: ControlClient, name: str) -> tuple[NodeInventory, int]:
    """Return what is said of a node, and its revision.

    Raises:
        UnknownNode: nothing is.
    """
    return _said(await client.ask("GET", f"/v1/inventory/{name}"))


async def inventories_of(
    client: ControlClient, names: Sequence[str]
) -> list[tuple[NodeInventory, int]]:
    """Return what is said of some nodes, in their order.

    Raises:
        UnknownNode: nothing is said of one of them.
    """
    if len(names) == 1:
        return [await inventory_of(client, names[0])]
    said = {one.name: (one, revision) for one, revision in await all_inventories(client)}
    absent = [name for name in names if name not in said]
    if absent:
        raise UnknownNode(
            f"the inventory has no node {', '.join(absent[:_SHOWN])}; nothing was changed",
            hint="nodectl node list shows all",
        )
    return [said[name] for name in names]


async def all_inventories(client: ControlClient) -> list[tuple[NodeInventory, int]]:
    """Return what is said of every node, joined or not, by name."""
    return [_said(one) for one in (await client.ask("GET", "/v1/inventory"))["nodes"]]


async def write_inventories(
    client: ControlClient, wanted: Sequence[tuple[NodeInventory, int]]
) -> None:
    """Write what is said of nodes, if their revisions are those given (0: not there yet).

    Raises:
        NameTaken: a node is there already, or another has one of its MACs or addresses.
        WriteConflict: somebody else changed a node meanwhile.
    """
    for start in range(0, len(wanted), _BATCH):
        nodes = [
            {"inventory": one.to_json(), "revision": revision}
            for one, revision in wanted[start : start + _BATCH]
        ]
        await client.ask("POST", "/v1/inventory", {"nodes": nodes})


async def forget_inventory(client: ControlClient, name: str) -> None:
    """Forget what is said of a node; its membership stays."""
    await client.ask("DELETE", f"/v1/inventory/{name}")


def _said(answer: Mapping[str, Any]) -> tuple[NodeInventory, int]:
    document = answer["inventory"]
    found = read_inventory(document, name=document["name"], source="the controller's answer")
    return found, answer["revision"]
