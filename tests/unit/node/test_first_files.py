"""The files that make a clone a machine of its own."""

from pathlib import Path

import pytest

from nodectl.errors import ReadBackFailed, UnsafePath
from nodectl.node.first_files import (
    check_first_files,
    derive_machine_id,
    name_own_address,
    write_first_files,
)


def test_a_machine_id_is_stable_and_nobody_elses() -> None:
    mine = derive_machine_id("realm", "node07")
    assert mine == derive_machine_id("realm", "node07")
    assert len(mine) == 32
    assert set(mine) <= set("0123456789abcdef")
    others = {derive_machine_id("realm", "node08"), derive_machine_id("other", "node07")}
    # the boundary between the two names counts
    others.add(derive_machine_id("realmn", "ode07"))
    assert len(others | {mine}) == 4


def test_the_files_are_written_and_read_back(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("golden\n")
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 gold\n")
    (tmp_path / "etc/fstab").write_text("filer:/x /x nfs rw 0 0\n")
    files = write_first_files(tmp_path, (), realm_id="realm", node_name="node07")
    assert (tmp_path / "etc/hostname").read_text() == "node07\n"
    assert (tmp_path / "etc/machine-id").read_text() == f"{files.machine_id}\n"
    assert (tmp_path / "etc/machine-id").stat().st_mode & 0o777 == 0o444
    assert "127.0.1.1\tnode07\n" in (tmp_path / "etc/hosts").read_text()
    assert "filer:/x /x nfs rw 0 0\n" in (tmp_path / "etc/fstab").read_text()
    assert files.made == {"etc/nodectl"}
    assert (tmp_path / "etc/nodectl/own-files").read_text().split() == [
        "etc/fstab",
        "etc/hostname",
        "etc/hosts",
        "etc/machine-id",
    ]
    check_first_files(tmp_path, files)
    (tmp_path / "etc/hostname").write_text("golden\n")
    with pytest.raises(ReadBackFailed, match="/etc/hostname"):
        check_first_files(tmp_path, files)


def test_a_tree_without_etc_gets_one(tmp_path: Path) -> None:
    files = write_first_files(tmp_path, (), realm_id="r", node_name="n")
    assert files.made == {"etc", "etc/nodectl"}
    own = {"etc/fstab", "etc/hostname", "etc/machine-id"}
    assert set(files.written) == {*own, "etc/nodectl/own-files"}


def test_an_etc_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/etc").symlink_to("../outside")
    with pytest.raises(UnsafePath):
        write_first_files(tmp_path / "root", (), realm_id="r", node_name="n")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("127.0.0.1 localhost\n", "127.0.0.1 localhost\n"),
        ("127.0.1.1 gold\n", "127.0.1.1\tnode07\n"),
        ("127.0.1.1\tgold.example.org gold\n", "127.0.1.1\tnode07.example.org node07\n"),
        ("# 127.0.1.1 gold\n", "# 127.0.1.1 gold\n"),
        ("10.0.0.1 gold\n", "10.0.0.1 gold\n"),
    ],
)
def test_the_own_address_gets_the_nodes_name(old: str, new: str) -> None:
    assert name_own_address(old, "node07") == new
