"""`nodectl token create`, `list` and `revoke`: on the controller's machine."""

import json
from typing import Annotated

import typer

from nodectl.cli.durations import parse_ttl
from nodectl.cli.local import local_controller
from nodectl.cli.membership import JsonOption, StateOption
from nodectl.cli.roles import parse_role

_USES_MAX = 100_000

token_app = typer.Typer(no_args_is_help=True, help="Join tokens: what lets a machine in.")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(token_app, name="token")


@token_app.command("create")
def token_create(
    role: Annotated[str, typer.Option("--role", help="node, operator or installer.")] = "node",
    ttl: Annotated[str, typer.Option("--ttl", help="How long it is good: 30m, 1h, 7d.")] = "1h",
    uses: Annotated[int, typer.Option("--uses", min=1, max=_USES_MAX, help="How often.")] = 1,
    name: Annotated[str, typer.Option("--name", help="Only for a node of this name.")] = "",
    mac: Annotated[
        str, typer.Option("--mac", help="Only for the machine with this network card.")
    ] = "",
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make a join token (on the controller). It is a secret: whoever has it gets in.

    Exit codes: 14 a wrong role, time, name or MAC address, 40 this machine is no controller.
    """
    import time

    from nodectl.controller.members import Members
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name
    from nodectl.trust.token import Machine, checked_mac

    wanted, ttl_s = parse_role(role), parse_ttl(ttl)
    try:
        machine = Machine(checked_name(name) if name else "", checked_mac(mac) if mac else "")
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc
    with local_controller(state) as local:
        urls = local.folder.membership().controllers
        members = Members(local.catalog, local.realm, time.time)
        token = members.issue_token(urls, role=wanted, ttl_s=ttl_s, uses=uses, machine=machine)
        local.note("token create", token.token_id, role=role, ttl_s=ttl_s, uses=uses, for_=machine)
    if json_output:
        made = {"token": token.text(), "id": token.token_id, "role": wanted.value, "uses": uses}
        print(json.dumps(made))
    else:
        print(token.text())


@token_app.command("list")
def token_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the join tokens (on the controller); their secrets are kept nowhere.

    Exit codes: 40 this machine is no controller.
    """
    import time

    from nodectl.controller.members import Members
    from nodectl.units import format_duration

    with local_controller(state) as local:
        records = Members(local.catalog, local.realm, time.time).tokens()
    now = time.time()
    if json_output:
        shown = [{**one.to_json(), "good": one.uses_left > 0 and now < one.expires}
                 for one in records]  # fmt: skip
        for one in shown:
            del one["secret_hash"]
        print(json.dumps({"tokens": shown}))
        return
    from nodectl.cli.table import table

    rows = [
        (one.token_id, one.role.value, str(one.uses_left),
         format_duration(one.expires - now) if now < one.expires else "expired",
         one.machine.name or "any", one.machine.mac or "any")
        for one in records
    ]  # fmt: skip
    print(table(("TOKEN", "ROLE", "USES LEFT", "GOOD FOR", "NAME", "MAC"), rows))


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.")],
    state: StateOption = None,
) -> None:
    """Revoke a join token (on the controller): nobody joins with it any more.

    Exit codes: 40 this machine is no controller, 84 no such token.
    """
    import time

    from nodectl.controller.members import Members

    with local_controller(state) as local:
        Members(local.catalog, local.realm, time.time).revoke_token(token_id)
        local.note("token revoke", token_id)
    print(f"revoked the token {token_id}")
