"""The inventory by command: a node is known before it joins, and asks about itself afterwards."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands

ETH0 = "eth0,mac=52:54:00:12:34:56,address=10.0.0.7/24,gateway=10.0.0.1,mtu=9000,dns=10.0.0.2"
FILE = """
rack = "r2"
[attributes]
cores = "64"
[[interfaces]]
name = "eth0"
addresses = ["10.0.0.8/24"]
"""


@pytest.fixture
def realm(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.serve("c", "--controller")
    yield commands
    commands.end()


def _show(realm: Commands, *words: str, node: str = "c") -> dict[str, object]:
    return dict(json.loads(realm.ok(node, "node", "show", *words, "--json")))


def test_a_node_is_known_before_it_joins(realm: Commands, tmp_path: Path) -> None:
    realm.ok(
        "c", "node", "add", "n1", "--rack", "r1", "--group", "gpu", "--group", "compute",
        "--interface", ETH0, "--interface", "eth1,mac=52:54:00:12:34:57",
        "--interface", "bond0,bond=802.3ad,member=eth1",
        "--interface", "v20,vlan=20,link=bond0,dhcp=ipv4", "--attribute", "cores=32",
    )  # fmt: skip
    said = _show(realm, "n1")
    assert (said["rack"], said["groups"]) == ("r1", ["compute", "gpu"])
    assert said["attributes"] == {"cores": "32"}
    assert said["interfaces"] == [
        {
            "name": "eth0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.7/24"],
            "gateway": ["10.0.0.1"], "mtu": 9000, "dns": ["10.0.0.2"],
        },
        {"name": "eth1", "mac": "52:54:00:12:34:57"},
        {"name": "bond0", "bond": {"mode": "802.3ad", "members": ["eth1"]}},
        {"name": "v20", "dhcp": "ipv4", "vlan": {"id": 20, "link": "bond0"}},
    ]  # fmt: skip
    (row,) = [line for line in realm.ok("c", "node", "list").splitlines() if line.startswith("n1 ")]
    assert row.split() == ["n1", "-", "has", "not", "joined", "-", "r1", "compute,gpu"]

    # What no option names stays; what is named takes the place of what was there.
    realm.ok("c", "node", "set", "n1", "--rack", "", "--attribute", "cores=", "--attribute", "a=b",
             "--interface", "v20=", "--interface", "eth0,dhcp=both", "--group", "")  # fmt: skip
    said = _show(realm, "n1")
    assert {"rack", "groups"} & said.keys() == set()
    assert said["attributes"] == {"a": "b"}
    interfaces = said["interfaces"]
    assert isinstance(interfaces, list)
    assert [one["name"] for one in interfaces] == ["eth0", "eth1", "bond0"]
    assert interfaces[0] == {"name": "eth0", "dhcp": "both"}

    token = realm.ok("c", "token", "create").strip()
    realm.ok("n1", "join", "--token", token, "--name", "n1")
    assert _show(realm, node="n1") == said  # it asks about itself
    realm.fails("n1", 43, "node", "show", "c")
    realm.fails("n1", 43, "node", "set", "n1", "--rack", "r9")
    (node,) = [
        one
        for one in json.loads(realm.ok("c", "node", "list", "--json"))["nodes"]
        if one["name"] == "n1"
    ]
    assert (node["role"], node["rack"], node["groups"]) == ("node", "", [])

    (tmp_path / "n1.toml").write_text(FILE)
    file = str(tmp_path / "n1.toml")
    realm.ok("c", "node", "set", "n1", "--file", file, "--rack", "r3")
    said = _show(realm, "n1")
    assert (said["rack"], said["attributes"]) == ("r3", {"cores": "64"})
    (tmp_path / "n1.json").write_text(json.dumps(said))
    realm.ok("c", "node", "set", "n1", "--file", str(tmp_path / "n1.json"))
    assert _show(realm, "n1") == said

    what = [
        entry["what"]
        for entry in map(json.loads, realm.ok("c", "audit", "show", "--json").splitlines())
        if entry["whom"] == "n1"
    ]
    assert what.count("node set") == 3
    assert "node add" in what
    realm.ok("c", "node", "forget", "n1")
    realm.fails("c", 45, "node", "show", "n1")


def test_many_nodes_at_once_by_range(realm: Commands, tmp_path: Path) -> None:
    """All of them, or none."""
    realm.ok("c", "node", "add", "n1", "--mac", "52:54:00:12:34:56")
    realm.ok("c", "node", "add", "m[08-11]", "--group", "gpu")
    realm.ok("c", "node", "set", "@gpu,-m08", "--rack", "r7", "--bmc", "")
    assert realm.ok("c", "node", "expand", "@rack:r7").split() == ["m09", "m10", "m11"]
    assert realm.ok("c", "node", "expand", "all!m*").split() == ["c", "n1"]
    realm.fails("c", 45, "node", "set", "m[08-12]", "--rack", "r8")
    realm.fails("c", 44, "node", "set", "m[08-11]", "--mac", "52:54:00:12:34:56")
    assert "rack" not in _show(realm, "m08")
    (tmp_path / "hosts").write_text("10.0.0.8 m08\n10.0.0.20 x20\n")
    words = ("node", "import", str(tmp_path / "hosts"), "--format", "hosts", "--prefix", "16")
    realm.fails("c", 44, *words)
    realm.fails("c", 45, "node", "show", "x20")
    assert realm.ok("c", *words, "--update") == "2 nodes are in the inventory\n"
    assert _show(realm, "m08") == {
        "name": "m08", "groups": ["gpu"],
        "interfaces": [{"name": "eth0", "addresses": ["10.0.0.8/16"]}],
    }  # fmt: skip
    assert realm.ok("c", "node", "export", "--format", "hosts", "--nodes", "x*,m*") == (
        "10.0.0.8\tm08\n10.0.0.20\tx20\n"
    )
    realm.fails("c", 14, "node", "export", "--format", "yaml")
    realm.fails("c", 14, "node", "expand", "@nobody")
    realm.fails("c", 14, "node", "expand", "n1&m08")
    realm.fails("c", 14, "node", "add", "m[1-2")


def test_each_wrong_input_has_its_sentence_and_status(realm: Commands, tmp_path: Path) -> None:
    realm.ok("c", "node", "add", "n1", "--interface", ETH0)
    story = realm.fails(
        "c", 90, "node", "add", "n2", "--rack", "a b", "--interface", "eth0,mtu=1,colour=red"
    )
    assert all(word in story for word in ("3 mistakes", "rack:", "[0].mtu:", "[0].colour:"))
    assert "n1 has the MAC" in realm.fails("c", 44, "node", "add", "n2", "--interface", ETH0)
    realm.fails("c", 44, "node", "add", "n1")
    realm.fails("c", 45, "node", "set", "n2", "--rack", "r1")
    realm.fails("c", 14, "node", "add", "../x")
    realm.fails("c", 14, "node", "add", "n2", "--attribute", "novalue")
    realm.fails("c", 14, "node", "add", "n2", "--interface", "eth0,mtu")
    realm.fails("c", 11, "node", "add", "n2", "--file", str(tmp_path / "absent.toml"))
    (tmp_path / "bad.toml").write_text("a = ")
    realm.fails("c", 90, "node", "add", "n2", "--file", str(tmp_path / "bad.toml"))
    realm.fails("c", 45, "node", "show", "n2")
