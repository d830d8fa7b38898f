"""The inventory as people write it: what is understood, and every mistake by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from inventory_samples import inventories

from nodectl.catalog.inventory import Bond, BondMode, Bridge, Dhcp, NodeInventory, Route, Vlan
from nodectl.catalog.inventory_text import parse_document, read_inventory
from nodectl.errors import InventoryInvalid

WHOLE = """
rack = "r1"
groups = ["gpu", "compute", "gpu"]
macs = "52-54-00-AA-BB-CC"
bmc = "BMC7.example.org"
image = "golden"
layout = "two-disks"

[attributes]
cores = "64"

[[interfaces]]
name = "eth0"
mac = "52:54:00:12:34:56"
addresses = ["10.0.0.7/24", "2001:db8:0::7/64"]
gateway = ["10.0.0.1", "fe80::1"]
mtu = 9000
dns = "10.0.0.2"
search = ["cluster.example.org"]
routes = [{ to = "10.2.0.0/16", via = "10.0.0.9", metric = 50 }]

[[interfaces]]
name = "eth1"
mac = "52:54:00:12:34:57"

[[interfaces]]
name = "bond0"
bond = { mode = "802.3ad", members = ["eth1"] }

[[interfaces]]
name = "bond0.20"
dhcp = true
vlan = { id = 20, link = "bond0" }

[[interfaces]]
name = "br0"
bridge = {}
"""


def test_the_whole_form_is_understood() -> None:
    node = read_inventory(parse_document(WHOLE, source="f.toml"), name="node07", source="f")
    assert (node.rack, node.groups, node.macs) == (
        "r1",
        ("compute", "gpu"),
        ("52:54:00:aa:bb:cc",),
    )
    assert (node.bmc, node.image, node.layout) == ("bmc7.example.org", "golden", "two-disks")
    assert node.attributes == {"cores": "64"}
    eth0, eth1, bond, vlan, bridge = node.interfaces
    assert eth0.addresses == ("10.0.0.7/24", "2001:db8::7/64")
    assert (eth0.gateway, eth0.mtu, eth0.dns) == (("10.0.0.1", "fe80::1"), 9000, ("10.0.0.2",))
    assert eth0.routes == (Route(to="10.2.0.0/16", via="10.0.0.9", metric=50),)
    assert (eth0.physical, eth1.physical, bond.physical) == (True, True, False)
    assert bond.bond == Bond(mode=BondMode.LACP, members=("eth1",))
    assert (vlan.vlan, vlan.dhcp) == (Vlan(id=20, link="bond0"), Dhcp.BOTH)
    assert bridge.bridge == Bridge(members=())
    assert list(node.all_addresses()) == ["10.0.0.7", "2001:db8::7"]
    assert list(node.all_macs()) == [
        "52:54:00:aa:bb:cc",
        "52:54:00:12:34:56",
        "52:54:00:12:34:57",
    ]


@given(inventories())
def test_what_is_written_is_read_again(node: NodeInventory) -> None:
    document = parse_document(json.dumps(node.to_json()), source="f.json")
    assert read_inventory(document, name=node.name, source="f") == node


ETH0: dict[str, Any] = {"name": "eth0", "mac": "52:54:00:12:34:56"}
ETH1: dict[str, Any] = {"name": "eth1"}


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        ([], "the document: is no table"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"name": "node08"}, "name: is 'node08', and the node is 'node07'"),
        ({"rack": "a b"}, "rack: not a usable name"),
        ({"groups": [7]}, "groups: is no text: 7"),
        ({"groups": {"a": 1}}, "groups: is no list"),
        ({"macs": ["52:54"]}, "macs: not a MAC address"),
        ({"bmc": "bmc 7"}, "bmc: 'bmc 7' is no host name or address"),
        ({"attributes": {"a b": "x"}}, "attributes: 'a b' is no name"),
        ({"attributes": {"a": "x\ny"}}, "attributes.a: is no text of at most"),
        ({"attributes": {"a": 7}}, "attributes.a: is no text of at most"),
        ({"interfaces": [{}]}, "interfaces[0].name: is needed"),
        ({"interfaces": [{"name": "../eth0"}]}, "interfaces[0].name: '../eth0' is no name"),
        ({"interfaces": [{"name": "a" * 16}]}, "is no name of an interface"),
        ({"interfaces": [{"name": "lo"}]}, "interfaces[0].name: 'lo' is no name"),
        ({"interfaces": [ETH0, ETH0]}, "interfaces[0].name: eth0 is there twice"),
        ({"interfaces": [ETH0 | {"addresses": "10.0.0.7"}]}, "has no prefix length"),
        ({"interfaces": [ETH0 | {"addresses": "10.0.0.0/24"}]}, "is the network itself"),
        ({"interfaces": [ETH0 | {"addresses": "10.0.0.255/24"}]}, "is the broadcast address"),
        ({"interfaces": [ETH0 | {"addresses": "10.0.0.300/24"}]}, "is no IP address"),
        ({"interfaces": [ETH0 | {"mtu": 20}]}, "interfaces[0].mtu: is no whole number from 68"),
        ({"interfaces": [ETH0 | {"mtu": True}]}, "interfaces[0].mtu: is no whole number"),
        ({"interfaces": [ETH0 | {"mtu": 1000, "dhcp": "ipv6"}]}, "IPv6 needs at least 1280"),
        ({"interfaces": [ETH0 | {"dhcp": "maybe"}]}, "must be one of none, ipv4, ipv6, both"),
        (
            {"interfaces": [ETH0 | {"addresses": "10.0.0.7/24", "gateway": "10.1.0.1"}]},
            "interfaces[0].gateway: 10.1.0.1 is in no network of this interface",
        ),
        (
            {
                "interfaces": [
                    ETH0 | {"addresses": "10.0.0.7/24", "gateway": ["10.0.0.1", "10.0.0.2"]}
                ]
            },
            "eth0 has a gateway of IPv4 already",
        ),
        (
            {
                "interfaces": [
                    ETH0 | {"addresses": "10.0.0.7/24", "gateway": "10.0.0.1"},
                    ETH1 | {"addresses": "10.1.0.7/24", "gateway": "10.1.0.1"},
                ]
            },
            "interfaces[1].gateway: eth0 has a gateway of IPv4 already",
        ),
        (
            {"interfaces": [ETH0 | {"routes": [{"to": "10.2.0.1/16", "via": "10.0.0.1"}]}]},
            "interfaces[0].routes[0].to: is no network",
        ),
        (
            {"interfaces": [ETH0 | {"routes": [{"to": "default", "via": "10.0.0.1"}]}]},
            "interfaces[0].routes[0].via: 10.0.0.1 is in no network",
        ),
        (
            {
                "interfaces": [
                    ETH0
                    | {
                        "addresses": "10.0.0.7/24",
                        "routes": [{"to": "2001:db8::/64", "via": "10.0.0.1"}],
                    }
                ]
            },
            "are of two families",
        ),
        (
            {
                "interfaces": [
                    ETH0 | {"addresses": "10.0.0.7/24"},
                    ETH1 | {"addresses": "10.0.0.7/24"},
                ]
            },
            "interfaces[1].addresses: eth0 has the address 10.0.0.7 already",
        ),
        ({"interfaces": [ETH0 | {"dns": "10.0.0.2"}]}, "dns: is nothing without addresses or dhcp"),
        ({"attributes": {"network-renderer": "wicked"}}, "attributes.network-renderer: must be"),
        ({"interfaces": [ETH0, ETH1 | {"mac": ETH0["mac"]}]}, "eth0 has the MAC"),
        (
            {"interfaces": [{"name": "v", "vlan": {"id": 4095, "link": "eth0"}}, ETH0]},
            "interfaces[0].vlan.id: is no whole number from 1 to 4094",
        ),
        (
            {"interfaces": [{"name": "v", "vlan": {"id": 4, "link": "eth9"}}]},
            "interfaces[0].vlan.link: there is no interface eth9",
        ),
        (
            {
                "interfaces": [
                    ETH0 | {"mtu": 1500},
                    {"name": "v", "mtu": 9000, "vlan": {"id": 4, "link": "eth0"}},
                ]
            },
            "interfaces[1].mtu: 9000 is more than the 1500 of eth0 below it",
        ),
        (
            {"interfaces": [{"name": "b", "bond": {"mode": "fast", "members": []}}]},
            "interfaces[0].bond.mode: must be one of balance-rr",
        ),
        (
            {"interfaces": [{"name": "b", "bond": {"mode": "802.3ad", "members": []}}]},
            "interfaces[0].bond.members: a bond needs at least one",
        ),
        (
            {"interfaces": [{"name": "b", "bond": {"mode": "802.3ad", "members": ["eth9"]}}]},
            "interfaces[0].bond.members: there is no interface eth9",
        ),
        (
            {
                "interfaces": [
                    ETH0 | {"addresses": "10.0.0.7/24"},
                    {"name": "b", "bond": {"mode": "802.3ad", "members": ["eth0"]}},
                ]
            },
            "eth0 has addresses, DHCP, DNS or routes of its own",
        ),
        (
            {
                "interfaces": [
                    ETH0,
                    {"name": "b", "bond": {"mode": "802.3ad", "members": ["eth0"]}},
                    {"name": "c", "bridge": {"members": ["eth0"]}},
                ]
            },
            "interfaces[2].members: b has the member eth0 already",
        ),
        (
            {
                "interfaces": [
                    {"name": "a", "bridge": {"members": ["v"]}},
                    {"name": "v", "vlan": {"id": 4, "link": "a"}},
                ]
            },
            "interfaces[0]: a stands on itself",
        ),
        (
            {
                "interfaces": [
                    {"name": "a", "bridge": {}, "bond": {"mode": "802.3ad", "members": ["eth0"]}},
                    ETH0,
                ]
            },
            "interfaces[0]: is at most one of bond, vlan and bridge",
        ),
    ],
)
def test_each_mistake_is_named(document: object, mistake: str) -> None:
    with pytest.raises(InventoryInvalid) as caught:
        read_inventory(document, name="node07", source="f")
    assert mistake in str(caught.value)


def test_all_mistakes_come_at_once() -> None:
    document = {"rack": "a b", "interfaces": [{"name": "eth0", "mtu": 1, "colour": 2}], "x": 1}
    with pytest.raises(InventoryInvalid, match="f has 4 mistakes:") as caught:
        read_inventory(document, name="node07", source="f")
    assert len(str(caught.value).splitlines()) == 5


@pytest.mark.parametrize("source", ["f.json", "f.toml"])
@pytest.mark.parametrize("text", ["a = {", "[1, 2]", "[" * 100_000])
def test_what_is_no_document_is_said_to_be_none(source: str, text: str) -> None:
    with pytest.raises(InventoryInvalid, match=f"{source} (is not valid|holds no table)"):
        parse_document(text, source=source)
