"""`nodectl power`: machines on, off, reset, through their management controllers."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask, open_state
from nodectl.power.config import Action

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient
    from nodectl.power.config import Target
    from nodectl.power.switching import Pace

_CONFIG = "power.toml"


FanOut = Annotated[
    int, typer.Option("--fan-out", min=1, max=1024, help="So many machines at once.")
]
Pause = Annotated[
    float, typer.Option("--pause", min=0, max=600, help="Seconds between two that start.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=1, max=600, help="Seconds for one answer.")
]
Settle = Annotated[
    float, typer.Option("--settle", min=1, max=3600, help="Seconds until it must have happened.")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="How they are reached [STATE/power.toml].")
]


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(power)


def power(
    action: Annotated[Action, typer.Argument(help="What is to be done.")],
    nodes: Annotated[str, typer.Option("--nodes", help="Such as node[01-40],@gpu!n07.")],
    fan_out: FanOut = 16,
    pause: Pause = 0.5,
    timeout: Timeout = 15.0,
    settle: Settle = 60.0,
    config: Config = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show how each is reached.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    r"""Switch the machines of nodes, and look whether it happened.

    power.toml says how management controllers are reached; where they are says the inventory
    (nodectl node set NODE --bmc ADDRESS). Reset and cycle switch on what was off. A machine that
    does not answer holds up no other.

    \b
    [[bmc]]
    nodes = "node[01-40]"
    kind = "redfish"                    # or "ipmi" (ipmitool), or "hook"
    user = "admin"
    password_file = "/etc/nodectl/bmc"  # mode 0600
    [[bmc]]
    nodes = "all"
    kind = "hook"
    command = ["/usr/local/sbin/pdu", "{action}", "{node}"]

    Example: nodectl power reset --nodes node[01-40] --fan-out 4 --pause 2

    Exit codes: 10 no power.toml, 11 it, or a password file, is not readable or not private, 14
    mistakes in it, or no such nodes, 42-43 the controller, 90 no address in the inventory, 94 a
    machine was not switched.
    """
    from nodectl.power.switching import Pace

    wanted = _targets(config or open_state(state).folder / _CONFIG, state, nodes)
    if dry_run:
        _print_targets(wanted, json_output=json_output)
        return
    pace = Pace(fan_out=fan_out, pause_s=pause, timeout_s=timeout, settle_s=settle)
    _switch(wanted, action, pace, json_output=json_output)


def _switch(
    wanted: "tuple[Target, ...]", action: Action, pace: "Pace", *, json_output: bool
) -> None:
    """Switch them, print what came of each, and fail if one failed."""
    from nodectl.errors import PowerFailed
    from nodectl.power.switching import Outcome, switch_all

    def heard(one: Outcome) -> None:
        if not json_output:
            print(f"{one.node}: {one.sentence}", file=sys.stdout if one.ok else sys.stderr)

    found = asyncio.run(switch_all(wanted, action, pace, heard))
    failed = [one.node for one in found if not one.ok]
    if json_output:
        rows = [
            {"node": one.node, "ok": one.ok, "on": one.is_on, "sentence": one.sentence}
            for one in found
        ]
        print(json.dumps({"action": action.value, "nodes": rows}))
    if failed:
        shown = ", ".join(failed[:20]) + (" ..." if len(failed) > 20 else "")  # noqa: PLR2004
        raise PowerFailed(
            f"{len(failed)} of {len(found)} machines failed: {shown}",
            hint=f"again for them: nodectl power {action} --nodes {','.join(failed[:20])}",
        )


def _targets(config: Path, state: Path | None, nodes: str) -> "tuple[Target, ...]":
    from nodectl.catalog.noderange import known_nodes
    from nodectl.cli.nodes import node_names
    from nodectl.errors import PathMissing, PathUnreadable
    from nodectl.node.inventory import all_inventories
    from nodectl.power.config import parse_power, targets

    try:
        entries = parse_power(config.read_text(), source=str(config))
    except FileNotFoundError as exc:
        raise PathMissing(
            f"there is no {config}", hint="nodectl power --help shows what stands in it"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise PathUnreadable(f"{config} cannot be read: {exc}") from exc
    for entry in entries:
        _check_private(entry.password_file)

    async def look(client: "ControlClient") -> "tuple[Target, ...]":
        names = await node_names(client, nodes, joined=False)
        said = {one.name: one for one, _ in await all_inventories(client)}
        known = known_nodes({*names, *said}, said.values())
        return targets(entries, names, said, known, source=str(config))

    return ask(state, look)


def _check_private(password_file: str) -> None:
    """Refuse a password that others can read."""
    from nodectl.errors import PathUnreadable

    if not password_file:
        return
    try:
        mode = Path(password_file).stat().st_mode
    except OSError as exc:
        raise PathUnreadable(f"{password_file} cannot be read: {exc.strerror}") from exc
    if mode & 0o077:
        raise PathUnreadable(
            f"{password_file} can be read by others than its owner",
            hint=f"chmod 600 {password_file}",
        )


def _print_targets(wanted: "tuple[Target, ...]", *, json_output: bool) -> None:
    from nodectl.cli.table import table

    rows = [(one.node, one.bmc.kind.value, one.address) for one in wanted]
    if json_output:
        print(json.dumps([dict(zip(("node", "kind", "bmc"), row, strict=True)) for row in rows]))
        return
    print(table(("NODE", "BY", "BMC"), rows))
