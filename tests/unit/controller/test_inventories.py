"""The inventory of a realm: compare-and-set, and nothing claimed twice."""

from pathlib import Path

import pytest

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.inventories import Inventories
from nodectl.controller.inventory_api import parse_write
from nodectl.errors import InvalidInput, InventoryInvalid, NameTaken, UnknownNode, WriteConflict

ONE = b'{"inventory": {"name": "a"}, "revision": 0}'
MAC = "52:54:00:12:34:56"


def _node(name: str, **fields: object) -> NodeInventory:
    return NodeInventory(name=name, **fields)  # type: ignore[arg-type]


def test_a_node_is_there_before_it_joined_and_changes_by_revision() -> None:
    nodes = Inventories(MemoryCatalog())
    first = nodes.put(_node("n1", rack="r1"), expected=0)
    assert (nodes.rack("n1"), nodes.rack("n2")) == ("r1", "")
    second = nodes.put(_node("n1", rack="r2"), expected=first)
    assert nodes.get("n1") == (_node("n1", rack="r2"), second)
    with pytest.raises(WriteConflict, match="n1 was changed meanwhile"):
        nodes.put(_node("n1", rack="r3"), expected=first)
    with pytest.raises(NameTaken, match="has a node n1 already"):
        nodes.put(_node("n1"), expected=0)
    assert nodes.rack("n1") == "r2"
    nodes.remove("n1")
    with pytest.raises(UnknownNode):
        nodes.get("n1")
    with pytest.raises(UnknownNode):
        nodes.remove("n1")


def test_a_mac_or_address_belongs_to_one_node() -> None:
    nodes = Inventories(MemoryCatalog())
    eth0 = Interface(name="eth0", addresses=("10.0.0.7/24",))
    first = nodes.put(_node("n1", macs=(MAC,), interfaces=(eth0,), bmc="10.9.0.1"), expected=0)
    for taken in (
        _node("n2", interfaces=(Interface(name="eth0", mac=MAC),)),
        _node("n2", interfaces=(Interface(name="eth0", addresses=("10.0.0.7/16",)),)),
        _node("n2", bmc="10.9.0.1"),
    ):
        with pytest.raises(NameTaken, match=r"n1 has the .* that n2 would get"):
            nodes.put(taken, expected=0)
    with pytest.raises(NameTaken, match=f"a has the MAC {MAC} that b would get"):
        nodes.check([_node("n1"), _node("a", macs=(MAC,)), _node("b", macs=(MAC,))])
    nodes.put(_node("n1"), expected=first)  # it gives them up
    moved = nodes.put(_node("n2", macs=(MAC,)), expected=0)
    nodes.put(_node("n2", macs=(MAC,), rack="r1"), expected=moved)


def test_what_others_write_is_seen(tmp_path: Path) -> None:
    with SqliteCatalog(tmp_path / "c") as catalog:
        mine, theirs = Inventories(catalog), Inventories(catalog)
        first = mine.put(_node("a", macs=(MAC,)), expected=0)
        assert [one.name for one, _ in theirs.list()] == ["a"]
        # The MAC moves from a to b, and a changes again: two changes that are seen in one look.
        gave_up = mine.put(_node("a"), expected=first)
        mine.put(_node("b", macs=(MAC,)), expected=0)
        mine.put(_node("a", rack="r1"), expected=gave_up)
        with pytest.raises(NameTaken, match="b has the MAC"):
            theirs.put(_node("c", macs=(MAC,)), expected=0)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{}", InvalidInput),
        (b'{"nodes": [7]}', InvalidInput),
        (b'{"nodes": [{"inventory": {}, "revision": 0}]}', InvalidInput),
        (b'{"nodes": [{"inventory": {"name": "../x"}, "revision": 0}]}', InvalidInput),
        (b'{"nodes": [{"inventory": {"name": "a"}, "revision": -1}]}', InvalidInput),
        (b'{"nodes": [{"inventory": {"name": "a"}, "revision": 0, "x": 1}]}', InvalidInput),
        (b'{"nodes": [{"inventory": {"name": "a", "x": 1}, "revision": 0}]}', InventoryInvalid),
        (
            b'{"nodes": [%b, %b]}' % (ONE, ONE),
            InvalidInput,
        ),
    ],
)
def test_a_bad_request_is_refused(body: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        parse_write(body)
