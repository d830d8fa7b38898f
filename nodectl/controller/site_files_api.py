"""The paths of the control API for the files of a site."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from nodectl.catalog.site_files import CONTENT_MAX, FileKind, FilledFile, SiteFile
from nodectl.controller import wire
from nodectl.controller.site_files import SiteFiles
from nodectl.errors import InvalidInput, NotAllowed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log


class SiteFilesApi:
    """What may be asked and said about them."""

    def __init__(self, files: SiteFiles, note: Note) -> None:
        """Work on the controller's files; `note` writes the audit log."""
        self._files = files
        self._note = note

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {
            ("GET", "/v1/files"): self._list,
            ("POST", "/v1/files"): self._put,
            ("GET", "/v1/files/{file}"): self._show,
            ("DELETE", "/v1/files/{file}"): self._remove,
            ("GET", "/v1/nodes/{name}/files"): self._of_node,
        }

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"files": [one.to_json() for one in self._files.list()]})

    async def _put(self, request: web.Request) -> web.Response:
        filled = parse_file(await request.read())
        self._files.put(filled)
        file = filled.file
        self._note(request, f"{file.kind} set", file.name, file=file.to_json())
        return web.json_response(file.to_json())

    async def _show(self, request: web.Request) -> web.Response:
        filled = self._files.get(wire.parse_name(request.match_info["file"]))
        if filled.file.kind is FileKind.SECRET:
            raise NotAllowed(
                f"{filled.file.name} is a secret: only nodes of {filled.file.group} get it"
            )
        return web.json_response(_filled(filled))

    async def _remove(self, request: web.Request) -> web.Response:
        file = self._files.remove(wire.parse_name(request.match_info["file"]))
        self._note(request, f"{file.kind} remove", file.name, file=file.to_json())
        return web.json_response({})

    async def _of_node(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        files = self._files.of_node(name)
        if files:
            self._note(request, "files given", name, files=[one.file.name for one in files])
        return web.json_response({"files": [_filled(one) for one in files]})


def _filled(filled: FilledFile) -> dict[str, Any]:
    content = base64.b64encode(filled.content).decode("ascii")
    return {**filled.file.to_json(), "content": content}


def parse_file(body: bytes) -> FilledFile:
    """Return the file that a body describes.

    Raises:
        InvalidInput: it is none; the sentence does not show the content.
    """
    fields = wire.Fields(body, where="file")
    names = ("name", "kind", "group", "path", "owner", "mode")
    document = {name: fields.text(name) for name in names}
    content = fields.take("content", str)
    fields.end()
    try:
        data = base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput("file: content is not in base64") from None
    if len(data) > CONTENT_MAX:
        raise InvalidInput(f"file: content has more than {CONTENT_MAX} bytes")
    return FilledFile(file=SiteFile.from_json(document), content=data)
