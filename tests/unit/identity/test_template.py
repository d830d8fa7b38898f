"""Templates: what is filled in, what is refused, and that values change nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.catalog.inventory_text import read_inventory
from nodectl.errors import TemplateInvalid
from nodectl.identity.template import check, fill

NODE = NodeInventory(
    name="node07",
    rack="r1",
    groups=("compute", "gpu"),
    attributes={"cores": "64", "odd.key": "@{name} $(reboot) `x` {{ 7*7 }}"},
    interfaces=(
        Interface(
            name="bond0.20", addresses=("10.0.0.7/24", "2001:db8::7/64"), gateway=("10.0.0.1",)
        ),
        Interface(name="eth1", mac="52:54:00:12:34:56", mtu=9000),
    ),
)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("", ""),
        ("plain $x ${y} @ {z} a@b", "plain $x ${y} @ {z} a@b"),
        ("@{name}@{ rack }", "node07r1"),
        ("@{groups}", "compute,gpu"),
        ("CPUs=@{attribute.cores} @{attribute.memory:128000}", "CPUs=64 128000"),
        ("@{attribute.cores:1}@{image:}", "64"),
        ("@{attribute.none:a:b}", "a:b"),
        ("@{address} @{interface.bond0.20.address}", "10.0.0.7 10.0.0.7"),
        ("@{interface.bond0.20.prefix} @{interface.bond0.20.gateway}", "24 10.0.0.1"),
        ("@{interface.eth1.mac} @{interface.eth1.mtu}", "52:54:00:12:34:56 9000"),
        ("@@{name} @@@{name}", "@{name} @@{name}"),
        ("@{attribute.odd.key}", "@{name} $(reboot) `x` {{ 7*7 }}"),
        ("\u00fc@{name}\r\n", "\u00fcnode07\r\n"),
    ],
)
def test_variables_are_filled_in_once(text: str, filled: str) -> None:
    assert fill(text, NODE, name="t") == filled


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("a\n@{colour}", "line 2: there is no variable 'colour'"),
        ("@{name.__class__}", "line 1: there is no variable 'name.__class__'"),
        ("@{attribute.}", "there is no variable"),
        ("@{interface.eth0}", "there is no variable"),
        ("@{interface.eth0.speed}", "there is no variable"),
        ("@{}", "there is no variable ''"),
        ("x\n\n@{name\n}", "line 3: @{ is not closed on its line"),
    ],
)
def test_a_wrong_template_is_refused_with_its_lines(text: str, mistake: str) -> None:
    with pytest.raises(TemplateInvalid, match="the template t is not valid") as caught:
        check(text, name="t")
    assert mistake in str(caught.value)
    with pytest.raises(TemplateInvalid):
        fill(text, NODE, name="t")


def test_values_that_a_node_lacks_are_named_all_at_once() -> None:
    text = "@{bmc}\n@{attribute.x}\n@{interface.eth1.address}\n@{interface.eth9.mac}\n"
    check(text, name="t")
    with pytest.raises(TemplateInvalid, match="cannot be filled in for node07") as caught:
        fill(text, NODE, name="t")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        f"  line {number}" for number in range(1, 5)
    ]


@given(st.text(max_size=40))
def test_no_value_adds_a_line_or_is_read_again(value: str) -> None:
    """What the inventory takes as an attribute stays one word of the template's line."""
    document = {"attributes": {"x": value}}
    try:
        node = read_inventory(document, name="n", source="f")
    except Exception:  # noqa: BLE001 - refused: cannot come into a template
        return
    filled = fill("a\n<@{attribute.x:-}>\n@{name}\n", node, name="t")
    assert filled == f"a\n<{value or '-'}>\nn\n"
    assert len(filled.splitlines()) == 3
