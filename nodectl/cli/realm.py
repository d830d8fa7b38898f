"""`nodectl init`, `join`, `leave` and `status`."""

import asyncio
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.local import local_user
from nodectl.cli.membership import JsonOption, StateOption, open_state

if TYPE_CHECKING:
    from nodectl.node.state import Membership


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command()(init)
    app.command()(join)
    app.command()(leave)
    app.command()(status)


def make_controller(target: Path, *, realm_name: str, node: str, listen: str) -> "Membership":
    """Make a realm whose controller is this machine; the state folder appears whole or not at all.

    Raises:
        AlreadyThere: the folder is there and not empty.
        InvalidInput: a name is not usable.
    """
    import secrets
    import time

    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.audit import realm_audit
    from nodectl.controller.members import Members
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name
    from nodectl.listen import CONTROL_PORT, Address, own_address, parse_address
    from nodectl.node.state import VERSION, Membership, new_state_folder
    from nodectl.trust.certificate import make_request
    from nodectl.trust.keys import KEY_BYTES
    from nodectl.trust.realm import create_realm, write_realm

    try:
        checked_name(node)
        checked_name(realm_name)
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc
    address = parse_address(listen, default_port=CONTROL_PORT)
    url = Address(own_address(address), address.port).url("https")
    with new_state_folder(target) as new:
        realm = create_realm(realm_name, now=int(time.time()))
        write_realm(realm, new.realm)
        with SqliteCatalog(new.catalog) as catalog:
            members = Members(catalog, realm, time.time)
            secret = secrets.token_bytes(KEY_BYTES)
            first = members.add_first(node, secret)
            request, key = make_request(node)
            document = members.welcome(first, members.certify(node, request))
            audit = realm_audit(realm, new.realm, catalog, time.time)
            audit.note("init", realm_name, who=local_user(), address="local")
        document |= {"version": VERSION, "secret": secret.hex(), "certificate_key": key.decode()}
        membership = Membership.from_json({**document, "controllers": [url], "listen": listen})
        new.write_membership(membership)
    return membership


def init(
    realm: Annotated[str, typer.Option("--realm", help="Name of the realm (of the cluster).")],
    state: StateOption = None,
    node: Annotated[str, typer.Option("--node", help="Name of this node [its host name].")] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDR:PORT", help="Where the controller will be.")
    ] = "0.0.0.0:7443",
    json_output: JsonOption = False,
) -> None:
    """Make a realm, with this machine as its controller.

    Exit codes: 13 the state folder is in use, 14 a name is not usable.
    """
    target = open_state(state).folder
    made = make_controller(target, realm_name=realm, node=node or host_name(), listen=listen)
    if json_output:
        result = {"realm": made.realm_name, "realm_id": made.realm_id, "node": made.node}
        print(json.dumps({**result, "state": str(target), "url": made.controllers[0]}))
        return
    place = "" if state is None else f" --state {target}"
    print(f"made the realm {made.realm_name} in {target}; this machine is its node {made.node}")
    print("next:")
    print(f"  nodectl serve --controller{place}        # here; leave it running")
    print(f"  nodectl token create{place}              # here; prints a token for other machines")
    print("  nodectl join --token T --name NAME      # there, then: nodectl serve")


def join(
    token: Annotated[
        str, typer.Option("--token", envvar="NODECTL_TOKEN", help="As `token create` printed it.")
    ],
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="The controller [as the token says].")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Name of this node [its host name].")] = "",
    force: Annotated[bool, typer.Option("--force", help="Join again, or another realm.")] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make this machine a member of a realm.

    Exit codes: 13 it is one already, 14 the name is not usable, 41 the token is refused,
    42 the controller does not answer, 44 another node has the name.
    """
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name
    from nodectl.node.join import join as join_realm
    from nodectl.trust.token import parse_token

    try:
        node = checked_name(name or host_name())
    except ValueError as exc:
        raise InvalidInput(str(exc), hint="name this node with --name") from exc
    folder = open_state(state)
    made = asyncio.run(join_realm(folder, parse_token(token), name=node, url=url, force=force))
    if json_output:
        print(json.dumps({"realm": made.realm_name, "node": made.node, "role": made.role.value}))
        return
    place = "" if state is None else f" --state {folder.folder}"
    print(f"joined the realm {made.realm_name} as the {made.role.value} {made.node}")
    print(f"next: nodectl serve{place}   # leave it running")


def leave(
    state: StateOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even when the controller cannot be told.")
    ] = False,
) -> None:
    """Leave the realm: the controller forgets this node, and this node its keys. Frames stay.

    Exit codes: 18 this machine is the controller, 40 it is no member, 42 the controller does not
    answer.
    """
    from nodectl.errors import ControllerUnreachable, NotAllowed, NotConfirmed, UnknownNode
    from nodectl.node.client import ControlClient

    folder = open_state(state)
    membership = folder.membership()
    if folder.realm.exists():
        raise NotConfirmed(
            f"this machine is the controller of {membership.realm_name}: leaving would lose the "
            "realm's keys",
            hint=f"to give up the realm, delete {folder.folder} by hand",
        )

    async def tell() -> None:
        async with ControlClient(membership) as client:
            await client.remove_node(membership.node)

    try:
        asyncio.run(tell())
    except (UnknownNode, NotAllowed):
        pass  # it has forgotten this node already
    except ControllerUnreachable:
        if not force:
            raise
    folder.forget_membership()
    print(f"left the realm {membership.realm_name}; the frames in {folder.store} are kept")


def status(state: StateOption = None, json_output: JsonOption = False) -> None:
    """Show what this machine is, and whether its controller answers.

    Exit codes: 40 it is no member, 42 the controller does not answer.
    """
    from nodectl.node.client import ControlClient

    folder = open_state(state)
    membership = folder.membership()

    async def touch() -> int:
        async with ControlClient(membership) as client:
            return len(await client.releases())

    facts = {
        "realm": membership.realm_name,
        "node": membership.node,
        "role": membership.role.value,
        "state": str(folder.folder),
        "controllers": list(membership.controllers),
        "held_roots": len(folder.held_roots()),
    }
    if not json_output:
        for name, value in facts.items():
            print(f"{name:12}{', '.join(value) if isinstance(value, list) else value}")
    releases = asyncio.run(touch())
    if json_output:
        print(json.dumps({**facts, "releases": releases, "controller_answers": True}))
    else:
        print(f"{'controller':12}answers; it has {releases} releases")


def host_name() -> str:
    """Return this machine's name without its domain."""
    return socket.gethostname().partition(".")[0]
