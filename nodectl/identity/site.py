"""The secrets and templates of a site, placed in a tree. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.site_files import FileKind, FilledFile
from nodectl.errors import TemplateInvalid
from nodectl.identity.model import TreeFacts, WriteFile
from nodectl.identity.rows import SECRETS, SITE_FILES
from nodectl.identity.template import fill

_ROOT = "root"
_PRIVATE = 0o600
_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedFiles:
    """What is written, and what a person should know."""

    files: tuple[WriteFile, ...]
    notes: tuple[str, ...]


def filled_files(given: Iterable[FilledFile], node: NodeInventory) -> tuple[FilledFile, ...]:
    """Return the files with the templates among them filled in; before any disk is touched.

    Raises:
        TemplateInvalid: a template cannot be filled in for the node.
    """
    return tuple(_filled(one, node) for one in given)


def _filled(one: FilledFile, node: NodeInventory) -> FilledFile:
    if one.file.kind is FileKind.SECRET:
        return one
    try:
        text = one.content.decode()
    except UnicodeDecodeError as exc:
        raise TemplateInvalid(f"the template {one.file.name} is no text in UTF-8") from exc
    return FilledFile(file=one.file, content=fill(text, node, name=one.file.name).encode())


def plan_site_files(tree: TreeFacts, given: Iterable[FilledFile]) -> PlacedFiles:
    """Return the files with the ids that their owners have in the tree."""
    planned: dict[str, WriteFile] = {}
    notes = []
    for one in given:
        file = one.file
        owner, mode = _owner(tree, file.owner), file.mode
        if owner is None:
            notes.append(
                f"/{file.path} belongs to root: the image has no {file.owner} to own {file.name}"
            )
            owner, mode = (0, 0), mode & _PRIVATE
        if file.path in planned:
            notes.append(f"/{file.path} is given twice: {file.name} was taken")
        item = SECRETS if file.kind is FileKind.SECRET else SITE_FILES
        planned[file.path] = WriteFile(
            path=file.path, data=one.content, item=item, mode=mode, uid=owner[0], gid=owner[1]
        )
    return PlacedFiles(files=tuple(planned.values()), notes=tuple(notes))


def _owner(tree: TreeFacts, text: str) -> tuple[int, int] | None:
    """Return uid and gid of USER or USER:GROUP in the tree; a user alone: with its own group."""
    user, _, group = text.partition(":")
    users, groups = (_lines(tree.texts.get(path, "")) for path in ("etc/passwd", "etc/group"))
    uid = _id(users, user)
    if not group:
        gid = int(users[user][1]) if user in users else 0
        return None if uid is None else (uid, gid)
    named = _id(groups, group)
    return None if uid is None or named is None else (uid, named)


def _id(known: Mapping[str, Sequence[str]], name: str) -> int | None:
    """Return the id of a name; root and numbers need no line."""
    if name in known:
        return int(known[name][0])
    if name == _ROOT:
        return 0
    return int(name) if name.isdecimal() and len(name) <= _DIGITS_MAX else None


def _lines(text: str) -> Mapping[str, Sequence[str]]:
    """Return name -> id and the field after it, of passwd(5) or group(5)."""
    found = re.findall(r"^([^:\n]+):[^:\n]*:([0-9]{1,10}):([0-9]*)", text, re.MULTILINE)
    return {name: (number, after or "0") for name, number, after in reversed(found)}
