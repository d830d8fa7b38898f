"""The seam between commands and where images come from."""

import contextlib
from pathlib import Path

from nodectl.errors import NoRealm
from nodectl.node.clone import ImageSource


def open_image(state: Path | None, name: str) -> contextlib.AbstractContextManager[ImageSource]:
    """Open the image `name` of this machine's realm, to be restored from store and swarm.

    Raises:
        NoRealm: this machine has none.
    """
    raise NoRealm(
        f"the image {name} cannot be opened: no realm in {state or 'the default state folder'}",
        hint="make a realm with nodectl init, or join one with nodectl join",
    )
