"""`nodectl secret` and `nodectl template`: files that a site gives to the nodes of a group."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption, ask

if TYPE_CHECKING:
    from nodectl.catalog.site_files import FileKind

secret_app = typer.Typer(
    no_args_is_help=True,
    help="Secrets of a group of nodes (munge key, keys of a CA): kept sealed at the controller, "
    "given to the nodes of the group alone, placed by a clone.",
)
template_app = typer.Typer(
    no_args_is_help=True,
    help="Site files filled in for each node: @{name}, @{rack}, @{attribute.KEY}, "
    "@{attribute.KEY:ELSE}, @{address}, @{interface.eth0.address}; @@{ stands for @{.",
)

Name = Annotated[str, typer.Argument(help="How it is called.")]
Source = Annotated[str, typer.Option("--file", help="Read it from here; - is standard input.")]
GroupOption = Annotated[str, typer.Option("--group", help="Of nodes, or: all.")]
PathOption = Annotated[str, typer.Option("--path", help="Where it is placed on the nodes.")]
Owner = Annotated[str, typer.Option("--owner", help="USER or USER:GROUP of the node's system.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(secret_app, name="secret")
    app.add_typer(template_app, name="template")


@secret_app.command("set")
def secret_set(
    name: Name,
    group: GroupOption,
    path: PathOption,
    file: Source = "-",
    owner: Owner = "root",
    mode: Annotated[str, typer.Option("--mode", help="Octal.")] = "0600",
    state: StateOption = None,
) -> None:
    """Keep a secret for a group, or another content for one that is kept; it is never shown again.

    Example: nodectl secret set munge --group compute --path /etc/munge/munge.key
    --owner munge:munge --mode 0400 --file munge.key

    Exit codes: 11 the file cannot be read, 14 a wrong option, 42 the controller does not answer,
    43 no operator, 44 the group has another file in that place.
    """
    _set(state, "secret", Path(file), name=name, group=group, path=path, owner=owner, mode=mode)


@template_app.command("set")
def template_set(
    name: Name,
    group: GroupOption,
    path: PathOption,
    file: Source = "-",
    owner: Owner = "root",
    mode: Annotated[str, typer.Option("--mode", help="Octal.")] = "0644",
    state: StateOption = None,
) -> None:
    """Keep a template for a group; each node gets it with its own values.

    Exit codes: as of secret set; 91 mistakes in the template, each with its line.
    """
    _set(state, "template", Path(file), name=name, group=group, path=path, owner=owner, mode=mode)


def _set(state: Path | None, kind: str, source: Path, **fields: str) -> None:
    from nodectl.catalog.site_files import CONTENT_MAX, FileKind, FilledFile, SiteFile
    from nodectl.errors import InvalidInput, PathUnreadable
    from nodectl.identity.template import check
    from nodectl.node.site_files import put_file

    wanted = SiteFile.from_json({"kind": kind, **fields})
    try:
        with sys.stdin.buffer if str(source) == "-" else source.open("rb") as stream:
            content = stream.read(CONTENT_MAX + 1)
    except OSError as exc:
        raise PathUnreadable(f"{source} cannot be read: {exc.strerror}") from exc
    if not content or len(content) > CONTENT_MAX:
        raise InvalidInput(f"a {kind} has from 1 to {CONTENT_MAX} bytes")
    if wanted.kind is FileKind.TEMPLATE:
        try:
            check(content.decode(), name=wanted.name)
        except UnicodeDecodeError as exc:
            raise InvalidInput("a template is a text in UTF-8") from exc
    ask(state, lambda client: put_file(client, FilledFile(file=wanted, content=content)))
    print(f"{kind} {wanted.name}: /{wanted.path} on the nodes of {wanted.group}")


@secret_app.command("list")
def secret_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the secrets, without what is in them.

    Exit codes: 42 the controller does not answer, 43 no operator.
    """
    from nodectl.catalog.site_files import FileKind

    _list(state, FileKind.SECRET, json_output=json_output)


@template_app.command("list")
def template_list(state: StateOption = None, json_output: JsonOption = False) -> None:
    """List the templates.

    Exit codes: 42 the controller does not answer, 43 no operator.
    """
    from nodectl.catalog.site_files import FileKind

    _list(state, FileKind.TEMPLATE, json_output=json_output)


def _list(state: Path | None, kind: "FileKind", *, json_output: bool) -> None:
    from nodectl.cli.table import table
    from nodectl.node.site_files import all_files

    files = [one for one in ask(state, all_files) if one.kind is kind]
    if json_output:
        print(json.dumps({f"{kind}s": [one.to_json() for one in files]}))
        return
    rows = [(one.name, one.group, f"/{one.path}", one.owner, f"{one.mode:04o}") for one in files]
    print(table((kind.upper(), "GROUP", "PATH", "OWNER", "MODE"), rows))


@secret_app.command("remove")
def secret_remove(name: Name, state: StateOption = None) -> None:
    """Forget a secret; nodes that have it keep it.

    Exit codes: 10 there is none of that name, 42 the controller does not answer, 43 no operator.
    """
    _remove(state, name)


@template_app.command("remove")
def template_remove(name: Name, state: StateOption = None) -> None:
    """Forget a template; nodes that have the file keep it.

    Exit codes: 10 there is none of that name, 42 the controller does not answer, 43 no operator.
    """
    _remove(state, name)


def _remove(state: Path | None, name: str) -> None:
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name
    from nodectl.node.site_files import remove_file

    try:
        checked_name(name)
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc
    ask(state, lambda client: remove_file(client, name))
    print(f"removed {name}")


@template_app.command("show")
def template_show(
    name: Name,
    node: Annotated[str, typer.Option("--node", help="Filled in for this node.")] = "",
    state: StateOption = None,
) -> None:
    """Show a template as it is, or as a node gets it.

    Exit codes: 10 there is none of that name, 43 it is a secret, 45 no such node, 91 it cannot be
    filled in for the node, each line named.
    """
    from nodectl.errors import InvalidInput
    from nodectl.identity.site import filled_files
    from nodectl.ids import checked_name
    from nodectl.node.inventory import inventory_of
    from nodectl.node.site_files import template

    try:
        checked_name(name)
        checked_name(node or "none")
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc
    found = ask(state, lambda client: template(client, name))
    if node:
        said, _ = ask(state, lambda client: inventory_of(client, node))
        (found,) = filled_files([found], said)
    sys.stdout.buffer.write(found.content)
