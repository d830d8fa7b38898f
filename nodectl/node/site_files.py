"""The secrets and templates of a site, as a member asks for them."""

import base64
from collections.abc import Mapping
from typing import Any

from nodectl.catalog.site_files import FilledFile, SiteFile
from nodectl.node.client import ControlClient


async def files_of(client: ControlClient, name: str) -> tuple[FilledFile, ...]:
    """Return what a node is given; a member may ask for itself only."""
    answer = await client.ask("GET", f"/v1/nodes/{name}/files")
    return tuple(_filled(one) for one in answer["files"])


async def all_files(client: ControlClient) -> list[SiteFile]:
    """Return all files without their content."""
    return [SiteFile.from_json(one) for one in (await client.ask("GET", "/v1/files"))["files"]]


async def template(client: ControlClient, name: str) -> FilledFile:
    """Return a template with its text."""
    return _filled(await client.ask("GET", f"/v1/files/{name}"))


async def put_file(client: ControlClient, filled: FilledFile) -> None:
    """Keep a file at the controller, in the place of the one of its name."""
    content = base64.b64encode(filled.content).decode("ascii")
    await client.ask("POST", "/v1/files", {**filled.file.to_json(), "content": content})


async def remove_file(client: ControlClient, name: str) -> None:
    """Forget a file."""
    await client.ask("DELETE", f"/v1/files/{name}")


def _filled(document: Mapping[str, Any]) -> FilledFile:
    content = base64.b64decode(document["content"], validate=True)
    return FilledFile(file=SiteFile.from_json(document), content=content)
