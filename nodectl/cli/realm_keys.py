"""`nodectl realm`: what the realm is, its keys, and the way back from a lost controller."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.local import local_controller, local_user
from nodectl.cli.membership import JsonOption, StateOption, open_state

if TYPE_CHECKING:
    from nodectl.cli.local import Local

_SHOWN = 10

realm_app = typer.Typer(no_args_is_help=True, help="The realm of this controller, and its keys.")

PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A file whose first line it is [asked for]."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(realm_app, name="realm")


@realm_app.command("show")
def realm_show(state: StateOption = None, json_output: JsonOption = False) -> None:
    """Show the realm of this controller: its id, its CA, its publishers, its members, its keys.

    While the realm key is changed also which releases are under the old one, and how far the
    image is that is sealed again on this machine.

    Exit codes: 40 this machine is no controller, 80 the audit log was changed or cut.
    """
    import time

    from nodectl.controller.members import Members
    from nodectl.controller.publishers import Publishers
    from nodectl.trust.publisher import trusted_keys

    with local_controller(state) as local:
        members = Members(local.catalog, local.realm, time.time)
        nodes = members.list()
        publishers = Publishers(local.catalog, local.realm, time.time).list()
        head = local.audit.verify()
        key_change = _key_change(local)
    facts: dict[str, Any] = {
        "realm": local.realm.name,
        "id": local.realm.realm_id,
        "created": local.realm.created,
        "ca_sha256": local.realm.ca_sha256().hex(),
        "members": len(nodes),
        "certificates_due": sum(members.renewal_due(node) for node in nodes),
        "publishers": len(trusted_keys(publishers, time.time())),
        "audit_entries": head.seq,
        **key_change,
    }
    if json_output:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        print(f"{name:18}{', '.join(value) if isinstance(value, list) else value}")


def _key_change(local: "Local") -> dict[str, Any]:
    """Return what there is to say while the realm key is changed."""
    from nodectl.controller.keyuse import of_other_keys
    from nodectl.node.resealing import progress

    if not local.realm.old_keys:
        return {}
    bound = [one.signed.release for one in of_other_keys(local.catalog, local.realm)]
    return {
        "realm_key": "is being changed" if bound else "changed; rotate-key --finish ends it",
        "under_old_key": [f"{one.name}@{one.generation}" for one in bound],
        "sealing_again": progress(local.folder) or "nothing here",
    }


@realm_app.command("rotate-ca")
def realm_rotate_ca(
    finish: Annotated[
        bool, typer.Option("--finish", help="When the members have the new one.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Finish without those that have it not.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Change the realm's CA, in two steps, without a node that has to join again.

    First: a new CA is made; members get certificates of it by themselves while they trust both.
    Then, with --finish: only the new one counts. A controller that runs takes over each step by
    itself. Join tokens made before the second step are worth nothing after it.

    Exit codes: 13 it is being changed already, 14 it is not, 31 members have not got it yet,
    40 this machine is no controller.
    """
    import time

    from nodectl.controller.members import Members
    from nodectl.errors import NodesFailed
    from nodectl.trust.realm import begin_rotation, finish_rotation

    with local_controller(state) as local:
        if not finish:
            begin_rotation(local.folder.realm)
            local.note("rotate-ca", local.realm.name)
            print("made the next CA; the members get certificates of it by themselves")
            print("when nodectl realm show has none due: nodectl realm rotate-ca --finish")
            return
        members = Members(local.catalog, local.realm, time.time)
        behind = [node.name for node in members.list() if members.renewal_due(node)]
        if behind and not force and local.realm.next_authority is not None:
            raise NodesFailed(
                f"{len(behind)} members have no certificate of the next CA yet: "
                f"{', '.join(behind[:_SHOWN])}",
                hint="start nodectl serve there; or --force: they have to join again",
            )
        finish_rotation(local.folder.realm)
        local.note("rotate-ca finish", local.realm.name, left_behind=behind)
    print("the old CA counts no more")


@realm_app.command("rotate-key")
def realm_rotate_key(
    finish: Annotated[
        bool, typer.Option("--finish", help="Forget the old key, when no image needs it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Finish, and delete the releases that need it.")
    ] = False,
    state: StateOption = None,
) -> None:
    """Change the realm key, in two steps, while the swarm goes on.

    First: a new key is made. Members learn what they need of it within seconds, or when they are
    up again; a node that was removed never does. What is captured from now on is sealed with it,
    and the newest generation of each image is sealed again in the background by the nodectl serve
    of the machine that captured it (or by nodectl image reseal on another operator that holds
    it), as the next generation. Push that one to the nodes. What they had stays good.

    Then, when nodectl realm show lists no release under the old key: --finish.

    Exit codes: 13 it is being changed already, 14 it is not, or releases need the old key,
    40 this machine is no controller.
    """
    import dataclasses

    from nodectl.controller.inventories import Inventories
    from nodectl.controller.site_files import SiteFiles
    from nodectl.trust.realm import begin_key_rotation, finish_key_rotation

    with local_controller(state) as local:
        if finish:
            deleted = _free_of_old_key(local, force=force)
            # Sealed again with the present key, should no controller have run meanwhile.
            SiteFiles(local.catalog, local.realm, Inventories(local.catalog))
            finish_key_rotation(local.folder.realm)
            local.note("rotate-key finish", local.realm.name, deleted=deleted)
            print("the old key is gone" + (f"; deleted {', '.join(deleted)}" if deleted else ""))
            return
        local.note("rotate-key", local.realm.name)
        realm = begin_key_rotation(local.folder.realm)
        # This machine at once, whether or not its controller runs.
        membership = local.folder.membership()
        local.folder.write_membership(
            dataclasses.replace(membership, content_keys=realm.content_keys())
        )
    print("made the next realm key; what is captured from now on is sealed with it")
    print("nodectl realm show tells which images are still under the old one")


def _free_of_old_key(local: "Local", *, force: bool) -> list[str]:
    """Return the releases that were deleted, by force, because they need the old key.

    Raises:
        InvalidInput: there are such, and no force.
    """
    from nodectl.controller.keyuse import of_other_keys
    from nodectl.controller.retention import apply_retention
    from nodectl.errors import InvalidInput

    bound = of_other_keys(local.catalog, local.realm)
    names = [f"{one.signed.release.name}@{one.signed.release.generation}" for one in bound]
    if not local.realm.old_keys:
        return []
    if bound and not force:
        raise InvalidInput(
            f"{len(bound)} releases need the old key: {', '.join(names[:_SHOWN])}",
            hint="seal the newest again (nodectl image reseal), push it to the nodes, delete the "
            "others (nodectl store gc --keep-last 1); or --force, which deletes them all",
        )
    apply_retention(local.catalog, bound)
    return names


@realm_app.command("export-recovery")
def realm_export(
    file: Annotated[Path, typer.Argument(help="To write; must not be there.")],
    passphrase_file: PassphraseOption = None,
    state: StateOption = None,
) -> None:
    """Write what a lost controller is made again from: keys, members, releases. Encrypted.

    Keep it on another machine. Nodes that join later are not in it: write it again then.

    Exit codes: 13 the file is there, 14 the passphrase is too short, 40 no controller.
    """
    from nodectl.controller.recovery import export_recovery
    from nodectl.errors import AlreadyThere
    from nodectl.fsio import write_private

    if file.exists():
        raise AlreadyThere(f"{file} is there already", hint="name another file")
    passphrase = _passphrase(passphrase_file, new=True)
    with local_controller(state) as local:
        membership = local.folder.membership().to_json()
        data = export_recovery(local.folder.realm, local.catalog, membership, passphrase)
        write_private(file, data)
        local.note("export-recovery", local.realm.name)
    print(f"wrote {file}; without its passphrase it is worth nothing")


@realm_app.command("recover")
def realm_recover(
    file: Annotated[Path, typer.Argument(help="As export-recovery wrote it.")],
    passphrase_file: PassphraseOption = None,
    state: StateOption = None,
) -> None:
    """Make this machine the controller that was lost; give it the address that one had.

    Exit codes: 10 no such file, 13 the state folder is in use, 82 damaged, or another passphrase.
    """
    import time

    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.audit import realm_audit
    from nodectl.controller.recovery import open_recovery
    from nodectl.errors import PathMissing, RecoveryInvalid
    from nodectl.node.state import Membership, new_state_folder
    from nodectl.trust.realm import load_realm

    if not file.is_file():
        raise PathMissing(f"there is no file {file}")
    recovery = open_recovery(file.read_bytes(), _passphrase(passphrase_file, new=False))
    try:
        membership = Membership.from_json(recovery.membership)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecoveryInvalid(f"the recovery file holds no membership: {exc}") from exc
    target = open_state(state).folder
    with new_state_folder(target) as new:
        recovery.write_realm(new.realm)
        with SqliteCatalog(new.catalog) as catalog:
            recovery.fill(catalog)
            audit = realm_audit(load_realm(new.realm), new.realm, catalog, time.time)
            audit.note("recover", membership.realm_name, who=local_user(), address="local")
        new.write_membership(membership)
    print(f"this machine is the controller of {membership.realm_name} again, in {target}")
    print(f"next: nodectl serve --controller   # at {', '.join(membership.controllers)}")


def _passphrase(file: Path | None, *, new: bool) -> str:
    from nodectl.controller.recovery import PASSPHRASE_MIN
    from nodectl.errors import InvalidInput

    if file is not None:
        text = file.read_text("utf-8").partition("\n")[0]
    else:
        text = typer.prompt("passphrase", hide_input=True, confirmation_prompt=new)
    if new and len(text) < PASSPHRASE_MIN:
        raise InvalidInput(f"the passphrase has fewer than {PASSPHRASE_MIN} characters")
    return text
