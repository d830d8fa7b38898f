"""The inventory in the forms of other tools: what each holds, and every mistake with its line."""

import pytest
from hypothesis import given
from inventory_samples import inventories

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.catalog.inventory_exchange import Form, Missing, format_nodes, parse_nodes
from nodectl.catalog.inventory_text import read_inventory
from nodectl.errors import InventoryInvalid

MAC = "52:54:00:12:34:56"
NODE = NodeInventory(
    name="n7",
    rack="r1",
    groups=("compute", "gpu"),
    bmc="10.9.0.7",
    interfaces=(Interface(name="ib0", mac=MAC, addresses=("10.0.0.7/16",), gateway=("10.0.0.1",)),),
    attributes={"cores": "64"},
)
BARE = NodeInventory(name="n8")


def _read(text: str, form: Form, **missing: object) -> dict[str, NodeInventory]:
    documents = parse_nodes(text, form, Missing(**missing), source="f")  # type: ignore[arg-type]
    return {
        name: read_inventory({**fields, "name": name}, name=name, source="f")
        for name, fields in documents.items()
    }


CSV = f"""name,rack,groups,macs,bmc,image,layout,interface,mac,address,gateway,attribute.cores
n7,r1,compute;gpu,,10.9.0.7,,,ib0,{MAC},10.0.0.7/16,10.0.0.1,64
n8,,,,,,,,,,,
"""
XCAT = f"""n7:
    objtype=node
    groups=compute,gpu
    rack=r1
    bmc=10.9.0.7
    mac={MAC}
    ip=10.0.0.7
    primarynic=ib0
n8:
    objtype=node
"""


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (Form.CSV, CSV),
        (Form.HOSTS, "10.0.0.7\tn7\n"),
        (Form.DNSMASQ, f"dhcp-host={MAC},10.0.0.7,n7\n"),
        (Form.GENDERS, "n7 compute,gpu,rack=r1,bmc=10.9.0.7,cores=64\nn8\n"),
        (Form.XCAT, XCAT),
    ],
)
def test_each_form_is_written_so(form: Form, text: str) -> None:
    assert format_nodes([NODE, BARE], form)[0] == text


def test_what_a_form_cannot_hold_is_said() -> None:
    notes = {form: format_nodes([NODE, BARE], form)[1] for form in Form}
    assert notes[Form.JSON] == notes[Form.CSV] == ()
    assert all(
        notes[form] == (f"{form} does not hold all of 1 nodes, such as n7",)
        for form in (Form.HOSTS, Form.DNSMASQ, Form.GENDERS, Form.XCAT)
    )
    assert format_nodes([], Form.HOSTS) == ("", ())


@given(inventories())
def test_json_holds_everything_and_the_others_what_they_say(node: NodeInventory) -> None:
    for form in Form:
        text, notes = format_nodes([node], form)
        read = _read(text, form)
        if not notes:
            assert read.get(node.name, NodeInventory(name=node.name)) == node
    assert format_nodes([node], Form.JSON)[1] == ()


def test_several_cards_of_a_node_get_names_of_their_own() -> None:
    text = (
        f"dhcp-host={MAC},10.0.0.7,n7\ndhcp-host=52:54:00:12:34:57,10.1.0.7,n7\n"
        f"dhcp-host={MAC},10.2.0.7,n7\n"
    )
    (node,) = _read(text, Form.DNSMASQ).values()
    assert [(one.name, one.addresses) for one in node.interfaces] == [
        ("eth0", ("10.0.0.7/24", "10.2.0.7/24")),
        ("eth1", ("10.1.0.7/24",)),
    ]


def test_what_other_tools_write_is_understood() -> None:
    hosts = "# site\n127.0.0.1 localhost\n::1 ip6-localhost\n10.0.0.7 n7.example.org n7 # gpu\n"
    (node,) = _read(hosts, Form.HOSTS, interface="eno1", prefix=20).values()
    assert (node.name, node.interfaces[0].name) == ("n7", "eno1")
    assert node.interfaces[0].addresses == ("10.0.0.7/20",)

    dnsmasq = (
        "interface=br0\ndhcp-host=52-54-00-12-34-56,set:gpu,n7,10.0.0.7,12h\n"
        "dhcp-host=52:54:00:12:34:57,[2001:db8::8],n8,infinite\n"
    )
    nodes = _read(dnsmasq, Form.DNSMASQ)
    assert nodes["n7"].interfaces[0].mac == MAC
    assert nodes["n8"].interfaces[0].addresses == ("2001:db8::8/64",)

    genders = "n7,n8  compute,rack=r1\nn7 gpu\nn7\tcores=64\n"
    nodes = _read(genders.replace("\t", " "), Form.GENDERS)
    assert nodes["n7"].groups == ("compute", "gpu")
    assert (nodes["n8"].rack, nodes["n7"].attributes) == ("r1", {"cores": "64"})

    xcat = (
        "# <xCAT data object stanza file>\n\nn7:\n    objtype=node\n    arch=x86_64\n"
        f"    groups=compute,all\n    installnic=mac\n    ip=10.0.0.7\n    mac={MAC}!n7|{MAC}\n"
    )
    (node,) = _read(xcat, Form.XCAT).values()
    assert (node.groups, node.interfaces[0].mac, node.interfaces[0].name) == (
        ("all", "compute"), MAC, "eth0",
    )  # fmt: skip

    csv = 'name,mac,attribute.note\nn7,52:54:00:12:34:56,"a, b"\n'
    (node,) = _read(csv, Form.CSV).values()
    assert node.attributes == {"note": "a, b"}


@pytest.mark.parametrize(
    ("form", "text", "mistake"),
    [
        (Form.JSON, "[]", "is no JSON of the form"),
        (Form.JSON, "{", "is no JSON of the form"),
        (Form.CSV, "", "line 1: the columns are"),
        (Form.CSV, "name,colour\n", "not colour"),
        (Form.CSV, "name,rack\nn7\n", "line 2: it has not 2 columns"),
        (Form.CSV, "name,rack\nn7,r1,x\n", "line 2: it has not 2 columns"),
        (Form.CSV, 'name\n"n7\n', "unexpected end of data"),
        (Form.CSV, "name\n../x\nb c\n", "line 2: '../x' is no name of a node\n  line 3: 'b c'"),
        (Form.HOSTS, "10.0.0.7\n", "line 1: there is no name behind '10.0.0.7'"),
        (Form.DNSMASQ, "dhcp-host=n7\n", "line 1: no MAC and name"),
        (Form.GENDERS, "n[1-3] x\n", "line 1: a line for each node"),
        (Form.XCAT, "x=1\n", "line 1: neither NAME: nor KEY=VALUE"),
        (Form.XCAT, "n7:\nx\n", "line 2: neither"),
    ],
)
def test_each_mistake_has_its_line(form: Form, text: str, mistake: str) -> None:
    with pytest.raises(InventoryInvalid) as caught:
        parse_nodes(text, form, Missing(), source="f")
    assert mistake in str(caught.value)
