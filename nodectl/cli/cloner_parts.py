"""`nodectl cloner identify|config|script|image-list|image-details|disklayout|disklayout-upload`."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.cloner import cloner_app
from nodectl.cli.image_list import image_list
from nodectl.cli.membership import JsonOption, StateOption, ask

if TYPE_CHECKING:
    from nodectl.catalog.cloning import CloneConfig, Part
    from nodectl.node.client import ControlClient


class Method(StrEnum):
    """By what a node is named."""

    MAC = "mac"
    NODE = "node"


class When(StrEnum):
    """When a script runs: before the disks are touched, or when the tree stands."""

    PRE = "pre"
    POST = "post"


Image = Annotated[str, typer.Option("--image", help="Name of the image.")]
DiskLayout = Annotated[str, typer.Option("--disklayout", help="Name of the disk layout.")]
Output = Annotated[
    Path | None, typer.Option("--output", help="Write to this new file, not to stdout.")
]


def register(_app: typer.Typer) -> None:
    """Add these commands beside the others of cv-cloner."""
    cloner_app.command("identify")(identify)
    cloner_app.command("config")(config)
    cloner_app.command("script")(script)
    cloner_app.command("image-list")(image_list)
    cloner_app.command("image-details")(image_details)
    cloner_app.command("disklayout")(disklayout)
    cloner_app.command("disklayout-upload")(disklayout_upload)


def identify(
    method: Annotated[Method, typer.Option("--method", help="By what nodes are named.")] = (
        Method.NODE
    ),
    macaddr: Annotated[str, typer.Option("--macaddr", metavar="A,B", help="Addresses.")] = "",
    node: Annotated[
        str, typer.Option("--node", metavar="NODES", help="Such as n01,n02 [default: this one].")
    ] = "",
    state: StateOption = None,
) -> None:
    """Show as JSON with what nodes are cloned, as the inventory says: image, layout, scripts.

    Exit codes: 14 a wrong option, 42 the controller does not answer, 43 not allowed, 45 no such
    node.
    """
    from nodectl.errors import InvalidInput

    if (method is Method.MAC) != bool(macaddr) or (method is Method.MAC and node):
        raise InvalidInput("--method mac goes with --macaddr, --method node with --node")

    async def look(client: "ControlClient") -> dict[str, Any]:
        from nodectl.node.cloning import config_of

        names = await _names(client, macaddr, node)
        return {name: config_document(await config_of(client, name)) for name in names}

    print(json.dumps(ask(state, look), indent=2))


async def _names(client: "ControlClient", macaddr: str, node: str) -> list[str]:
    """Return the nodes that were asked for."""
    from nodectl.cli.nodes import node_names
    from nodectl.errors import UnknownNode
    from nodectl.node.inventory import all_inventories

    if not macaddr:
        return await node_names(client, node, joined=False) if node else [client.node]
    owners = {mac: one.name for one, _ in await all_inventories(client) for mac in one.all_macs()}
    wanted = [mac.strip().lower().replace("-", ":") for mac in macaddr.split(",")]
    absent = [mac for mac in wanted if mac not in owners]
    if absent:
        raise UnknownNode(
            f"no node has the address {', '.join(absent[:10])}",
            hint="nodectl node list shows all; nodectl node set NODE --mac says one",
        )
    return [owners[mac] for mac in wanted]


def config_document(found: "CloneConfig") -> dict[str, Any]:
    """Return JSON of what a node is cloned with."""
    from nodectl.catalog.cloning import PartKind

    options, layout = found.part(PartKind.OPTIONS), found.part(PartKind.DISKLAYOUT)
    return {
        "image": found.image,
        "disklayout": found.disklayout,
        "options": json.loads(options.text) if options else None,
        "layout": layout.text if layout else None,
        "scripts": {
            part.what.kind.value: part.what.title
            for part in found.parts
            if part.what.kind.is_script
        },
    }


def config(image: Image, disklayout: DiskLayout = "", state: StateOption = None) -> None:
    """Show as JSON with what an image on a layout is cloned.

    Exit codes: 10 no such layout, 28 no such image, 42-43 the controller.
    """
    print(json.dumps(config_document(_config(state, image, disklayout)), indent=2))


def _config(state: Path | None, image: str, disklayout: str) -> "CloneConfig":
    from nodectl.catalog.cloning import CloneConfig, CloneOptions, PartKind
    from nodectl.node.cloning import find_part, get_part

    _need_image(state, image)

    async def look(client: "ControlClient") -> CloneConfig:
        own = [kind for kind in PartKind if kind is not PartKind.DISKLAYOUT]
        found = [await find_part(client, kind, image) for kind in own]
        parts = [part for part in found if part is not None]
        wanted = disklayout
        for part in parts:
            if part.what.kind is PartKind.OPTIONS:
                wanted = wanted or CloneOptions.from_text(part.text).disklayout
        if wanted:
            parts.append(await get_part(client, PartKind.DISKLAYOUT, wanted))
        return CloneConfig(image=image, disklayout=wanted, parts=tuple(parts))

    return ask(state, look)


def _need_image(state: Path | None, image: str) -> None:
    from nodectl.cli.releases import find_releases
    from nodectl.errors import UnknownImage

    if not find_releases(state, image):
        raise UnknownImage(f"no image is named {image}", hint="nodectl image list shows all")


def script(
    image: Image,
    when: Annotated[When, typer.Option("--type", help="pre: before the disks; post: at the end.")],
    set_file: Annotated[
        Path | None, typer.Option("--set", metavar="FILE", help="Keep this script.")
    ] = None,
    get: Annotated[bool, typer.Option("--get", help="Show the one that is kept.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Have none any more.")] = False,
    output: Output = None,
    state: StateOption = None,
) -> None:
    """Keep, show or remove the script that runs before or after an image is cloned.

    It runs as root on the machine that is cloned, with NODECTL_IMAGE, NODECTL_NODE and, for post,
    NODECTL_ROOT: where the new tree is mounted. One that fails fails the clone.

    Exit codes: 10 no such file or script, 11 it cannot be read, 14 a wrong option or no script, 28
    no such image, 42-43 the controller.
    """
    from nodectl.catalog.cloning import PartKind
    from nodectl.errors import InvalidInput
    from nodectl.node.cloning import get_part, put_part, remove_part

    if (set_file is not None) + get + remove != 1:
        raise InvalidInput("one of --set FILE, --get and --remove is needed")
    kind = PartKind(when.value)
    if get:
        _write(ask(state, lambda client: get_part(client, kind, image)), output)
        return
    _need_image(state, image)
    if set_file is None:
        ask(state, lambda client: remove_part(client, kind, image))
        print(f"{image}: no {kind}-script any more")
        return
    part = _read(set_file, kind.value, image)
    ask(state, lambda client: put_part(client, part))
    print(f"{image}: {kind}-script {set_file.name}")


def image_details(image: Image, state: StateOption = None, json_output: JsonOption = False) -> None:
    """Show all about an image: its generations, options, layout and scripts.

    Exit codes: 28 no such image, 42-43 the controller.
    """
    from nodectl.cli.image_list import image_show

    if not json_output:
        image_show(image, state)
        print(json.dumps(config_document(_config(state, image, "")), indent=2))
        return
    from nodectl.cli.releases import find_releases

    _need_image(state, image)
    generations = [record.to_json() for record in find_releases(state, image)]
    print(json.dumps({**config_document(_config(state, image, "")), "generations": generations}))


def disklayout(
    disklayout: DiskLayout,
    image: Annotated[str, typer.Option("--image", help="Its image; may be left out.")] = "",
    output: Output = None,
    state: StateOption = None,
) -> None:
    """Show a disk layout (TOML); --output writes it to a file, to be edited and uploaded.

    Exit codes: 10 no such layout, 13 the file is there, 28 no such image, 42-43 the controller.
    """
    from nodectl.catalog.cloning import PartKind
    from nodectl.node.cloning import get_part

    if image:
        _need_image(state, image)
    _write(ask(state, lambda client: get_part(client, PartKind.DISKLAYOUT, disklayout)), output)


def disklayout_upload(
    disklayout: DiskLayout,
    file: Annotated[Path, typer.Option("--file", help="The layout (TOML).")],
    image: Annotated[
        str, typer.Option("--image", help="The image that gets it; may be left out.")
    ] = "",
    state: StateOption = None,
) -> None:
    """Keep a disk layout under a name, in the place of the one it has; every mistake is named.

    Exit codes: 10 no such file, 11 not readable, 28 no such image, 42-43 the controller, 53
    mistakes in the layout.
    """
    import dataclasses

    from nodectl.catalog.cloning import CloneOptions
    from nodectl.cli.disk_plan import read_layout
    from nodectl.node.cloning import put_options, put_part, stored_options

    read_layout(file)  # the mistakes with this file's name
    if image:
        _need_image(state, image)
    part = _read(file, "disklayout", disklayout)

    async def keep(client: "ControlClient") -> None:
        await put_part(client, part)
        if image:
            options = await stored_options(client, image) or CloneOptions()
            options = dataclasses.replace(options, disklayout=disklayout)
            await put_options(client, image, options)

    ask(state, keep)
    print(f"disk layout {disklayout}: kept" + (f", for {image}" if image else ""))


def _read(file: Path, kind: str, name: str) -> "Part":
    """Return a file as a part."""
    from nodectl.catalog.cloning import CONTENT_MAX, Part, PartKind, PartName
    from nodectl.errors import PathMissing, PathUnreadable

    try:
        with file.open("rb") as opened:
            content = opened.read(CONTENT_MAX + 1)
    except FileNotFoundError as exc:
        raise PathMissing(f"there is no file {file}") from exc
    except OSError as exc:
        raise PathUnreadable(f"{file} cannot be read: {exc.strerror}") from exc
    what = PartName(kind=PartKind(kind), name=name, title=file.name)
    return Part(what=what, content=content)


def _write(part: "Part", output: Path | None) -> None:
    from nodectl.errors import AlreadyThere

    if output is None:
        sys.stdout.buffer.write(part.content)
        return
    try:
        with output.open("xb") as file:
            file.write(part.content)
    except FileExistsError as exc:
        raise AlreadyThere(f"{output} is there already", hint="name a new file") from exc
