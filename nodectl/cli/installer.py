"""`nodectl cloner make-installer`, and what runs inside of what it makes."""

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.cloner import cloner_app
from nodectl.cli.membership import JsonOption, StateOption, open_state
from nodectl.cli.progress import observer_for

if TYPE_CHECKING:
    from nodectl.catalog.records import Job
    from nodectl.node.state import StateFolder

installer_app = typer.Typer(no_args_is_help=True, help="What runs inside an installer.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    cloner_app.command("make-installer")(make_installer)
    app.add_typer(installer_app, name="installer", hidden=True)


def make_installer(
    root: Annotated[
        Path, typer.Option("--root", metavar="DIR", help="The system to take it from.")
    ] = Path("/"),
    kernel: Annotated[
        str, typer.Option("--kernel", metavar="VERSION", help="Its kernel [the newest].")
    ] = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Where to [where the controller here serves it from]."
        ),
    ] = None,
    pyz: Annotated[
        Path | None, typer.Option("--pyz", metavar="FILE", help="The nodectl.pyz in it [this one].")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take the place of one that is there.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Compress less: in seconds, and a third larger.")
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make what machines start that clone themselves: this system's kernel and a first root.

    Kernel, modules, Python and programs come from the running system or, with --root, from a tree;
    the same tree gives the same bytes. Made elsewhere than on the controller, the folder is copied
    to the controller as STATE/installers/ARCHITECTURE.

    Exit codes: 10 no such tree, 13 there is one (--overwrite), 14 this is not nodectl.pyz, and
    --pyz names none, 92 the tree lacks something, or the result is too large.
    """
    from nodectl.installer.make import MakeWish
    from nodectl.installer.make import make_installer as make
    from nodectl.installer.pyz import nodectl_of

    chosen = nodectl_of(pyz)
    target = output or open_state(state).installers / chosen.machine
    wish = MakeWish(target=target, root=root, nodectl=chosen, kernel=kernel,
                    overwrite=overwrite, quick=quick)  # fmt: skip
    made = make(wish, observer_for(json_lines=json_output))
    if json_output:
        print(json.dumps({"folder": str(target), **made.to_json()}))
        return
    from nodectl.units import format_size

    total = sum(made.sizes.values())
    print(f"{target}: {made.made_on}, kernel {made.kernel}, Python {made.python}, "
          f"{format_size(total)}")  # fmt: skip
    if made.lacks:
        print(f"  without {', '.join(made.lacks)}: layouts that need them cannot be made")


@installer_app.command("run")
def installer_run(
    words: Annotated[
        Path, typer.Option("--cmdline", help="Where the kernel's command line stands.")
    ] = Path("/proc/cmdline"),
) -> None:
    """Clone this machine as its controller ordered; process 1 of an installer calls it.

    Exit codes: 14 the kernel's command line is wrong, 41 the boot ticket is refused, 42 no network
    or controller, 29 the clone failed, 81 its order is not the controller's.
    """
    from nodectl.installer.cmdline import parse_words
    from nodectl.installer.inside import Installing
    from nodectl.installer.network import network_up
    from nodectl.node.state import state_folder

    logging.getLogger().setLevel(logging.INFO)
    wanted = parse_words(words.read_text("utf-8", "replace"))
    observer = observer_for(json_lines=False)

    async def main() -> None:
        async with network_up(wanted, observer):
            await Installing(wanted, state_folder(None), clone_argv, observer).run()

    asyncio.run(main())
    print(f"nodectl: {wanted.name} is cloned", file=sys.stderr)


def clone_argv(job: "Job", state: "StateFolder", layout: Path) -> Sequence[str]:
    """Return `nodectl clone NAME@GENERATION --layout FILE --yes --json --state DIR`."""
    from nodectl.zipapp.identity import self_command

    words = [
        *self_command(), "clone", f"{job.name}@{job.generation}", "--yes", "--json",
        "--boot-order", str(job.options.get("boot_order", "leave")),
        "--job", str(job.job_id), "--join-clone", "--state", str(state.folder),
    ]  # fmt: skip
    return [*words, "--layout", str(layout)] if job.options.get("layout") else words
