"""What belongs to an image besides its files, and the disk layouts: all that a clone goes by. Pure.

Each part is one small text under a name. A disk layout stands for itself, so that many images can
share it; the options and scripts belong to the image of their name. The controller keeps them
(`controller/cloning.py`) and hands to each node those that the inventory's image and layout name.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from nodectl.errors import InvalidInput
from nodectl.ids import checked_name

PREFIX = "cloning/"
CONTENT_MAX = 256 << 10  # bytes
_TITLE_MAX = 255
_WORDS_MAX = 1000  # of an option that is a list


class PartKind(StrEnum):
    """What a part is."""

    DISKLAYOUT = "disklayout"
    OPTIONS = "options"  # how the image was captured, and is captured again
    PRE = "pre"  # a script that runs before the disks are touched
    POST = "post"  # a script that runs when the tree stands

    @property
    def is_script(self) -> bool:
        """Say whether it is run."""
        return self in {PartKind.PRE, PartKind.POST}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartName:
    """Which part: the layout or image `name`; `title` is the file's own name."""

    kind: PartKind
    name: str
    title: str

    def __post_init__(self) -> None:
        """Refuse what cannot be a name.

        Raises:
            InvalidInput: it cannot.
        """
        try:
            checked_name(self.name)
        except ValueError as exc:
            raise InvalidInput(str(exc)) from exc
        if len(self.title) > _TITLE_MAX or not self.title.isprintable() or "/" in self.title:
            raise InvalidInput(
                f"{self.title[:40]!r} is no title of a {self.kind}: at most {_TITLE_MAX} printable "
                "characters without a slash"
            )

    @property
    def key(self) -> str:
        """Return the key of its document."""
        return f"{PREFIX}{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part with its text."""

    what: PartName
    content: bytes = field(repr=False)  # a script may hold a password

    def __post_init__(self) -> None:
        """Refuse a text that is none of its kind (a disk layout is read by those who use it).

        Raises:
            InvalidInput: it is none.
        """
        kind = self.what.kind
        if not 1 <= len(self.content) <= CONTENT_MAX:
            raise InvalidInput(f"the {kind} of {self.what.name} has from 1 to {CONTENT_MAX} bytes")
        if kind is PartKind.OPTIONS:
            CloneOptions.from_text(self.text)
        elif kind.is_script and not self.content.startswith(b"#!"):
            raise InvalidInput(
                f"the {kind}-script of {self.what.name} does not begin with #!",
                hint="its first line names the program that runs it, as #!/bin/sh",
            )

    @property
    def text(self) -> str:
        """Return the content as a text.

        Raises:
            InvalidInput: it is not UTF-8.
        """
        try:
            return self.content.decode()
        except UnicodeDecodeError as exc:
            msg = f"the {self.what.kind} of {self.what.name} is no text in UTF-8"
            raise InvalidInput(msg) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneOptions:
    """How an image was captured: what an update of it does again."""

    disklayout: str = ""  # on which its nodes are meant to be
    exclude_devices: tuple[str, ...] = ()  # paths such as /dev/sdb
    exclude_paths: tuple[str, ...] = ()  # patterns
    compress: str = "fast"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the options that a stored text says.

        Raises:
            InvalidInput: it says none.
        """
        try:
            document = json.loads(text)
            return cls._from(document)
        except (ValueError, TypeError, KeyError, RecursionError) as exc:
            raise InvalidInput(f"the options of an image are not as they should be: {exc}") from exc

    @classmethod
    def _from(cls, document: Mapping[str, Any]) -> Self:
        if set(document) != {"disklayout", "exclude_devices", "exclude_paths", "compress"}:
            raise ValueError("the fields are disklayout, exclude_devices, exclude_paths, compress")
        lists = [document["exclude_devices"], document["exclude_paths"]]
        for words in lists:
            if len(words) > _WORDS_MAX or not all(isinstance(word, str) for word in words):
                raise ValueError(f"a list of at most {_WORDS_MAX} texts is expected")
        if document["compress"] not in ("fast", "best"):
            raise ValueError("compress is fast or best")
        layout = document["disklayout"]
        return cls(
            disklayout=checked_name(layout) if layout else "",
            exclude_devices=tuple(lists[0]),
            exclude_paths=tuple(lists[1]),
            compress=document["compress"],
        )

    def to_text(self) -> str:
        """Return the text that is stored."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneConfig:
    """What one node is cloned with, or an image and a layout together."""

    image: str  # empty: nobody said
    disklayout: str
    parts: tuple[Part, ...] = ()

    def part(self, kind: PartKind) -> Part | None:
        """Return the part of a kind, if there is one."""
        return next((one for one in self.parts if one.what.kind is kind), None)
