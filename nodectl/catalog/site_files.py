"""Files that a site gives to the nodes of a group: secrets and templates. Pure.

They are not in an image: an image is read by more people than a munge key, and says the same to all
nodes. The controller keeps them sealed (`controller/site_files.py`), hands each node those of its
groups, and a clone places them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Self

from nodectl.errors import InvalidInput
from nodectl.ids import checked_name

PREFIX = "files/"
EVERYBODY = "all"
CONTENT_MAX = 256 << 10  # bytes
_PATH_MAX = 1024
_OWNER = re.compile(r"[a-z_0-9][a-z0-9_.-]{0,31}(?::[a-z_0-9][a-z0-9_.-]{0,31})?")
_MODE_MOST = 0o777
# nodectl's own record, and what is the kernel's.
_REFUSED = ("etc/nodectl", "proc", "sys", "dev", "run", "var/lib/nodectl", "etc/machine-id")


class FileKind(StrEnum):
    """What a site's file is."""

    SECRET = "secret"  # noqa: S105 - the kind, not one
    TEMPLATE = "template"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFile:
    """One file, without its content."""

    name: str
    kind: FileKind
    group: str  # of nodes; EVERYBODY: all
    path: str  # on the node, no leading "/"
    owner: str  # "munge:munge", by the names of the node's system
    mode: int

    def to_json(self) -> dict[str, Any]:
        """Return what may be shown."""
        return {
            "name": self.name,
            "kind": self.kind.value,
            "group": self.group,
            "path": f"/{self.path}",
            "owner": self.owner,
            "mode": f"{self.mode:04o}",
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the file that a document describes.

        Raises:
            InvalidInput: a field is absent or wrong, with its name.
        """
        texts = {
            key: document.get(key) for key in ("name", "kind", "group", "path", "owner", "mode")
        }
        for key, value in texts.items():
            if not isinstance(value, str):
                raise InvalidInput(f"{key} of a file is no text")
        try:
            name, group = checked_name(str(texts["name"])), checked_name(str(texts["group"]))
            kind = FileKind(str(texts["kind"]))
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc
        return cls(
            name=name,
            kind=kind,
            group=group,
            path=checked_path(str(texts["path"])),
            owner=_checked_owner(str(texts["owner"])),
            mode=_checked_mode(str(texts["mode"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FilledFile:
    """A file with its content."""

    file: SiteFile
    content: bytes = field(repr=False)


def file_key(name: str) -> str:
    """Return the key of a file."""
    return PREFIX + name


def checked_path(text: str) -> str:
    """Return a path without its leading "/".

    Raises:
        InvalidInput: it is no absolute path of a file, or of one that must not be placed.
    """
    path = PurePosixPath(text)
    usable = text.startswith("/") and text.isprintable() and len(text) <= _PATH_MAX
    if not usable or ".." in path.parts or text.endswith("/") or len(path.parts) < 2:  # noqa: PLR2004
        raise InvalidInput(
            f"{text[:80]!r} is no absolute path of a file, such as /etc/munge/munge.key"
        )
    relative = str(path.relative_to("/"))
    if any(relative == each or relative.startswith(f"{each}/") for each in _REFUSED):
        raise InvalidInput(f"/{relative} is nodectl's or the kernel's and is not placed")
    return relative


def _checked_owner(text: str) -> str:
    if not _OWNER.fullmatch(text):
        raise InvalidInput(f"{text[:40]!r} is no owner such as munge:munge")
    return text


def _checked_mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text) or int(text, 8) > _MODE_MOST:
        raise InvalidInput(f"{text[:20]!r} is no mode such as 0400")
    return int(text, 8)
