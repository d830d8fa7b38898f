"""`nodectl audit show` and `nodectl audit verify`: on the controller's machine."""

import json
from typing import Annotated, Any

import typer

from nodectl.cli.local import local_controller
from nodectl.cli.membership import JsonOption, StateOption

audit_app = typer.Typer(no_args_is_help=True, help="Who did what, when, and from where.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(audit_app, name="audit")


@audit_app.command("show")
def audit_show(
    last: Annotated[int, typer.Option("--last", min=1, help="How many entries.")] = 50,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show the last entries of the audit log, each checked (on the controller).

    With --json one object a line.

    Exit codes: 40 this machine is no controller, 80 the log was changed or cut.
    """
    from collections import deque

    with local_controller(state) as local:
        entries = deque(local.audit.entries(), maxlen=last)
        local.audit.verify()
    if json_output:
        for entry in entries:
            print(json.dumps(entry))
        return
    from nodectl.cli.table import table

    rows = [
        (_when(one["at"]), one["who"] or "-", one["from"] or "-", one["what"], one["whom"],
         _details(one["details"]))
        for one in entries
    ]  # fmt: skip
    print(table(("WHEN", "WHO", "FROM", "WHAT", "WHOM", ""), rows))


@audit_app.command("verify")
def audit_verify(state: StateOption = None, json_output: JsonOption = False) -> None:
    """Check the whole audit log: that no entry was changed, taken out, put in or cut off.

    Write the number and seal down elsewhere: who holds the controller's disk and its keys could
    write another log, but none that holds that line.

    Exit codes: 40 this machine is no controller, 80 the log was changed or cut.
    """
    with local_controller(state) as local:
        head = local.audit.verify()
    if json_output:
        print(json.dumps({"ok": True, "entries": head.seq, "seal": head.seal.hex()}))
    else:
        print(
            f"the audit log is whole: {head.seq} entries, the last has the seal {head.seal.hex()}"
        )


def _details(details: dict[str, Any]) -> str:
    return " ".join(f"{name}={json.dumps(value)}" for name, value in details.items())[:160]


def _when(seconds: int) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
