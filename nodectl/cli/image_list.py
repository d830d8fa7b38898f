"""`nodectl image list|show`, and publishing a release.

On the controller's machine both work without a running controller; elsewhere they ask it.
"""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption
from nodectl.cli.releases import find_releases

if TYPE_CHECKING:
    from nodectl.catalog.records import ReleaseRecord


def register(image_app: typer.Typer) -> None:
    """Add these commands to `nodectl image`."""
    image_app.command("list")(image_list)
    image_app.command("show")(image_show)


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
