"""/etc/network/interfaces for ifupdown: interfaces(5), and the options of Debian's packages. Pure.

Bonds need the package ifenslave, bridges bridge-utils. Interfaces are known by name here: the name
comes from the .link file with the MAC.
"""

from collections.abc import Iterator

from nodectl.catalog.inventory import Interface
from nodectl.identity.model import WriteFile
from nodectl.identity.network.model import (
    HEADER,
    IPV4,
    IPV6,
    MII_MS,
    Network,
    destinations,
    family,
    of_family,
)
from nodectl.identity.rows import NETWORK

_PATH = "etc/network/interfaces"


def render_ifupdown(network: Network) -> Iterator[WriteFile]:
    """Yield the file."""
    stanzas = ["auto lo\niface lo inet loopback"]
    for one in network.ordered():
        # ifenslave and bridge-utils bring the network cards of theirs up themselves.
        by_master = one.physical and network.master(one)
        begin = f"iface {one.name}" if by_master else f"auto {one.name}\niface {one.name}"
        stanzas.append("\n".join(_stanzas(begin, one)))
    text = HEADER + "\n\n".join(stanzas) + "\n"
    yield WriteFile(path=_PATH, data=text.encode(), item=NETWORK)


def _stanzas(begin: str, one: Interface) -> Iterator[str]:
    """Yield the stanzas of an interface: one for each way in which it gets addresses."""
    ways = list(_ways(one)) or [(IPV4, "manual", "")]
    for number, (version, method, address) in enumerate(ways):
        head = begin if number == 0 else f"iface {one.name}"
        yield f"{head} inet{'' if version == IPV4 else '6'} {method}"
        if address:
            yield f"    address {address}"
        if version == IPV6 and method == "static":
            yield "    accept_ra 0"
        if number == 0:
            yield from (f"    {line}" for line in _device(one))
        if version not in {way[0] for way in ways[:number]}:
            yield from (f"    {line}" for line in _family_lines(one, version))


def _ways(one: Interface) -> Iterator[tuple[int, str, str]]:
    for version, asks in ((IPV4, one.dhcp.four), (IPV6, one.dhcp.six)):
        addresses = of_family(one.addresses, version)
        if asks:
            yield version, "dhcp", ""
        yield from ((version, "static", address) for address in addresses)


def _device(one: Interface) -> Iterator[str]:
    if one.mtu:
        yield f"mtu {one.mtu}"
    if one.bond:
        yield f"bond-slaves {' '.join(one.members)}"
        yield f"bond-mode {one.bond.mode}"
        yield f"bond-miimon {MII_MS}"
    if one.vlan:
        yield f"vlan-raw-device {one.vlan.link}"
        yield f"vlan-id {one.vlan.id}"
    if one.bridge is not None:
        yield f"bridge_ports {' '.join(one.members) or 'none'}"
        yield "bridge_stp off"
        yield "bridge_fd 0"
    if one.dns:
        yield f"dns-nameservers {' '.join(one.dns)}"
    if one.search:
        yield f"dns-search {' '.join(one.search)}"


def _family_lines(one: Interface, version: int) -> Iterator[str]:
    for gateway in of_family(one.gateway, version):
        yield f"gateway {gateway}"
    flag = "" if version == IPV4 else "-6 "
    for to, via, metric in destinations(one):
        if family(via) == version:
            more = "" if metric is None else f" metric {metric}"
            yield f"up ip {flag}route add {to} via {via} dev {one.name}{more}"
