"""What images are cloned with, as a member asks for it: a node for itself, an operator for all."""

import base64
from collections.abc import Mapping
from typing import Any

from nodectl.catalog.cloning import CloneConfig, CloneOptions, Part, PartKind, PartName
from nodectl.errors import PathMissing
from nodectl.node.client import ControlClient


async def config_of(client: ControlClient, node: str, image: str = "") -> CloneConfig:
    """Return what a node is cloned with, as the inventory says, or with another image.

    A member may ask for itself.
    """
    query = f"?image={image}" if image else ""
    answer = await client.ask("GET", f"/v1/nodes/{node}/cloning{query}")
    return CloneConfig(
        image=answer["image"],
        disklayout=answer["disklayout"],
        parts=tuple(_part(one) for one in answer["parts"]),
    )


async def all_parts(client: ControlClient) -> list[PartName]:
    """Return all parts without their texts."""
    return [_name(one) for one in (await client.ask("GET", "/v1/cloning"))["parts"]]


async def find_part(client: ControlClient, kind: PartKind, name: str) -> Part | None:
    """Return a part, or None."""
    try:
        return _part(await client.ask("GET", f"/v1/cloning/{kind}/{name}"))
    except PathMissing:
        return None


async def get_part(client: ControlClient, kind: PartKind, name: str) -> Part:
    """Return a part.

    Raises:
        PathMissing: there is none; the sentence names those that sound like it.
    """
    found = await find_part(client, kind, name)
    if found is None:
        there = sorted(one.name for one in await all_parts(client) if one.kind is kind)
        raise PathMissing(
            f"there is no {kind} of the name {name}",
            hint=f"there are: {', '.join(there[:20])}" if there else f"there is no {kind} at all",
        )
    return found


async def stored_options(client: ControlClient, image: str) -> CloneOptions | None:
    """Return how an image was captured; None: nobody said."""
    found = await find_part(client, PartKind.OPTIONS, image)
    return None if found is None else CloneOptions.from_text(found.text)


async def put_part(client: ControlClient, part: Part) -> None:
    """Keep a part at the controller, in the place of the one of its kind and name.

    Raises:
        LayoutInvalid: it is a disk layout with mistakes.
    """
    what = part.what
    content = base64.b64encode(part.content).decode("ascii")
    body = {"title": what.title, "content": content}
    await client.ask("PUT", f"/v1/cloning/{what.kind}/{what.name}", body)


async def put_options(client: ControlClient, image: str, options: CloneOptions) -> None:
    """Keep how an image was captured."""
    what = PartName(kind=PartKind.OPTIONS, name=image, title="")
    await put_part(client, Part(what=what, content=options.to_text().encode()))


async def remove_part(client: ControlClient, kind: PartKind, name: str) -> None:
    """Forget a part."""
    await client.ask("DELETE", f"/v1/cloning/{kind}/{name}")


def _part(document: Mapping[str, Any]) -> Part:
    content = base64.b64decode(document["content"], validate=True)
    return Part(what=_name(document), content=content)


def _name(document: Mapping[str, Any]) -> PartName:
    return PartName(kind=PartKind(document["kind"]), name=document["name"], title=document["title"])
