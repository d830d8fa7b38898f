"""Images sealed again, in the background, after the realm key was changed.

The machine that captured an image (and is an operator, since the result is a release) does it, in a
child process with a low priority: `nodectl image reseal NAME`. A run that was killed is begun again
and passes over what it had stored.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable, Sequence

from nodectl.content.format import decode_root_block
from nodectl.content.frame import realm_tag
from nodectl.errors import ContentInvalid, NodectlError
from nodectl.events import Event, Observer, StepProgress
from nodectl.fsio import write_private
from nodectl.node.state import HeldRoot, StateFolder
from nodectl.run import run_lines
from nodectl.trust.token import Role
from nodectl.units import format_size

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_AGAIN_S = 300.0  # after a failure
_PROGRESS = "reseal.json"
_STEP_BYTES = 64 << 20  # between two notes of how far it is


def due(state: StateFolder) -> tuple[HeldRoot, ...]:
    """Return the images that were captured here and whose newest generation has an old key.

    Only on an operator: the others have no right to publish what would come of it.
    """
    membership = state.membership()
    if not membership.content_keys.older or membership.role is not Role.OPERATOR:
        return ()
    newest: dict[str, HeldRoot] = {}
    for held in state.held_roots():
        if held.name not in newest or newest[held.name].generation < held.generation:
            newest[held.name] = held
    old = {realm_tag(keys) for keys in membership.content_keys.older}
    return tuple(
        held for held in newest.values() if held.own and held.complete and _tag(held) in old
    )


def _tag(held: HeldRoot) -> bytes:
    try:
        return decode_root_block(held.root_block).realm_tag
    except ContentInvalid:
        return b""


async def reseal_forever(state: StateFolder, argv_of: Callable[[str], Sequence[str]]) -> None:
    """Seal again what is due, one image after the other, whenever something is."""
    while True:
        try:
            waiting = await asyncio.to_thread(due, state)
            good = all([await _reseal(argv_of(held.name), held.name) for held in waiting])
        except NodectlError as exc:
            log.warning("sealing images again: %s", exc)
            good = False
        await asyncio.sleep(_LOOK_EVERY_S if good else _AGAIN_S)


async def _reseal(argv: Sequence[str], name: str) -> bool:
    """Run one child to its end; say whether it did its work."""
    log.info("sealing %s again with the new realm key", name)
    said: deque[str] = deque(maxlen=1)
    done = await run_lines(argv, said.append)
    if done.status:
        log.warning("sealing %s again: %s", name, said[-1] if said else f"status {done.status}")
    return done.status == 0


class ProgressFile:
    """Notes how far a run is where `realm show` finds it, and passes every event on."""

    def __init__(self, state: StateFolder, name: str, inner: Observer) -> None:
        """Say that `name` is being sealed again."""
        self._path = state.cache / _PROGRESS
        self._name = name
        self._inner = inner
        self._noted = 0
        self._note(0, None)

    def on(self, event: Event) -> None:
        """Take one event."""
        self._inner.on(event)
        if isinstance(event, StepProgress) and event.done - self._noted >= _STEP_BYTES:
            self._noted = event.done
            self._note(event.done, event.total)

    def _note(self, done: int, total: int | None) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"name": self._name, "done": done, "total": total})
        write_private(self._path, text.encode())

    def end(self) -> None:
        """Say that it is over."""
        self._path.unlink(missing_ok=True)


def progress(state: StateFolder) -> str:
    """Return how far the image is that is sealed again on this machine; empty when none is."""
    try:
        said = json.loads((state.cache / _PROGRESS).read_bytes())
        of = f" of {format_size(said['total'])}" if said["total"] else ""
        return f"{said['name']}: {format_size(said['done'])}{of}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
