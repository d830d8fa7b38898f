"""What many commands share: options with one meaning, and asking as this member."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient
    from nodectl.node.state import StateFolder

T = TypeVar("T")

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        help="State folder of this machine [env NODECTL_STATE; default: /var/lib/nodectl for "
        "root, else ~/.local/share/nodectl].",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def open_state(given: Path | None) -> "StateFolder":
    """Return the state folder that the options name."""
    from nodectl.node.state import state_folder

    return state_folder(given)


def size_option(text: str, option: str) -> int:
    """Return the bytes that the text of an option means.

    Raises:
        InvalidInput: it is no size.
    """
    from nodectl.errors import InvalidInput
    from nodectl.units import parse_size

    try:
        return parse_size(text)
    except ValueError as exc:
        raise InvalidInput(f"{option}: {exc}") from exc


def ask(given: Path | None, question: "Callable[[ControlClient], Awaitable[T]]") -> T:
    """Ask the controller one thing, as the member whose state folder this is."""
    from nodectl.errors import NodectlError
    from nodectl.node.client import ControlClient
    from nodectl.node.renew import renew

    state = open_state(given)
    membership = state.membership()

    async def asking() -> T:
        async with ControlClient(membership) as client:
            answer = await question(client)
            if client.renewal_due:  # of a machine on which no agent runs
                with contextlib.suppress(NodectlError):
                    await renew(state, client)
            return answer

    return asyncio.run(asking())
