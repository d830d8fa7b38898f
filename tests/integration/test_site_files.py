"""Secrets and templates by command: into the controller, out to the nodes of the group alone."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import WAIT_S, Commands

from nodectl.catalog.site_files import FilledFile, SiteFile
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.inventories import Inventories
from nodectl.controller.site_files import SiteFiles
from nodectl.errors import NotAllowed
from nodectl.node.client import ControlClient
from nodectl.node.site_files import files_of
from nodectl.node.state import StateFolder
from nodectl.trust.realm import load_realm

SECRET = "a munge key that nobody sees"


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.serve("c", "--controller")
    for name in ("n1", "n2"):
        token = commands.ok("c", "token", "create").strip()
        commands.ok(name, "join", "--token", token, "--name", name)
    commands.ok("c", "node", "add", "n1", "--group", "compute", "--attribute", "cores=64")
    yield commands
    commands.end()


def _given(folder: Path, name: str) -> dict[str, bytes]:
    async def asking() -> dict[str, bytes]:
        async with ControlClient(StateFolder(folder).membership()) as client:
            return {one.file.name: one.content for one in await files_of(client, name)}

    return asyncio.run(asking())


def test_a_secret_goes_to_its_group_and_is_seen_nowhere_else(
    realm: Commands, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(SECRET)
    said = realm.ok(
        "c", "-vv", "secret", "set", "munge", "--group", "compute",
        "--path", "/etc/munge/munge.key", "--owner", "munge:munge", "--mode", "0400",
        "--file", str(tmp_path / "key"),
    )  # fmt: skip
    assert said == "secret munge: /etc/munge/munge.key on the nodes of compute\n"
    assert _given(tmp_path / "n1", "n1") == {"munge": SECRET.encode()}
    assert _given(tmp_path / "n2", "n2") == {}
    for asker in ("n2", "c"):  # not for another node, not for the operator
        with pytest.raises(NotAllowed):
            _given(tmp_path / asker, "n1")
    assert "munge:munge  0400" in realm.ok("c", "secret", "list")
    (one,) = json.loads(realm.ok("c", "secret", "list", "--json"))["secrets"]
    assert one["path"] == "/etc/munge/munge.key"
    realm.fails("c", 43, "template", "show", "munge")
    realm.fails("n1", 43, "secret", "list")
    what = realm.ok("c", "audit", "show", "--json")
    assert '"secret set"' in what
    assert '"files given"' in what
    for path in (tmp_path / "c").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    realm.ok("c", "secret", "remove", "munge")
    realm.fails("c", 10, "secret", "remove", "munge")
    assert _given(tmp_path / "n1", "n1") == {}


def test_a_secret_outlives_the_realm_key(tmp_path: Path) -> None:
    """The key is changed while no controller runs."""
    commands = Commands(tmp_path)
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    folder = StateFolder(tmp_path / "c")
    document = {
        "name": "munge", "kind": "secret", "group": "all", "path": "/etc/munge/munge.key",
        "owner": "root", "mode": "0400",
    }  # fmt: skip
    wanted = FilledFile(file=SiteFile.from_json(document), content=SECRET.encode())
    with SqliteCatalog(folder.catalog) as catalog:
        SiteFiles(catalog, load_realm(folder.realm), Inventories(catalog)).put(wanted)
    for more in ((), ("--finish",)):
        commands.ok("c", "realm", "rotate-key", *more)
    realm = load_realm(folder.realm)
    assert realm.old_keys == ()
    with SqliteCatalog(folder.catalog) as catalog:
        assert SiteFiles(catalog, realm, Inventories(catalog)).get("munge") == wanted


def test_a_template_is_checked_and_shown_as_a_node_gets_it(realm: Commands, tmp_path: Path) -> None:
    text = tmp_path / "slurm.conf"
    words = ("template", "set", "slurm", "--group", "all", "--path", "/etc/slurm.conf")
    text.write_text("NodeName=@{name}\nCPUs=@{attribute.cors")
    assert "line 2: @{ is not closed" in realm.fails("c", 91, *words, "--file", str(text))
    text.write_text("NodeName=@{name} CPUs=@{attribute.cores}\n")
    realm.ok("c", *words, "--file", str(text))
    assert realm.ok("c", "template", "show", "slurm") == text.read_text()
    assert realm.ok("c", "template", "show", "slurm", "--node", "n1") == "NodeName=n1 CPUs=64\n"
    realm.ok("c", "node", "add", "n2")
    story = realm.fails("c", 91, "template", "show", "slurm", "--node", "n2")
    assert "line 1: n2 has no attribute.cores" in story
    realm.fails("c", 44, "secret", "set", "slurm", "--group", "x", "--path", "/etc/y",
                "--file", str(text))  # fmt: skip
    realm.fails("c", 14, *words[:-1], "etc/x", "--file", str(text))
    realm.fails("c", 11, *words, "--file", str(tmp_path / "absent"))
    done = subprocess.run(
        [sys.executable, "-m", "nodectl", *words, "--state", str(tmp_path / "c")],
        input="from standard input @{name}\n", capture_output=True, text=True, timeout=WAIT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "standard input n1" in realm.ok("c", "template", "show", "slurm", "--node", "n1")
