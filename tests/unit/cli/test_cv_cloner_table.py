"""docs/cv-cloner.md, row by row: what it names is there, under that name, with that flag."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.main import get_command

from nodectl.cli.main import app

PAGE = Path(__file__).parents[3] / "docs" / "cv-cloner.md"
# Said on the page, with what to do instead; a row that is new here is a promise broken.
NOT_YET = {
    ("cv-cloner biossettings", ""),
    ("cv-cloner biossettings-upload", ""),
    ("cv-netboot", "--set cloner-multicast"),
    ("cv-console", ""),
}
SUB_COMMANDS = {
    "new-image", "update-filesystem", "update-disklayout", "update-options", "multicast-status",
    "multicast-image", "identify", "config", "script", "image-list", "image-details", "disklayout",
    "disklayout-upload", "biossettings", "biossettings-upload", "make-installer", "fix-efiboot",
}  # fmt: skip


class Row(NamedTuple):
    theirs: str
    flag: str
    ours: str
    our_flag: str
    note: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `cv-"):
            cells = [cell.strip().strip("`") for cell in line.strip("|").split(" |")]
            found.append(Row(*cells))
    return found


def options(command: str) -> set[str]:
    """Return the options of one of our commands; it must be there."""
    words = command.split()
    assert words[0] == "nodectl"
    found = get_command(app)
    for word in words[1:]:
        found = found.commands[word]  # type: ignore[attr-defined]
    return {name for parameter in found.params for name in parameter.opts}


def test_every_sub_command_has_a_row() -> None:
    named = {row.theirs.split()[1] for row in rows() if row.theirs.startswith("cv-cloner ")}
    assert named == SUB_COMMANDS


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.theirs} {row.flag}".strip())
def test_what_a_row_names_is_there(row: Row) -> None:
    if row.ours == "—":
        assert (row.theirs, row.flag) in NOT_YET
        assert "not there yet" in row.note
        return
    known = options(row.ours)
    if row.our_flag:
        assert row.our_flag in known


def test_the_values_that_rows_name_are_taken() -> None:
    said = {match for row in rows() for match in re.findall(r"nodectl power (\w+)", row.note)}
    power = get_command(app).commands["power"]  # type: ignore[attr-defined]
    action = next(one for one in power.params if one.name == "action")
    assert said == set(action.type.choices)
