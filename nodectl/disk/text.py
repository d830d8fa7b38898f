"""The written form of a disk layout: TOML, `schema = 1`.

    schema = 1

    [[disk]]
    id = "system"
    match = { serial = "S4XYNE0M", size = ">= 100GiB" }   # or name the disk on the command line
    table = "gpt"

    [[partition]]
    id = "root"
    disk = "system"
    type = "linux"            # linux, esp, swap, bios_grub or a GUID
    size = "rest"             # or "20GiB"

    [[filesystem]]
    volume = "root"
    type = "ext4"             # ext4, xfs, btrfs, vfat, swap
    label = "root"
    mkfs_options = ["-i", "8192"]
    mount = "/"
    mount_options = ["noatime"]

Every mistake is named at once, with its field and, where it can be found, its line. Unknown keys
are mistakes.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from nodectl.disk.model import (
    SCHEMA,
    Compare,
    DiskMatch,
    DiskWish,
    Filesystem,
    FsType,
    Layout,
    Mistake,
    Partition,
    SizeCondition,
    TableKind,
    layout_mistakes,
)
from nodectl.errors import LayoutInvalid
from nodectl.units import GIB, MIB, parse_size

REST = "rest"
MAX_LAYOUT_BYTES = 1 << 20

_HEADER = re.compile(r"\s*\[\[?\s*([A-Za-z_]+)\s*\]?\]")
_KEY = re.compile(r"\s*([A-Za-z_]+)\s*=")
_CONDITION = re.compile(r"\s*(<=|>=|<|>|=)?\s*(.+)")
_MATCH_WORDS = ("path", "serial", "wwn", "model", "vendor", "transport")


def parse_layout(text: str, *, source: str = "layout") -> Layout:
    """Return the layout that `text` describes; `source` names it in errors.

    Raises:
        LayoutInvalid: with every mistake, each with its field and line.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise LayoutInvalid(f"{source} is not valid TOML: {exc}") from exc
    reader = _Reader()
    disks, partitions, filesystems = reader.read(document)
    mistakes = reader.mistakes
    if not mistakes:
        mistakes = list(layout_mistakes(disks, partitions, filesystems))
    if mistakes:
        raise LayoutInvalid(_sentence(source, text, mistakes), hint="correct the fields named")
    name = document.get("name", "")
    return Layout(name=name, disks=disks, partitions=partitions, filesystems=filesystems)


def _sentence(source: str, text: str, mistakes: Sequence[Mistake]) -> str:
    lines = _line_numbers(text)
    words = [f"{source} has {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}:"]
    for mistake in mistakes:
        line = lines.get(mistake.field) or lines.get(mistake.field.rsplit(".", 1)[0])
        place = f"line {line}, " if line else ""
        words.append(f"  {place}{mistake.field}: {mistake.text}")
    return "\n".join(words)


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line (from 1) of each field; a text in triple quotes may mislead it."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    place = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            index = counts.get(header[1], 0)
            counts[header[1]] = index + 1
            place = f"{header[1]}[{index}]"
            lines[place] = number
            lines.setdefault(header[1], number)
        elif key := _KEY.match(line):
            lines.setdefault(f"{place}.{key[1]}" if place else key[1], number)
    return lines


class _Reader:
    """Turns parsed TOML into the parts of a layout and gathers what is wrong on the way."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def read(
        self, document: Mapping[str, Any]
    ) -> tuple[tuple[DiskWish, ...], tuple[Partition, ...], tuple[Filesystem, ...]]:
        self._known(document, "", ("schema", "name", "disk", "partition", "filesystem"))
        if document.get("schema") != SCHEMA:
            self._wrong("schema", f"must be {SCHEMA}, is {document.get('schema')!r}")
        self._text(document, "", "name")
        return (
            tuple(self._disk(*each) for each in self._tables(document, "disk")),
            tuple(self._partition(*each) for each in self._tables(document, "partition")),
            tuple(self._filesystem(*each) for each in self._tables(document, "filesystem")),
        )

    def _wrong(self, field: str, text: str) -> None:
        self.mistakes.append(Mistake(field=field, text=text))

    def _known(self, table: Mapping[str, Any], place: str, keys: Sequence[str]) -> None:
        for key in table:
            if key not in keys:
                self._wrong(f"{place}{key}", f"unknown key (known: {', '.join(keys)})")

    def _tables(
        self, document: Mapping[str, Any], name: str
    ) -> list[tuple[Mapping[str, Any], str]]:
        found = document.get(name, [])
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self._wrong(name, f"must be a list of tables, written [[{name}]]")
            return []
        return [(each, f"{name}[{index}].") for index, each in enumerate(found)]

    def _text(self, table: Mapping[str, Any], place: str, key: str, *, needed: bool = False) -> str:
        value = table.get(key, "")
        if not isinstance(value, str):
            self._wrong(f"{place}{key}", f"must be a text, is {value!r}")
            return ""
        if needed and not value:
            self._wrong(f"{place}{key}", "is needed")
        return str(value)

    def _texts(self, table: Mapping[str, Any], place: str, key: str) -> tuple[str, ...]:
        value = table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._wrong(f"{place}{key}", "must be a list of texts")
            return ()
        return tuple(value)

    def _disk(self, table: Mapping[str, Any], place: str) -> DiskWish:
        self._known(table, place, ("id", "match", "table"))
        kind = self._text(table, place, "table") or TableKind.GPT
        if kind not in tuple(TableKind):
            self._wrong(f"{place}table", f"must be one of {', '.join(TableKind)}, is {kind!r}")
            kind = TableKind.GPT
        return DiskWish(
            id=self._text(table, place, "id", needed=True),
            match=self._match(table.get("match", {}), f"{place}match"),
            table=TableKind(kind),
        )

    def _match(self, table: object, place: str) -> DiskMatch:
        if not isinstance(table, dict):
            self._wrong(place, "must be a table such as { serial = ... }")
            return DiskMatch()
        self._known(table, f"{place}.", (*_MATCH_WORDS, "size"))
        words = {key: self._text(table, f"{place}.", key) for key in _MATCH_WORDS}
        return DiskMatch(**words, size=self._conditions(table.get("size", []), f"{place}.size"))

    def _conditions(self, value: object, place: str) -> tuple[SizeCondition, ...]:
        texts = value if isinstance(value, list) else [value]
        conditions = []
        for text in texts:
            found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
            if found is None:
                self._wrong(place, f'must be such as ">= 100GiB", is {text!r}')
                continue
            try:
                size = parse_size(found[2])
            except ValueError as exc:
                self._wrong(place, str(exc))
                continue
            conditions.append(SizeCondition(compare=Compare(found[1] or "="), size=size))
        return tuple(conditions)

    def _partition(self, table: Mapping[str, Any], place: str) -> Partition:
        self._known(table, place, ("id", "disk", "label", "type", "size"))
        return Partition(
            id=self._text(table, place, "id", needed=True),
            disk=self._text(table, place, "disk", needed=True),
            label=self._text(table, place, "label"),
            type=self._text(table, place, "type", needed=True),
            size=self._size(table, place),
        )

    def _size(self, table: Mapping[str, Any], place: str) -> int | None:
        text = self._text(table, place, "size", needed=True)
        if text in {REST, ""}:
            return None
        try:
            return parse_size(text)
        except ValueError as exc:
            self._wrong(f"{place}size", f'{exc}, or "{REST}"')
            return None

    def _filesystem(self, table: Mapping[str, Any], place: str) -> Filesystem:
        known = ("volume", "type", "label", "mkfs_options", "mount", "mount_options")
        self._known(table, place, known)
        kind = self._text(table, place, "type", needed=True)
        if kind and kind not in tuple(FsType):
            self._wrong(f"{place}type", f"must be one of {', '.join(FsType)}, is {kind!r}")
        return Filesystem(
            volume=self._text(table, place, "volume", needed=True),
            type=FsType(kind) if kind in tuple(FsType) else FsType.EXT4,
            label=self._text(table, place, "label"),
            mkfs_options=self._texts(table, place, "mkfs_options"),
            mount=self._text(table, place, "mount"),
            mount_options=self._texts(table, place, "mount_options"),
        )


def format_layout(layout: Layout) -> str:
    """Return the text of `layout`: `parse_layout` reads the same layout from it."""
    lines = [f"schema = {SCHEMA}"]
    if layout.name:
        lines.append(f"name = {_quoted(layout.name)}")
    for disk in layout.disks:
        lines += ["", "[[disk]]", f"id = {_quoted(disk.id)}", *_match_line(disk.match)]
        lines.append(f"table = {_quoted(disk.table)}")
    for part in layout.partitions:
        size = REST if part.size is None else _size_text(part.size)
        fields = {"id": part.id, "disk": part.disk, "label": part.label, "type": part.type}
        lines += ["", "[[partition]]", *_fields({**fields, "size": size})]
    for fs in layout.filesystems:
        lines += ["", "[[filesystem]]"]
        lines += _fields({"volume": fs.volume, "type": fs.type, "label": fs.label})
        lines += _fields({"mkfs_options": fs.mkfs_options, "mount": fs.mount})
        lines += _fields({"mount_options": fs.mount_options})
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, except that DEL must be escaped in TOML.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _fields(fields: Mapping[str, str | tuple[str, ...]]) -> list[str]:
    lines = []
    for key, value in fields.items():
        if isinstance(value, str) and value:
            lines.append(f"{key} = {_quoted(value)}")
        elif value:
            lines.append(f"{key} = [{', '.join(_quoted(each) for each in value)}]")
    return lines


def _match_line(match: DiskMatch) -> list[str]:
    fields = [
        f"{key} = {_quoted(getattr(match, key))}" for key in _MATCH_WORDS if getattr(match, key)
    ]
    if match.size:
        sizes = (_quoted(f"{each.compare} {_size_text(each.size)}") for each in match.size)
        fields.append(f"size = [{', '.join(sizes)}]")
    return [f"match = {{ {', '.join(fields)} }}"] if fields else []


def _size_text(size: int) -> str:
    """Return bytes in the largest unit that states them exactly."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB)):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
