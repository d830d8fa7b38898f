"""A JSON schema of layout files, for editors that complete and check TOML. Pure.

Made from the list of fields (`disk/fields.py`); JSON Schema draft 2020-12. It knows the form of
each field; what contradicts what is known to `nodectl disklayout validate` only.
"""

from typing import Any

from nodectl.disk.fields import HEAD, SCHEMA, TABLES, Field, Form, Table

_SIZE = r"^\s*[0-9]+(\.[0-9]+)?\s*[KMGTkmgt]?(i?[Bb])?\s*$"
_SHARE = r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"
_CONDITION = r"^\s*(<=|>=|!=|<|>|=)?\s*[0-9]+(\.[0-9]+)?\s*[KMGTkmgt]?(i?[Bb])?\s*$"


def layout_schema() -> dict[str, Any]:
    """Return the schema as a document for JSON."""
    head = {each.key: {**_form(each), "description": each.words} for each in HEAD}
    head["schema"] = {"enum": [1, SCHEMA], "description": HEAD[0].words}
    head["firmware"]["enum"] = ["uefi", "bios"]
    lists = {
        table.key: {"type": "array", "description": table.words, "items": _table(table)}
        for table in TABLES
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "nodectl disk layout",
        "type": "object",
        "properties": {**head, **lists},
        "required": ["schema", "disk"],
        "additionalProperties": False,
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            each.key: {**_form(each), "description": each.words} for each in table.fields
        },
        "required": [each.key for each in table.fields if each.needed],
        "additionalProperties": False,
    }


def _form(field: Field) -> dict[str, Any]:
    words = {"enum": list(field.choices)} if field.choices else {"type": "string"}
    condition = {"type": "string", "pattern": _CONDITION}
    plain: dict[Form, dict[str, Any]] = {
        Form.TEXT: words,
        Form.CHOICE: words,
        Form.TEXTS: {"type": "array", "items": words},
        Form.CHOICES: {"type": "array", "items": words},
        Form.BYTES: {"type": "string", "pattern": _SIZE},
        Form.NUMBER: {"type": "integer"},
        Form.FLAG: {"type": "boolean"},
        Form.SIZE: {"anyOf": [*_size_texts(), _size_table()]},
        Form.CONDITIONS: {"anyOf": [condition, {"type": "array", "items": condition}]},
    }
    if field.table is None:
        return dict(plain[field.form])
    inner = _table(field.table)
    return inner if field.form is Form.TABLE else {"type": "array", "items": inner}


def _size_texts() -> list[dict[str, Any]]:
    return [{"const": "rest"}, *({"type": "string", "pattern": form} for form in (_SIZE, _SHARE))]


def _size_table() -> dict[str, Any]:
    bound = {"type": "string", "pattern": _SIZE}
    return {
        "type": "object",
        "properties": {
            "min": bound,
            "max": bound,
            "weight": {"type": "integer", "minimum": 1},
            "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100},
        },
        "additionalProperties": False,
    }
