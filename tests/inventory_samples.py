"""Inventories for tests: random valid ones, and one node with every kind of interface."""

from hypothesis import strategies as st

from nodectl.catalog.inventory import (
    Bond,
    BondMode,
    Bridge,
    Dhcp,
    Interface,
    NodeInventory,
    Route,
    Vlan,
)

# Drawn from short alphabets: those of a pattern or a category take seconds to build.
names = st.builds(
    str.__add__,
    st.sampled_from("azAZ09"),
    st.text(alphabet="ab09._-", max_size=8),
)
_texts = st.text(alphabet="aZ0,;#=:'$@{}\u00fc", min_size=1, max_size=8)


@st.composite
def _interfaces(draw: st.DrawFn, node: int) -> tuple[Interface, ...]:
    made = []
    for index in range(draw(st.integers(0, 4))):
        host = node * 8 + index + 1
        addresses = draw(st.sampled_from([(), (f"10.{index}.0.{host}/24",)]))
        gateway = (f"10.{index}.0.254",) if addresses and index == 0 and draw(st.booleans()) else ()
        routes = (Route(to="10.99.0.0/16", via=f"10.{index}.0.254", metric=7),) if addresses else ()
        dhcp = draw(st.sampled_from(list(Dhcp)))
        told = bool(addresses) or dhcp is not Dhcp.NONE
        kind = draw(st.sampled_from(["card", "vlan", "bond", "bridge"])) if index else "card"
        one = Interface(
            name=f"if{index}",
            mac=f"52:54:00:00:{node:02x}:{index:02x}" if kind == "card" else "",
            addresses=addresses,
            gateway=gateway,
            mtu=draw(st.sampled_from([None, 1500, 9000])) if kind != "vlan" else None,
            dhcp=dhcp,
            dns=draw(st.sampled_from([(), ("10.0.0.2",)])) if told else (),
            search=draw(st.sampled_from([(), ("example.org",)])) if told else (),
            routes=routes,
            vlan=Vlan(id=index, link="if0") if kind == "vlan" else None,
            bridge=Bridge(members=()) if kind == "bridge" else None,
            bond=Bond(mode=draw(st.sampled_from(list(BondMode))), members=(f"card{index}",))
            if kind == "bond"
            else None,
        )
        made.append(one)
        if kind == "bond":
            made.append(Interface(name=f"card{index}", mac=f"52:54:00:01:{node:02x}:{index:02x}"))
    return tuple(made)


@st.composite
def inventories(draw: st.DrawFn, node: int = 1) -> NodeInventory:
    """Return a valid inventory; two of different `node` (0 to 30) share nothing."""
    return NodeInventory(
        name=draw(names),
        rack=draw(st.one_of(st.just(""), names)),
        groups=tuple(sorted(draw(st.sets(names, max_size=3)))),
        macs=draw(st.sampled_from([(), (f"52:54:00:02:{node:02x}:01",)])),
        interfaces=draw(_interfaces(node)),
        attributes=dict(sorted(draw(st.dictionaries(st.sampled_from("abc"), _texts)).items())),
        bmc=draw(st.sampled_from(["", f"10.200.0.{node}", f"bmc{node}.example.org"])),
        image=draw(st.one_of(st.just(""), names)),
        layout=draw(st.one_of(st.just(""), names)),
    )


def _card(number: int, **fields: object) -> Interface:
    made = {"name": f"eth{number}", "mac": f"52:54:00:00:00:0{number}", **fields}
    return Interface(**made)  # type: ignore[arg-type]


def _node(*interfaces: Interface) -> NodeInventory:
    return NodeInventory(name="node07", interfaces=interfaces)


NODES = {
    "dhcp": _node(_card(0, dhcp=Dhcp.BOTH)),
    "static": _node(
        _card(
            0,
            addresses=("10.0.0.7/24", "10.0.1.7/24", "2001:db8::7/64"),
            gateway=("10.0.0.1", "fe80::1"),
            mtu=9000,
            dns=("10.0.0.2", "2001:db8::2"),
            search=("cluster.example.org", "example.org"),
            routes=(
                Route(to="10.2.0.0/16", via="10.0.0.9", metric=50),
                Route(to="2001:db8:2::/48", via="2001:db8::9"),
            ),
        ),
        Interface(name="ib0", addresses=("10.8.0.7/16",)),
    ),
    "everything": _node(
        _card(0, addresses=("10.0.0.7/24",), gateway=("10.0.0.1",), dns=("10.0.0.2",)),
        _card(1, mtu=9000),
        _card(2, mtu=9000),
        _card(3),
        # Written before what it stands on: order is the renderer's business.
        Interface(name="br0", bridge=Bridge(members=("bond0.20", "eth3")), dhcp=Dhcp.IPV4),
        Interface(name="bond0.20", vlan=Vlan(id=20, link="bond0"), mtu=1500),
        Interface(
            name="bond0",
            bond=Bond(mode=BondMode.LACP, members=("eth1", "eth2")),
            addresses=("10.1.0.7/16",),
            mtu=9000,
        ),
        Interface(name="v30", vlan=Vlan(id=30, link="eth0"), addresses=("2001:db8:30::7/64",)),
    ),
}
"""Nodes with networks of every kind."""
