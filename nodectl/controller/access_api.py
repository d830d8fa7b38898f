"""The paths of the control API that say whom an image is for."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from nodectl.controller import wire
from nodectl.controller.access import Access
from nodectl.controller.members import Members
from nodectl.controller.releases import Releases
from nodectl.errors import UnknownNode

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log
_SHOWN = 10


class AccessApi:
    """What may be asked and said about it."""

    def __init__(self, access: Access, members: Members, releases: Releases, note: Note) -> None:
        """Work on what the controller has; `note` writes the audit log."""
        self._access = access
        self._members = members
        self._releases = releases
        self._note = note

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {
            ("GET", "/v1/releases/{name}/access"): self._show,
            ("PUT", "/v1/releases/{name}/access"): self._set,
        }

    async def _show(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        self._releases.get(name)
        nodes = self._access.nodes(name)
        return web.json_response({"nodes": None if nodes is None else list(nodes)})

    async def _set(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        self._releases.get(name)
        nodes = wire.parse_access(await request.read())
        known = {node.name for node in self._members.list()}
        unknown = sorted(set(nodes or ()) - known)
        if unknown:
            raise UnknownNode(
                f"no node is named {', '.join(unknown[:_SHOWN])}; nothing was changed",
                hint="nodectl node list shows all",
            )
        self._access.set(name, nodes)
        self._releases.change_swarm_keys()  # who is not named any more hears no new one
        self._note(request, "image access", name, nodes=None if nodes is None else list(nodes))
        return web.json_response({"nodes": None if nodes is None else sorted(nodes)})
