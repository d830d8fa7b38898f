"""Secrets and templates of a site, placed in a tree with the owners that it knows."""

from pathlib import Path

import pytest

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.site_files import FileKind, FilledFile, SiteFile
from nodectl.errors import InvalidInput, TemplateInvalid
from nodectl.identity.apply import apply_identity, check_identity
from nodectl.identity.model import TreeFacts
from nodectl.identity.own import Owner, plan_own
from nodectl.identity.site import filled_files, plan_site_files

PASSWD = "root:x:0:0::/:/bin/sh\nmunge:x:64:65::/:/bin/false\nodd line\n"
GROUP = "root:x:0:\nmunge:x:66:anna\nssl-cert:x:104:\n"
TREE = TreeFacts(texts={"etc/passwd": PASSWD, "etc/group": GROUP})


def given(name: str = "munge", content: bytes = b"key", **fields: str) -> FilledFile:
    document = {
        "name": name, "kind": "secret", "group": "all", "path": "/etc/munge/munge.key",
        "owner": "munge:munge", "mode": "0400", **fields,
    }  # fmt: skip
    return FilledFile(file=SiteFile.from_json(document), content=content)


@pytest.mark.parametrize(
    ("owner", "ids"),
    [
        ("munge:munge", (64, 66)),
        ("munge", (64, 65)),
        ("root:ssl-cert", (0, 104)),
        ("1234:5678", (1234, 5678)),
        ("1234", (1234, 0)),
        ("root", (0, 0)),
    ],
)
def test_owners_have_the_ids_of_the_tree(owner: str, ids: tuple[int, int]) -> None:
    placed = plan_site_files(TREE, [given(owner=owner)])
    (file,) = placed.files
    assert ((file.uid, file.gid), file.mode, placed.notes) == (ids, 0o400, ())


@pytest.mark.parametrize("owner", ["slurm", "slurm:munge", "munge:slurm"])
def test_an_unknown_owner_is_root_and_nobody_else_may_read(owner: str) -> None:
    placed = plan_site_files(TREE, [given(owner=owner, mode="0644")])
    (file,) = placed.files
    assert (file.uid, file.gid, file.mode) == (0, 0, 0o600)
    assert f"the image has no {owner}" in placed.notes[0]


def test_two_files_for_one_place_are_noted() -> None:
    placed = plan_site_files(TREE, [given(), given("other", b"second")])
    assert [file.data for file in placed.files] == [b"second"]
    assert "is given twice: other was taken" in placed.notes[0]


def test_they_are_written_and_count_more_than_what_else_would_be(tmp_path: Path) -> None:
    """Real files; as another user than root the owner cannot be set, and stays."""
    node = NodeInventory(name="node07", attributes={"x": "1"})
    template = given("hosts", b"10.0.0.9 @{name} @{attribute.x}\n",
                     kind="template", path="/etc/hosts", owner="root", mode="0644")  # fmt: skip
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("127.0.1.1 gold\n")
    files = filled_files([given(owner="root", mode="0440"), template], node)
    plan = plan_own(tmp_path, Owner(realm_id="r", name="node07", inventory=node, files=files))
    applied = apply_identity(tmp_path, plan)
    check_identity(tmp_path, plan)
    assert (tmp_path / "etc/hosts").read_text() == "10.0.0.9 node07 1\n"
    assert (tmp_path / "etc/munge/munge.key").stat().st_mode & 0o777 == 0o440
    assert {"etc/munge/munge.key", "etc/hosts"} <= applied.paths
    assert "etc/munge" in applied.made
    assert "b'key'" not in repr(plan)


def test_a_template_that_cannot_be_filled_in_is_refused() -> None:
    node = NodeInventory(name="node07")
    for content in (b"@{bmc}", b"\xff"):
        with pytest.raises(TemplateInvalid, match="template munge"):
            filled_files([given(content=content, kind=FileKind.TEMPLATE.value)], node)
    assert filled_files([given(content=b"\xff@{bmc}")], node)[0].content == b"\xff@{bmc}"


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "etc/x"},
        {"path": "/"},
        {"path": "/etc/"},
        {"path": "/etc/../root/x"},
        {"path": "/etc/x\n"},
        {"path": "/etc/nodectl/own-files"},
        {"path": "/proc/sys/x"},
        {"path": "/etc/machine-id"},
        {"mode": "9"},
        {"mode": "4755"},
        {"mode": "0x1"},
        {"owner": "a b"},
        {"owner": "a:b:c"},
        {"owner": ""},
        {"group": "a b"},
        {"name": "../x"},
        {"kind": "public"},
    ],
)
def test_what_cannot_be_placed_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidInput):
        given(**fields)
