"""`nodectl image list|show`, and publishing a release.

On the controller's machine both work without a running controller; elsewhere they ask it.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask, open_state
from nodectl.ids import Root

if TYPE_CHECKING:
    from nodectl.catalog.records import ReleaseRecord


def register(image_app: typer.Typer) -> None:
    """Add these commands to `nodectl image`."""
    image_app.command("list")(image_list)
    image_app.command("show")(image_show)


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
    if not folder.realm.exists():
        return ask(
            state, lambda client: client.publish(name, root, root_block, kind=kind, totals=totals)
        )
    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.releases import Publication, Releases
    from nodectl.trust.realm import load_realm

    wanted = Publication(
        name=name,
        root=root,
        root_block=root_block,
        kind=kind,
        totals=totals,
        origin=membership.node,
    )
    with SqliteCatalog(folder.catalog) as catalog:
        return Releases(catalog, load_realm(folder.realm), time.time).publish(wanted)


def find_releases(state: Path | None, name: str = "") -> list["ReleaseRecord"]:
    """Return all releases (of one name), sorted by name and generation."""
    folder = open_state(state)
    if not folder.realm.exists():
        return ask(state, lambda client: client.releases(name))
    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.releases import Releases
    from nodectl.trust.realm import load_realm

    with SqliteCatalog(folder.catalog) as catalog:
        return list(Releases(catalog, load_realm(folder.realm), time.time).list(name))


def image_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the images: the last generation of each name.

    Exit codes: 40 this machine is no member, 42 the controller does not answer.
    """
    last = {record.signed.release.name: record for record in find_releases(state)}
    if json_output:
        print(json.dumps({"images": [record.to_json() for record in last.values()]}))
        return
    from nodectl.cli.table import table

    print(table(_HEADER, [_row(record) for record in last.values()]))


def image_show(
    name: Annotated[str, typer.Argument()],
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show all generations of an image.

    Exit codes: 28 no such image, 40 this machine is no member, 42 the controller does not answer.
    """
    from nodectl.errors import UnknownImage

    records = find_releases(state, name)
    if not records:
        raise UnknownImage(f"no image is named {name}", hint="nodectl image list shows all")
    if json_output:
        print(json.dumps({"name": name, "generations": [record.to_json() for record in records]}))
        return
    from nodectl.cli.table import table

    print(table(_HEADER, [_row(record) for record in records]))
    for total, count in sorted(records[-1].signed.release.totals.items()):
        print(f"  {total}: {count:,}")


_HEADER = ("IMAGE", "GENERATION", "KIND", "ROOT", "CREATED", "FROM")


def _row(record: "ReleaseRecord") -> tuple[str, ...]:
    import datetime as dt

    release = record.signed.release
    created = dt.datetime.fromtimestamp(release.created, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    generation, root = str(release.generation), release.root.hex()[:16]
    return (release.name, generation, release.kind, root, created, record.origin)
