"""`nodectl install-service`: nodectl serve, started with the machine."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nodectl.cli.membership import JsonOption


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command("install-service")(install)


def install(
    controller: Annotated[
        bool, typer.Option("--controller", help="The service also runs the controller.")
    ] = False,
    options: Annotated[
        str, typer.Option("--options", help='More for serve: "--upload-rate 50M".')
    ] = "",
    root: Annotated[
        Path, typer.Option("--root", help="Top of another system, e.g. of an OS template.")
    ] = Path("/"),
    start: Annotated[bool, typer.Option("--start/--no-start", help="Also start it now.")] = True,
    show: Annotated[bool, typer.Option("--show", help="Print the unit, and stop.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Put nodectl.pyz into /usr/local/lib/nodectl, and a hardened systemd unit that serves.

    What serve is told stands in /etc/default/nodectl; it is left as it is unless --controller or
    --options is given. Again with a newer nodectl.pyz is an upgrade. The unit waits for a
    membership: nodectl init, or nodectl join.

    Exit codes: 10 not started by systemd, 14 this is no nodectl.pyz, or wrong options, 15-16
    systemctl is missing or failed, 17 not root.
    """
    from nodectl.errors import InvalidInput
    from nodectl.node.service import install_service, unit_text
    from nodectl.zipapp.archive import running

    if show:
        print(unit_text(sys.executable), end="")
        return
    archive = running()
    if archive is None:
        raise InvalidInput(
            "only nodectl.pyz can be installed as a service, and this is not it",
            hint="python3 build_zipapp.py makes it",
        )
    try:
        words = [*(["--controller"] if controller else []), *shlex.split(options)]
    except ValueError as exc:
        raise InvalidInput(f"--options: {exc}") from exc
    if any(char in word for word in words for char in "\"'\\$%\n \t"):
        raise InvalidInput("--options: no quotes, blanks, backslashes, $ or % in a word")
    done = install_service(
        Path(archive.path),
        sys.executable if root == Path("/") else "/usr/bin/python3",
        root=root,
        options=" ".join(words),
        start=start and root == Path("/"),
    )
    if json_output:
        print(json.dumps({"written": done.files, "kept": done.kept, "started": done.started}))
        return
    print("".join(f"wrote {path}\n" for path in done.files), end="")
    print("".join(f"kept {path} as it was\n" for path in done.kept), end="")
    print("nodectl serves; systemctl status nodectl" if done.started else "it starts at next boot")
