"""The paths of the control API for what images are cloned with."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from nodectl.catalog.cloning import CONTENT_MAX, CloneConfig, Part, PartKind, PartName
from nodectl.controller import wire
from nodectl.controller.auth import NODE
from nodectl.controller.cloning import CloneParts, part_fields
from nodectl.errors import InvalidInput, NotAllowed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log


class CloningApi:
    """What may be asked and said about the parts."""

    def __init__(self, parts: CloneParts, note: Note, may_have: Callable[[str, str], bool]) -> None:
        """Work on the controller's parts; `note` writes the audit log.

        `may_have` says whether an image is for a member, by their names.
        """
        self._parts = parts
        self._note = note
        self._may_have = may_have

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {
            ("GET", "/v1/cloning"): self._list,
            ("GET", "/v1/cloning/{part}/{name}"): self._show,
            ("PUT", "/v1/cloning/{part}/{name}"): self._put,
            ("DELETE", "/v1/cloning/{part}/{name}"): self._remove,
            ("GET", "/v1/nodes/{name}/cloning"): self._of_node,
        }

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"parts": [part_fields(one) for one in self._parts.list()]})

    async def _show(self, request: web.Request) -> web.Response:
        return web.json_response(_filled(self._parts.get(*_asked(request))))

    async def _put(self, request: web.Request) -> web.Response:
        part = parse_part(await request.read(), *_asked(request))
        self._parts.put(part)
        said = part_fields(part.what)
        self._note(request, f"{part.what.kind} set", part.what.name, part=said)
        return web.json_response(said)

    async def _remove(self, request: web.Request) -> web.Response:
        kind, name = _asked(request)
        self._parts.remove(kind, name)
        self._note(request, f"{kind} remove", name)
        return web.json_response({})

    async def _of_node(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.match_info["name"])
        image = wire.parse_name(request.query["image"]) if "image" in request.query else ""
        if image and not self._may_have(request[NODE], image):
            raise NotAllowed(f"{image} is not for {request[NODE]}")
        return web.json_response(config_fields(self._parts.of_node(name, image)))


def config_fields(config: CloneConfig) -> dict[str, Any]:
    """Return the JSON of what a node is cloned with."""
    return {
        "image": config.image,
        "disklayout": config.disklayout,
        "parts": [_filled(part) for part in config.parts],
    }


def _filled(part: Part) -> dict[str, Any]:
    content = base64.b64encode(part.content).decode("ascii")
    return {**part_fields(part.what), "content": content}


def _asked(request: web.Request) -> tuple[PartKind, str]:
    kind = request.match_info["part"]
    try:
        return PartKind(kind), wire.parse_name(request.match_info["name"])
    except ValueError as exc:
        raise InvalidInput(f"{kind[:40]!r} is not a part: {', '.join(PartKind)}") from exc


def parse_part(body: bytes, kind: PartKind, name: str) -> Part:
    """Return the part that a body describes.

    Raises:
        InvalidInput: it is none; the sentence does not show the content.
    """
    fields = wire.Fields(body, where="part")
    title, content = fields.text("title", ""), fields.take("content", str)
    fields.end()
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("part: content is not in base64") from None
    if len(data) > CONTENT_MAX:
        raise InvalidInput(f"part: content has more than {CONTENT_MAX} bytes")
    return Part(what=PartName(kind=kind, name=name, title=title), content=data)
