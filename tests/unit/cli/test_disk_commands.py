"""`nodectl disklayout` and the text of plans; the clone itself is in tests/integration."""

import json
from pathlib import Path

import pytest
import typer
from disk_samples import MIB, USED_SDA, layout_of, plan_of
from typer.testing import CliRunner

import nodectl.cli.clone
import nodectl.cli.disk
from nodectl.cli.disk_plan import plan_document, plan_text, read_layout
from nodectl.disk.kinds import FsType
from nodectl.disk.model import default_layout
from nodectl.disk.plan import DiskPlan
from nodectl.disk.text import parse_layout
from nodectl.errors import LayoutInvalid, NoRealm, PathMissing, PathUnreadable

app = typer.Typer()
nodectl.cli.clone.register(app)
nodectl.cli.disk.register(app)


@pytest.fixture
def plan() -> DiskPlan:
    layout = layout_of(("swap", FsType.SWAP, 512 * MIB, ""), ("root", FsType.EXT4, None, "/"))
    return plan_of(USED_SDA, layout)


def test_the_plan_names_the_disk_what_is_lost_and_what_it_becomes(plan: DiskPlan) -> None:
    text = plan_text(plan)
    for wanted in (
        "/dev/sda",
        "SSD 870",
        "S4XYNE0M",
        "8 GiB (8589934592 bytes, sectors of 512)",
        "LOST",
        "LVM2_member abc",
        "ext4 root at /",
        "512 MiB  swap swap",
        plan.fingerprint,
    ):
        assert wanted in text


def test_the_plan_for_machines_marks_what_destroys(plan: DiskPlan) -> None:
    document = json.loads(json.dumps(plan_document(plan)))
    destructive = {each["step"] for each in document["steps"] if each["destructive"]}
    assert destructive == {"WipeSignatures", "WriteTable", "FormatFilesystem", "MakeSwap"}
    assert document["disks"][0]["serial"] == "S4XYNE0M"


def test_show_prints_what_validate_accepts(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["disklayout", "show"])
    assert parse_layout(said.output) == default_layout()
    file = tmp_path / "layout.toml"
    file.write_text(said.output)
    said = CliRunner().invoke(app, ["disklayout", "validate", str(file)])
    assert (said.exit_code, "valid" in said.output) == (0, True)


def test_a_layout_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(PathMissing, match=r"absent\.toml"):
        read_layout(tmp_path / "absent.toml")
    with pytest.raises(PathUnreadable):
        read_layout(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"\xff")
    with pytest.raises(PathUnreadable):
        read_layout(bad)
    bad.write_bytes(b"schema = 1\n" + b"#" * (1 << 20))
    with pytest.raises(PathUnreadable, match="more than"):
        read_layout(bad)
    bad.write_text("schema = 9\n")
    with pytest.raises(LayoutInvalid, match=r"bad\.toml has .*\n *line 1, schema"):
        read_layout(bad)


def test_clone_lists_its_statuses_and_needs_a_realm() -> None:
    said = CliRunner().invoke(app, ["clone", "--help"])
    assert "Status: 0 cloned" in said.output
    said = CliRunner().invoke(app, ["clone", "debian", "--disk", "/dev/null"])
    assert isinstance(said.exception, NoRealm)
