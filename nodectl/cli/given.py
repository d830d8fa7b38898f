"""What the controller gives to a clone: what is said of the node, its files, layout and scripts."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nodectl.cli.membership import ask

if TYPE_CHECKING:
    from nodectl.catalog.inventory import NodeInventory
    from nodectl.catalog.site_files import FilledFile
    from nodectl.disk.model import Layout
    from nodectl.node.scripts import Scripts


def given_to(
    state: Path | None, name: str
) -> "tuple[NodeInventory | None, tuple[FilledFile, ...]]":
    """Return what the controller says of a node that is about to be made, and gives to it.

    A member may ask for itself only, and a controller may be away: then it is said on stderr that
    the node gets what the image has.

    Raises:
        TemplateInvalid: a template cannot be filled in for the node.
    """
    from nodectl.catalog.inventory import NodeInventory
    from nodectl.errors import ControllerUnreachable, NotAllowed, UnknownNode
    from nodectl.identity.site import filled_files
    from nodectl.node.inventory import inventory_of
    from nodectl.node.site_files import files_of

    said: NodeInventory | None = None
    files: tuple[FilledFile, ...] = ()
    try:
        said = ask(state, lambda client: inventory_of(client, name))[0]
    except UnknownNode:
        pass
    except (ControllerUnreachable, NotAllowed) as exc:
        print(
            f"nodectl: nothing is known of {name}: {exc}; its network stays as in the image",
            file=sys.stderr,
        )
    try:
        files = ask(state, lambda client: files_of(client, name))
    except (ControllerUnreachable, NotAllowed) as exc:
        print(f"nodectl: {name} is given no secrets and templates: {exc}", file=sys.stderr)
    return said, filled_files(files, said or NodeInventory(name=name))


def given_scripts(state: Path | None, node: str, image: str, *, runs: bool) -> "Scripts":
    """Return the scripts that an image ("NAME" or "NAME@GENERATION") has; none unless one `runs`.

    Where the controller does not answer it is said on stderr that none runs.
    """
    from nodectl.errors import ControllerUnreachable
    from nodectl.node.cloning import config_of
    from nodectl.node.scripts import Scripts

    if not runs:
        return Scripts()
    name = image.partition("@")[0]
    try:
        return Scripts.of(ask(state, lambda client: config_of(client, client.node, name)))
    except ControllerUnreachable as exc:
        print(f"nodectl: no script runs for {node}: {exc}", file=sys.stderr)
        return Scripts()


def stored_layout(state: Path | None, name: str) -> "Layout":
    """Return a disk layout that is kept at the controller.

    Raises:
        PathMissing: there is none of that name.
        NotAllowed: this member is no operator, and the layout is not its own.
    """
    from nodectl.catalog.cloning import Part, PartKind
    from nodectl.disk.text import parse_layout
    from nodectl.errors import NotAllowed
    from nodectl.node.client import ControlClient
    from nodectl.node.cloning import config_of, get_part

    async def look(client: ControlClient) -> Part:
        own = await config_of(client, client.node)
        found = own.part(PartKind.DISKLAYOUT)
        if found is not None and found.what.name == name:
            return found
        try:
            return await get_part(client, PartKind.DISKLAYOUT, name)
        except NotAllowed as exc:
            raise NotAllowed(
                f"the disk layout {name} is not the one that {client.node} is said to have",
                hint=f"nodectl node set {client.node} --layout {name}, or give the file: --layout",
            ) from exc

    part = ask(state, look)
    return parse_layout(part.text, source=f"disk layout {name}")
