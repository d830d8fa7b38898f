"""The paths of the control API that read and write the inventory."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.inventory_text import read_inventory
from nodectl.catalog.model import ABSENT, Catalog
from nodectl.controller import wire
from nodectl.controller.inventories import Inventories
from nodectl.errors import InvalidInput

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_NODES_MAX = 1000  # of one request


Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log


class InventoryApi:
    """What may be asked about the inventory."""

    def __init__(self, catalog: Catalog, note: Note) -> None:
        """Work on a catalog; `note` writes the audit log."""
        self.nodes = Inventories(catalog)
        self._note = note

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {
            ("GET", "/v1/inventory"): self._list,
            ("POST", "/v1/inventory"): self._write,
            ("GET", "/v1/inventory/{name}"): self._show,
            ("DELETE", "/v1/inventory/{name}"): self._remove,
        }

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"nodes": [_said(*one) for one in self.nodes.list()]})

    async def _show(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        return web.json_response(_said(*self.nodes.get(name)))

    async def _write(self, request: web.Request) -> web.Response:
        wanted = parse_write(await request.read())
        self.nodes.check([one for one, _ in wanted])
        revisions = {}
        for one, expected in wanted:
            revisions[one.name] = self.nodes.put(one, expected=expected)
            what = "node add" if expected == ABSENT else "node set"
            self._note(request, what, one.name, inventory=one.to_json())
        return web.json_response({"revisions": revisions})

    async def _remove(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        self.nodes.remove(name)
        self._note(request, "node forget", name)
        return web.json_response({})


def _said(one: NodeInventory, revision: int) -> dict[str, Any]:
    return {"inventory": one.to_json(), "revision": revision}


def parse_write(body: bytes) -> list[tuple[NodeInventory, int]]:
    """Return the nodes that a body describes, each with the revision that it should have.

    Raises:
        InvalidInput: the body is no such list.
        InventoryInvalid: what is said of a node has mistakes.
    """
    fields = wire.Fields(body, where="inventory")
    entries = fields.take("nodes", list)
    fields.end()
    if len(entries) > _NODES_MAX:
        raise InvalidInput(f"inventory: more than {_NODES_MAX} nodes in one request")
    wanted = []
    for entry in entries:
        inner = wire.Fields(json.dumps(entry).encode(), where="inventory")
        document, revision = inner.take("inventory", dict), inner.count("revision")
        inner.end()
        name = wire.parse_name(str(document.get("name", "")))
        wanted.append((read_inventory(document, name=name, source=f"node {name}"), revision))
    names = [one.name for one, _ in wanted]
    if len(set(names)) != len(names):
        raise InvalidInput("inventory: a node is there twice")
    return wanted
