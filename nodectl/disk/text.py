"""The written form of a disk layout: TOML, `schema = 2` (files of schema 1 are read as they are).

    schema = 2

    [[disk]]
    id = "system"
    match = { serial = "S4XYNE0M", size = ">= 100GiB" }   # or name the disk on the command line

    [[partition]]
    id = "root"
    disk = "system"
    type = "linux"
    size = "rest"             # or "20GiB", "30%", { min = "10GiB", weight = 2 }

    [[filesystem]]
    volume = "root"
    type = "ext4"
    mount = "/"

All fields are in `disk/fields.py`, and docs/disk-layouts.md explains them. Every mistake is named
at once, with its line and field. Unknown keys are mistakes.
"""

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from enum import StrEnum
from typing import Any

from nodectl.disk.fields import HEAD, SCHEMA, TABLES, Field, Form, Table
from nodectl.disk.mistakes import layout_mistakes
from nodectl.disk.mistakes_words import Mistake
from nodectl.disk.model import Layout
from nodectl.disk.sizes import Size, exact_text, read_size, write_size
from nodectl.disk.toml_lines import field_lines
from nodectl.disk.volumes import Compare, Parts, SizeCondition
from nodectl.errors import LayoutInvalid
from nodectl.units import parse_size

MAX_LAYOUT_BYTES = 1 << 20
_READ_SCHEMAS = (1, 2)

_CONDITION = re.compile(r"\s*(<=|>=|!=|<|>|=)?\s*(.+)")
_UNREAD_SIZE = Size(least=1)  # stands for a size that was not understood


def parse_layout(text: str, *, source: str = "layout") -> Layout:
    """Return the layout that `text` describes; `source` names it in errors.

    Raises:
        LayoutInvalid: with every mistake, each with its field and line.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        raise LayoutInvalid(f"{source} is not valid TOML: {exc}") from exc
    reader = _Reader(document.get("schema"))
    parts = reader.read(document)
    seen = {each.field for each in reader.mistakes}
    mistakes = reader.mistakes + [each for each in layout_mistakes(parts) if each.field not in seen]
    if mistakes:
        raise LayoutInvalid(_sentence(source, text, mistakes), hint="correct the fields named")
    return Layout(**{each.name: getattr(parts, each.name) for each in fields(Parts)})


def _sentence(source: str, text: str, mistakes: Sequence[Mistake]) -> str:
    lines = field_lines(text)
    words = [f"{source} has {len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}:"]
    placed = [(_line_of(mistake.field, lines), mistake) for mistake in mistakes]
    for line, mistake in sorted(placed, key=lambda each: each[0] or math.inf):
        place = f"line {line}, " if line else ""
        words.append(f"  {place}{mistake.field}: {mistake.text}")
    return "\n".join(words)


def _line_of(field: str, lines: Mapping[str, int]) -> int:
    """Return the line of a field, or of the nearest table that it would stand in; 0: none."""
    while field:
        if field in lines:
            return lines[field]
        field = field[: max(field.rfind("."), field.rfind("["), 0)]
    return 0


class _Reader:
    """Turns parsed TOML into the parts of a layout and gathers what is wrong on the way."""

    def __init__(self, schema: object) -> None:
        self.mistakes: list[Mistake] = []
        self._schema = 1 if schema == 1 else SCHEMA
        if schema not in _READ_SCHEMAS or isinstance(schema, bool):
            known = " or ".join(map(str, _READ_SCHEMAS))
            self._wrong("schema", f"must be {known}, is {schema!r}")

    def read(self, document: Mapping[str, Any]) -> Parts:
        tables = {table.key: table.since for table in TABLES}
        self._known(document, "", {**{each.key: each.since for each in HEAD}, **tables})
        head: dict[str, Any] = {
            each.key: self._word(document[each.key], each.key, each)
            for each in HEAD
            if each.key in document and each.key != "schema"
        }
        found: dict[str, Any] = {}
        for table in TABLES:
            entries = self._tables(document.get(table.key, []), table.key, f"[[{table.key}]]")
            found[table.attribute] = tuple(
                self._entry(entry, table, f"{table.key}[{index}].")
                for index, entry in enumerate(entries)
            )
        return Parts(**head, **found)

    def _wrong(self, field: str, text: str) -> None:
        self.mistakes.append(Mistake(field=field, text=text))

    def _known(self, table: Mapping[str, Any], place: str, keys: Mapping[str, int]) -> None:
        for key in table:
            if key not in keys:
                self._wrong(f"{place}{key}", f"unknown key (known: {', '.join(keys)})")
            elif keys[key] > self._schema:
                self._wrong(f"{place}{key}", f"needs schema = {keys[key]}")

    def _tables(self, found: object, place: str, written: str) -> list[Mapping[str, Any]]:
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            self._wrong(place, f"must be a list of tables, written {written}")
            return []
        return found

    def _entry(self, entry: Mapping[str, Any], table: Table, place: str) -> Any:  # noqa: ANN401 - the table's kind
        self._known(entry, place, {each.key: each.since for each in table.fields})
        values = {}
        for each in table.fields:
            if each.key in entry:
                value = self._value(entry, each, place)
                if value is not None:
                    values[each.key] = value
            elif each.needed:
                self._wrong(f"{place}{each.key}", "is needed")
        return table.kind(**{**_stand_ins(table), **values})

    def _value(self, entry: Mapping[str, Any], field: Field, place: str) -> Any:  # noqa: ANN401 - the field's form
        value, where = entry[field.key], f"{place}{field.key}"
        readers: dict[Form, Callable[[object, str, Field], object]] = {
            Form.TEXT: self._word,
            Form.TEXTS: self._texts,
            Form.NUMBER: self._plain,
            Form.FLAG: self._plain,
            Form.BYTES: self._size,
            Form.SIZE: self._size,
            Form.CHOICE: self._choice,
            Form.CHOICES: self._choices,
            Form.CONDITIONS: self._conditions,
            Form.TABLE: self._inner,
            Form.TABLES: self._inner,
        }
        return readers[field.form](value, where, field)

    def _inner(self, value: object, where: str, field: Field) -> Any:  # noqa: ANN401 - the table's kind
        if field.table is None:
            raise ValueError(f"{field.key} has no table")
        if field.form is Form.TABLES:
            entries = self._tables(value, where, f"{field.key} = [{{ ... }}, ...]")
            return tuple(
                self._entry(entry, field.table, f"{where}[{index}].")
                for index, entry in enumerate(entries)
            )
        if not isinstance(value, dict):
            self._wrong(where, f"must be a table such as {{ {field.table.fields[1].key} = ... }}")
            return None
        return self._entry(value, field.table, f"{where}.")

    def _word(self, value: object, where: str, field: Field) -> str:
        if not isinstance(value, str):
            self._wrong(where, f"must be a text, is {value!r}")
            return ""
        if field.needed and not value:
            self._wrong(where, "is needed")
        return value

    def _texts(self, value: object, where: str, _field: Field) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self._wrong(where, "must be a list of texts")
            return ()
        return tuple(value)

    def _choices(self, value: object, where: str, field: Field) -> frozenset[StrEnum]:
        chosen = (self._choice(each, where, field) for each in self._texts(value, where, field))
        return frozenset(each for each in chosen if each is not None)

    def _plain(self, value: object, where: str, field: Field) -> object:
        wanted = bool if field.form is Form.FLAG else int
        if type(value) is not wanted:
            self._wrong(where, f"must be {field.form.value}, is {value!r}")
            return None
        return value

    def _size(self, value: object, where: str, field: Field) -> object:
        if not isinstance(value, str) and (field.form is Form.BYTES or not isinstance(value, dict)):
            self._wrong(where, f"must be a text: {field.form.value}; is {value!r}")
            return _UNREAD_SIZE if field.form is Form.SIZE else None
        try:
            return parse_size(str(value)) if field.form is Form.BYTES else read_size(value)
        except ValueError as exc:
            self._wrong(where, str(exc))
            return _UNREAD_SIZE if field.form is Form.SIZE else None

    def _choice(self, value: object, where: str, field: Field) -> StrEnum | None:
        kinds = field.choices
        if kinds is None:
            raise ValueError(f"{field.key} has no choices")
        if not isinstance(value, str) or value not in tuple(kinds):
            self._wrong(where, f"must be one of {', '.join(kinds)}, is {value!r}")
            return None
        return kinds(value)

    def _conditions(self, value: object, where: str, _field: Field) -> tuple[SizeCondition, ...]:
        conditions = []
        for text in value if isinstance(value, list) else [value]:
            found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
            if found is None:
                self._wrong(where, f'must be such as ">= 100GiB", is {text!r}')
                continue
            try:
                size = parse_size(found[2])
            except ValueError as exc:
                self._wrong(where, str(exc))
                continue
            conditions.append(SizeCondition(compare=Compare(found[1] or "="), size=size))
        return tuple(conditions)


def _stand_ins(table: Table) -> dict[str, Any]:
    """Return values for the fields that a table must have, where one of them is wrong."""
    needed = {
        each.name
        for each in fields(table.kind)
        if each.default is MISSING and each.default_factory is MISSING
    }
    empty: dict[Form, Any] = {Form.TEXT: "", Form.TEXTS: (), Form.BYTES: 1 << 20}
    return {
        each.key: next(iter(each.choices)) if each.choices else empty[each.form]
        for each in table.fields
        if each.key in needed
    } | ({"size": _UNREAD_SIZE} if any(each.form is Form.SIZE for each in table.fields) else {})


def format_layout(layout: Layout) -> str:
    """Return the text of `layout`: `parse_layout` reads the same layout from it."""
    lines = [f"schema = {SCHEMA}"]
    head = ((key, getattr(layout, key)) for key in ("name", "firmware"))
    lines += [f"{key} = {_toml(value)}" for key, value in head if value]
    for table in TABLES:
        for entry in getattr(layout, table.attribute):
            lines += ["", f"[[{table.key}]]"]
            lines += [f"{key} = {text}" for key, text in _pairs(entry, table)]
    return "\n".join(lines) + "\n"


def layout_fields(layout: Layout) -> dict[str, dict[str, str]]:
    """Return every part of a layout, by kind and name, with the text of each field."""
    head = {key: getattr(layout, key) for key in ("name", "firmware")}
    found = {"layout": {key: value for key, value in head.items() if value}}
    for table in TABLES:
        name = table.fields[0].key  # id, volume or path
        for entry in getattr(layout, table.attribute):
            found[f"{table.key} {getattr(entry, name)}"] = dict(_pairs(entry, table))
    return found


def _pairs(entry: object, table: Table) -> list[tuple[str, str]]:
    """Return key and TOML text of every field that says something."""
    plain = _defaults(table)
    pairs = []
    for each in table.fields:
        value = getattr(entry, each.key)
        if each.form is not Form.SIZE and each.key in plain and value == plain[each.key]:
            continue
        if each.form is Form.TABLE and each.table:
            value = _inline(value, each.table)
        elif each.form is Form.TABLES and each.table:
            inner = (_inline(one, each.table) for one in value)
            pairs.append((each.key, f"[{', '.join(inner)}]"))
            continue
        pairs.append((each.key, value if each.form is Form.TABLE else _written(value, each)))
    return pairs


def _defaults(table: Table) -> dict[str, Any]:
    values = {}
    for each in fields(table.kind):
        if each.default is not MISSING:
            values[each.name] = each.default
        elif each.default_factory is not MISSING:
            values[each.name] = each.default_factory()
    return values


def _inline(entry: object, table: Table) -> str:
    return "{ " + ", ".join(f"{key} = {text}" for key, text in _pairs(entry, table)) + " }"


def _written(value: Any, field: Field) -> str:  # noqa: ANN401 - the field's form
    match field.form:
        case Form.BYTES:
            return _toml(exact_text(value))
        case Form.SIZE:
            return _toml(write_size(value))
        case Form.CHOICES:
            return _toml(sorted(value))
        case Form.CONDITIONS:
            return _toml([f"{each.compare} {exact_text(each.size)}" for each in value])
        case _:
            return _toml(value)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's, except that DEL must be escaped in TOML.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)
