"""Facts of machines as JSON: what a probe saw on a real one, for tests that plan for it."""

import json
import types
import typing
from dataclasses import asdict, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from nodectl.disk.facts import MachineFacts


def write_facts(machine: MachineFacts, path: Path) -> None:
    path.write_text(json.dumps(asdict(machine), indent=1) + "\n")


def read_facts(path: Path) -> MachineFacts:
    facts = _read(json.loads(path.read_text()), MachineFacts)
    assert isinstance(facts, MachineFacts)
    return facts


def _read(value: Any, kind: Any) -> Any:  # noqa: ANN401 - what JSON holds, and any kind of facts
    """Return `value` as `kind`: a dataclass, a tuple of one kind, None or something, an enum."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        assert set(value) == {each.name for each in fields(kind)}, kind
        return kind(**{name: _read(each, hints[name]) for name, each in value.items()})  # type: ignore[operator]
    if origin is tuple:
        return tuple(_read(each, inner[0]) for each in value)
    if origin in {types.UnionType, typing.Union}:
        return None if value is None else _read(value, inner[0])
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    assert isinstance(value, kind), (value, kind)
    return value
