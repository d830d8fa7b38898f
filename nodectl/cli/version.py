"""`nodectl version` and `nodectl self verify`: what runs, and whether it is whole."""

import json
import time

import typer

from nodectl.zipapp.archive import running
from nodectl.zipapp.identity import identity

self_app = typer.Typer(no_args_is_help=True, help="Look after nodectl.pyz itself.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(version)
    app.add_typer(self_app, name="self")


def version(
    as_json: bool = typer.Option(False, "--json", help="One JSON object instead of a line."),
) -> None:
    """Print version, build id, Python and architecture.

    Exit codes: 0.
    """
    what = identity()
    if as_json:
        print(json.dumps(what._asdict()))
    else:
        print(
            f"nodectl {what.version} (build {what.build_id}, Python {what.python}, "
            f"{what.architecture})"
        )


@self_app.command()
def verify(
    as_json: bool = typer.Option(False, "--json", help="One JSON object instead of a line."),
) -> None:
    """Check every part of the running nodectl.pyz against the hashes it was built with.

    Exit codes: 0 whole, 14 not run from a nodectl.pyz, 70 damaged.
    """
    from nodectl.errors import InvalidInput
    from nodectl.zipapp.selfcheck import verify as verify_archive

    archive = running()
    if archive is None:
        raise InvalidInput(
            "this nodectl runs from its source, which has no hash list",
            hint="run it from a nodectl.pyz: python3 build_zipapp.py",
        )
    began = time.monotonic()
    checked = verify_archive(archive)
    seconds = time.monotonic() - began
    if as_json:
        print(
            json.dumps(
                {"ok": True, "build_id": archive.build_id, "path": archive.path}
                | {"members": checked.members, "bytes": checked.bytes_read}
                | {"seconds": round(seconds, 3)}
            )
        )
    else:
        print(f"{archive.path}: {checked.members} members, build {archive.build_id}: whole")
