"""docs/disk-layouts.md: its examples are valid and can be planned, its table is the truth."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disk_samples import EMPTY, SDA, counted_uuids

from nodectl.disk.choose import choose_disks, named_disks
from nodectl.disk.facts import DiskFacts, MachineFacts
from nodectl.disk.fields import HEAD, TABLES, Field, Table
from nodectl.disk.plan import PlanWish, plan_layout
from nodectl.disk.schema import layout_schema
from nodectl.disk.text import format_layout, parse_layout
from nodectl.disk.volumes import DiskMatch

PAGE = Path(__file__).parents[3] / "docs/disk-layouts.md"
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)

GIB = 1 << 30
# One machine that has a disk for each description of the page.
MACHINE = MachineFacts(
    disks=(
        replace(SDA, size=500 * GIB, links=("/dev/disk/by-path/pci-0000:00:17.0-ata-1",)),
        replace(
            SDA,
            path="/dev/sdb",
            name="sdb",
            serial="S5",
            model="SAMSUNG MZ7LH960",
            rotational=False,
            size=894 * GIB,
            links=("/dev/disk/by-path/pci-0000:00:17.0-ata-2",),
        ),
        replace(SDA, path="/dev/sdc", name="sdc", serial="Z1", rotational=True, size=8000 * GIB),
        replace(SDA, path="/dev/nvme0n1", name="nvme0n1", serial="N1", transport="nvme",
                model="PM9A3", size=960 * GIB),
    )
)  # fmt: skip


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_is_valid_and_can_be_planned(text: str) -> None:
    layout = parse_layout(text)
    words = [] if all(not d.match.is_empty for d in layout.used_disks) else ["N1"]
    named = {name: DiskMatch(serial=word) for name, word in named_disks(layout, words).items()}
    machine = replace(MACHINE, firmware=layout.firmware)
    chosen: dict[str, DiskFacts] = {
        name: replace(disk, contents=EMPTY)
        for name, disk in choose_disks(machine.disks, layout, named).items()
    }
    plan = plan_layout(machine, layout, chosen, PlanWish(), counted_uuids())
    assert plan.mounts[0].path == "/"
    assert parse_layout(format_layout(layout)) == layout


def test_there_are_examples_of_everything() -> None:
    together = "\n".join(EXAMPLES)
    for table in TABLES:
        assert f"[[{table.key}]]" in together


def _line(table: str, field: Field) -> str:
    form = field.form.value.replace("|", "\\|")
    if field.choices:
        form = ", ".join(f"`{each}`" for each in field.choices)
    needed = " (needed)" if field.needed else ""
    return f"| `{table}` | `{field.key}`{needed} | {form} | {field.words} |"


def _lines(table: Table, name: str) -> list[str]:
    lines = []
    for field in table.fields:
        if field.table:
            lines += _lines(field.table, f"{name}.{field.key}")
        else:
            lines.append(_line(name, field))
    return lines


def test_the_table_has_every_field() -> None:
    lines = ["| table | field | takes | meaning |", "|---|---|---|---|"]
    lines += [_line("", field).replace("| `` |", "| |") for field in HEAD]
    for table in TABLES:
        lines += _lines(table, table.key)
    text = PAGE.read_text()
    head, rest = text.split("NODECTL_WRITE_DOCS=1 -->\n")
    _, tail = rest.split("<!-- end -->")
    wanted = f"{head}NODECTL_WRITE_DOCS=1 -->\n" + "\n".join(lines) + f"\n<!-- end -->{tail}"
    if os.environ.get("NODECTL_WRITE_DOCS"):
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted


KINDS = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
         "number": (int, float)}  # fmt: skip


def _fits(value: Any, schema: Any, place: str = "") -> list[str]:  # noqa: ANN401 - JSON
    """Return where a document does not fit; only the words that our schema uses are known."""
    if "anyOf" in schema:
        return [] if any(not _fits(value, each) for each in schema["anyOf"]) else [place]
    if "const" in schema or "enum" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [place]
    if not isinstance(value, KINDS[schema["type"]]):
        return [place]
    if isinstance(value, dict):
        return _fits_object(value, schema, place)
    if isinstance(value, list):
        found = (_fits(each, schema["items"], f"{place}[{i}]") for i, each in enumerate(value))
        return [wrong for each in found for wrong in each]
    return [] if re.search(schema.get("pattern", ""), str(value)) else [place]


def _fits_object(value: dict[str, Any], schema: Any, place: str) -> list[str]:  # noqa: ANN401
    known = schema["properties"]
    wrong = [f"{place}.{key}" for key in value if key not in known]
    wrong += [f"{place}.{key}" for key in schema.get("required", ()) if key not in value]
    for key in value.keys() & known.keys():
        wrong += _fits(value[key], known[key], f"{place}.{key}")
    return sorted(wrong)


def test_the_schema_takes_the_examples_and_refuses_what_the_reader_refuses() -> None:
    import tomllib  # noqa: PLC0415 - only here

    schema = json.loads(json.dumps(layout_schema()))
    for text in EXAMPLES:
        assert _fits(tomllib.loads(text), schema) == []
        assert _fits(tomllib.loads(format_layout(parse_layout(text))), schema) == []
    wrong = tomllib.loads(EXAMPLES[0].replace('size = "rest"', 'size = "2 parsecs"\ncolour = 1'))
    assert _fits(wrong, schema) == [".partition[0].colour", ".partition[0].size"]
