"""Releases for the commands of this machine: published, found, opened.

On the controller's machine all of it works without a running controller, straight from the catalog;
elsewhere the controller is asked.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nodectl.cli.local import local_controller
from nodectl.cli.membership import ask, open_state
from nodectl.cli.progress import observer_for
from nodectl.ids import Root

if TYPE_CHECKING:
    from nodectl.catalog.records import ReleaseRecord
    from nodectl.controller.releases import Releases
    from nodectl.node.client import ControlClient
    from nodectl.node.images import StoredImage
    from nodectl.node.state import HeldRoot, Membership, StateFolder


@contextlib.contextmanager
def local_releases(folder: "StateFolder") -> Iterator["Releases | None"]:
    """Yield the releases of the catalog on this machine; None where it is not the controller's."""
    if not folder.realm.exists():
        yield None
        return
    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.releases import Releases
    from nodectl.trust.realm import load_realm

    with SqliteCatalog(folder.catalog) as catalog:
        yield Releases(catalog, load_realm(folder.realm), time.time)


def publish_release(
    state: Path | None,
    name: str,
    root: Root,
    root_block: bytes,
    *,
    kind: str,
    totals: Mapping[str, int],
) -> "ReleaseRecord":
    """Publish a root as the next generation of a name; the same root again is the same release.

    Raises:
        NoRealm: this machine is no member.
        ControllerUnreachable: it is not the controller, and that does not answer.
        NotAllowed: it is no operator.
    """
    folder = open_state(state)
    membership = folder.membership()
    with local_releases(folder) as releases:
        if releases is None:
            return ask(
                state,
                lambda client: client.publish(name, root, root_block, kind=kind, totals=totals),
            )
        from nodectl.controller.releases import Publication

        wanted = Publication(
            name=name,
            root=root,
            root_block=root_block,
            kind=kind,
            totals=totals,
            origin=membership.node,
        )
        record = releases.publish(wanted)
    with local_controller(state) as local:
        generation = record.signed.release.generation
        local.note("publish", name, generation=generation, root=root.hex())
    return record


def find_releases(state: Path | None, name: str = "") -> list["ReleaseRecord"]:
    """Return all releases (of one name), sorted by name and generation."""
    with local_releases(open_state(state)) as releases:
        if releases is None:
            return ask(state, lambda client: client.releases(name))
        return list(releases.list(name))


def find_release(state: Path | None, name: str, generation: int) -> "ReleaseRecord":
    """Return one release; an installer may ask for it, and may not list all.

    Raises:
        UnknownImage: there is none.
    """
    with local_releases(open_state(state)) as releases:
        if releases is None:
            return ask(state, lambda client: client.release(name, generation))
        return releases.get(name, generation)


def swarm_ticket(state: Path | None, root: Root) -> tuple[bytes, bytes]:
    """Return the root block and the swarm key of a root that has a release."""
    with local_releases(open_state(state)) as releases:
        if releases is None:
            ticket = ask(state, lambda client: client.ticket(root))
            return ticket.root_block, ticket.swarm_key
        return releases.of_root(root)[1], releases.swarm_key(root)


def open_image(state: Path | None, text: str, generation: int = 0) -> "StoredImage":
    """Return the tree image that "NAME" or "NAME@GENERATION" means; see `find_held`."""
    return stored_image(state, find_held(state, text, generation))


def stored_image(state: Path | None, held: "HeldRoot") -> "StoredImage":
    """Return the tree image of a root."""
    from nodectl.node.images import StoredImage

    return StoredImage(open_state(state), held)


def find_held(state: Path | None, text: str, generation: int = 0) -> "HeldRoot":
    """Return the root that "NAME" or "NAME@GENERATION" means, its release checked.

    A generation that this machine holds whole is found without the controller. The last one is
    asked of the controller; if that does not answer, or nothing can be remembered here, the last
    that is held here is taken.

    Raises:
        InvalidInput: the text is no such name.
        UnknownImage: there is none.
        ContentInvalid, OlderRelease: the release is not what it should be.
    """
    from nodectl.errors import ControllerUnreachable, InvalidInput, UnknownImage
    from nodectl.store.refusals import is_read_only

    name, _, number = text.partition("@")
    if number and (generation or not number.isdecimal() or int(number) == 0):
        raise InvalidInput(f"not an image: {text!r}", hint="examples: golden, golden@3")
    wanted = int(number) if number else generation
    folder = open_state(state)
    held = {one.generation: one for one in folder.held_roots() if one.name == name and one.complete}
    if wanted in held:
        return held[wanted]
    if held and not wanted and is_read_only(folder.folder):
        return _newest(held, "the state folder is read-only: the controller is not asked")
    try:
        return _published(state, folder, name, wanted)
    except ControllerUnreachable:
        if wanted or not held:
            raise
        return _newest(held, "the controller does not answer")
    except UnknownImage as exc:
        raise UnknownImage(str(exc), hint="nodectl image list shows all") from exc


def _newest(held: "Mapping[int, HeldRoot]", why: str) -> "HeldRoot":
    """Return the last generation that is here, and say why not the last that there is."""
    from nodectl.events import Note

    newest = held[max(held)]
    note = f"{why}; {newest.name} is generation {newest.generation} here"
    observer_for(json_lines=False).on(Note(text=note))
    return newest


def _fresh_membership(state: Path | None, folder: "StateFolder") -> tuple["Membership", float]:
    """Return the membership with the publishers of today, and the controller's time."""
    with local_releases(folder) as releases:
        if releases is not None:
            return folder.pin_publishers(releases.publishers.list()), time.time()

    async def fresh(client: "ControlClient") -> tuple["Membership", float]:
        told = await client.publishers()
        return folder.pin_publishers(told), client.now_ms() / 1000

    return ask(state, fresh)


def _published(state: Path | None, folder: "StateFolder", name: str, generation: int) -> "HeldRoot":
    """Return a release that the controller has, with what its swarm needs."""
    from nodectl.errors import OlderRelease, UnknownImage
    from nodectl.node.state import HeldRoot
    from nodectl.trust.publisher import trusted_keys
    from nodectl.trust.release import verify_release

    membership, now = _fresh_membership(state, folder)
    found = [find_release(state, name, generation)] if generation else find_releases(state, name)
    records = {one.signed.release.generation: one for one in found}
    number = generation or max(records, default=0)
    if number not in records:
        what = f"image {name} has no generation {generation}" if records else f"no image {name}"
        raise UnknownImage(what)
    document = records[number].signed.to_json()
    keys = trusted_keys(membership.publishers, now)
    signed = verify_release(document, realm=membership.realm_id, publishers=keys)
    release = signed.release
    if not generation and release.generation < folder.seen_generation(name):
        raise OlderRelease(
            f"the controller's last generation of {name} is {release.generation}, and this "
            f"machine has seen {folder.seen_generation(name)}",
            hint=f"name it if you mean it: {name}@{release.generation}",
        )
    folder.see_generation(name, release.generation)
    for held in folder.held_roots():
        if held.root == release.root:
            return held
    block, key = swarm_ticket(state, release.root)
    return HeldRoot(
        root=release.root,
        swarm_key=key,
        name=name,
        generation=release.generation,
        root_block=block,
        complete=False,
    )
