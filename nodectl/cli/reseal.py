"""`nodectl image reseal`: an image sealed again with the realm key of today."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.capturing import check_name, publish_captured
from nodectl.cli.membership import JsonOption, StateOption, open_state
from nodectl.cli.progress import observer_for
from nodectl.cli.releases import find_held
from nodectl.zipapp.identity import self_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodectl.node.state import StateFolder


def register(image_app: typer.Typer) -> None:
    """Add this command to `nodectl image`."""
    image_app.command("reseal")(reseal)


def reseal(
    name: Annotated[str, typer.Argument(help="Name of the image.")],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Seal the newest generation of an image again, after nodectl realm rotate-key.

    The result is the next generation, with the same content. A run that was cut off is repeated
    and passes over what it had done. The machine that captured an image does this by itself while
    nodectl serve runs there; another operator needs all of the image in its store.

    Exit codes: 12 the store is full, 20 a frame is not here, 28 no such image, 40 no realm,
    42-43 the controller.
    """
    from nodectl.content.format import decode_root_block
    from nodectl.content.frame import FrameCodec
    from nodectl.content.manifest import KIND_BLOCK
    from nodectl.content.reseal import STEP
    from nodectl.content.reseal import reseal as reseal_image
    from nodectl.events import step
    from nodectl.node.resealing import ProgressFile
    from nodectl.store.disk import DiskStore
    from nodectl.store.lease import lease

    check_name(name)
    folder = open_state(state)
    codec = FrameCodec(folder.membership().content_keys)
    held = find_held(state, name)
    old = decode_root_block(held.root_block)
    if old.realm_tag == codec.realm_tag():
        _say(name, held.generation, held.root.hex(), new_bytes=0, json_output=json_output)
        return
    kind = "block" if old.kind == KIND_BLOCK else "tree"
    observer = ProgressFile(folder, name, observer_for(json_lines=json_output))
    try:
        with lease(folder.store):  # until its root is remembered, gc would see no need of it
            with DiskStore(folder.store) as store, step(observer, STEP):
                done = reseal_image(held.root, store, codec, observer)
            release = publish_captured(state, name, done.root, done.block, kind=kind)
    finally:
        observer.end()
    root = release.root.hex()
    _say(name, release.generation, root, new_bytes=done.new_bytes, json_output=json_output)


def _say(name: str, generation: int, root: str, *, new_bytes: int, json_output: bool) -> None:
    from nodectl.units import format_size

    document = {"name": name, "generation": generation, "root": root, "new_bytes": new_bytes}
    if json_output:
        print(json.dumps(document))
        return
    print(f"{name} generation {generation} is under the new key; {format_size(new_bytes)} new")


def reseal_argv(folder: "StateFolder") -> "Callable[[str], Sequence[str]]":
    """Return what makes the command line that seals an image again with a low priority."""

    def argv(name: str) -> "Sequence[str]":
        command = [*self_command(), "image", "reseal", name, "--json", "--state"]
        return ["nice", "-n", "10", *command, str(folder.folder)]

    return argv
