"""`nodectl publisher`: whose signature on a release counts, and signatures made elsewhere."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.durations import parse_ttl
from nodectl.cli.local import local_controller
from nodectl.cli.membership import JsonOption, StateOption, ask

if TYPE_CHECKING:
    from nodectl.trust.publisher import Publisher

publisher_app = typer.Typer(
    no_args_is_help=True,
    help="Who signs releases. With a key that is kept elsewhere: publisher add; then for each "
    "release: publisher statement NAME > f; ssh-keygen -Y sign -n nodectl -f KEY f; "
    "publisher sign NAME --signature f.sig.",
)
_SIGNATURE_MAX = 8192
_SHOWN_DIGITS = 16


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(publisher_app, name="publisher")


@publisher_app.command("list")
def publisher_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the publishers: name, key, and whether its signatures count.

    Exit codes: 40 this machine is no member, 42 the controller does not answer.
    """
    import time

    from nodectl.cli.table import table

    publishers = ask(state, lambda client: client.publishers())
    if json_output:
        print(json.dumps({"publishers": [one.to_json() for one in publishers]}))
        return
    rows = [(one.name, one.key.hex()[:_SHOWN_DIGITS], _standing(one, time.time()))
            for one in publishers]  # fmt: skip
    print(table(("PUBLISHER", "KEY", "STATE"), rows))


@publisher_app.command("add")
def publisher_add(
    key: Annotated[str, typer.Argument(help="A file such as id_ed25519.pub, or its line.")],
    name: Annotated[str, typer.Option("--name", help="How it is called.")],
    ttl: Annotated[str, typer.Option("--ttl", help="How long it counts: 90d [for good].")] = "",
    state: StateOption = None,
) -> None:
    """Let releases signed with an Ed25519 key count (on the controller).

    Exit codes: 13 it counts already, 14 no such key, or it was revoked, 40 no controller.
    """
    import time

    from nodectl.controller.publishers import Publishers
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name
    from nodectl.trust.sshsig import parse_public_key

    path = Path(key)
    try:
        text = path.read_text("utf-8")[:_SIGNATURE_MAX] if path.is_file() else key
        checked_name(name)
    except ValueError as exc:
        raise InvalidInput(f"{key[:80]!r}: {exc}") from exc
    raw = parse_public_key(text)
    with local_controller(state) as local:
        publishers = Publishers(local.catalog, local.realm, time.time)
        made = publishers.add(raw, name=name, ttl_s=parse_ttl(ttl) if ttl else 0)
        local.note("publisher add", name, key=made.key.hex(), expires=made.expires)
    print(f"releases signed with the key of {name} count from now on")


@publisher_app.command("revoke")
def publisher_revoke(
    publisher: Annotated[str, typer.Argument(help="Its name, or the beginning of its key.")],
    state: StateOption = None,
) -> None:
    """Revoke a publisher (on the controller), for good: every node refuses its releases.

    Exit codes: 40 this machine is no controller, 83 no such publisher.
    """
    import time

    from nodectl.controller.publishers import Publishers

    with local_controller(state) as local:
        gone = Publishers(local.catalog, local.realm, time.time).revoke(publisher)
        local.note("publisher revoke", gone.name, key=gone.key.hex())
    print(f"revoked {gone.name}: sign its releases again with another key (publisher sign)")


@publisher_app.command("statement")
def publisher_statement(
    name: Annotated[str, typer.Argument(help="Of the image.")],
    generation: Annotated[int | None, typer.Option("--generation", min=1)] = None,
    state: StateOption = None,
) -> None:
    """Print the bytes that are signed for a release, for ssh-keygen -Y sign -n nodectl.

    Exit codes: 28 no such image, 40 this machine is no member, 42 the controller does not answer.
    """
    record = ask(state, lambda client: client.release(name, generation))
    sys.stdout.buffer.write(record.signed.release.signed_bytes())


@publisher_app.command("sign")
def publisher_sign(
    name: Annotated[str, typer.Argument(help="Of the image.")],
    signature: Annotated[Path, typer.Option("--signature", help="As ssh-keygen wrote it.")],
    generation: Annotated[int | None, typer.Option("--generation", min=1)] = None,
    state: StateOption = None,
) -> None:
    """Give a release a signature made elsewhere, in place of the one it has.

    Exit codes: 10 no such file, 14 no SSH signature, 21 it is wrong, or by nobody who is a
    publisher, 28 no such image, 42 the controller does not answer, 43 no operator.
    """
    from nodectl.catalog.records import ReleaseRecord
    from nodectl.errors import InvalidInput, PathMissing
    from nodectl.node.client import ControlClient

    if not signature.is_file():
        raise PathMissing(f"there is no file {signature}")
    try:
        text = signature.read_text("ascii")
    except ValueError as exc:
        raise InvalidInput(f"{signature} is no SSH signature") from exc

    async def sign(client: ControlClient) -> ReleaseRecord:
        record = await client.release(name, generation)
        return await client.sign(name, record.signed.release.generation, text)

    made = ask(state, sign)
    release = made.signed.release
    print(f"{release.name} generation {release.generation} is signed with {made.signed.form}")


def _standing(one: "Publisher", now: float) -> str:
    if one.revoked:
        return "revoked"
    return "expired" if one.expires and now >= one.expires else "counts"
