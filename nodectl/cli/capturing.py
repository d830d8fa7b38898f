"""What the commands that capture share: names, levels, and publishing what was captured."""

from pathlib import Path
from typing import TYPE_CHECKING

from nodectl.cli.membership import open_state
from nodectl.cli.releases import publish_release, swarm_ticket

if TYPE_CHECKING:
    from nodectl.content.manifest import RootBlock
    from nodectl.ids import Root
    from nodectl.trust.release import Release


def check_name(name: str) -> None:
    """Refuse what cannot name an image.

    Raises:
        InvalidInput: it cannot.
    """
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name

    try:
        checked_name(name)
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc


def zstd_level(compress: str) -> int:
    """Return the level that --compress means.

    Raises:
        InvalidInput: it means none.
    """
    from nodectl.content.frame import LEVEL_BEST, LEVEL_FAST
    from nodectl.errors import InvalidInput

    levels = {"fast": LEVEL_FAST, "best": LEVEL_BEST}
    if compress not in levels:
        raise InvalidInput(f"--compress is fast or best, not {compress!r}")
    return levels[compress]


def publish_captured(
    state: Path | None, name: str, root: "Root", block: "RootBlock", *, kind: str
) -> "Release":
    """Publish what was captured here as the next generation of a name, and hold it."""
    from nodectl.content.format import encode_root_block
    from nodectl.node.state import HeldRoot

    folder = open_state(state)
    data = encode_root_block(block)
    totals = {"entries": block.entries, "plain_bytes": block.plain_bytes}
    record = publish_release(state, name, root, data, kind=kind, totals=totals)
    release = record.signed.release
    held = HeldRoot(
        root=root,
        swarm_key=swarm_ticket(state, root)[1],
        name=name,
        generation=release.generation,
        root_block=data,
        complete=True,
        own=True,
    )
    folder.hold_root(held)
    folder.see_generation(name, release.generation)
    return release
