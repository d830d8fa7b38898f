"""Files for systemd-networkd: systemd.network(5), systemd.netdev(5), systemd.link(5). Pure."""

from collections.abc import Iterator

from nodectl.catalog.inventory import Dhcp, Interface
from nodectl.identity.model import WriteFile
from nodectl.identity.network.model import HEADER, MII_MS, Network, destinations, is_bare
from nodectl.identity.rows import INTERFACE_NAMES, NETWORK

_FOLDER = "etc/systemd/network"
_DHCP = {Dhcp.NONE: "no", Dhcp.IPV4: "ipv4", Dhcp.IPV6: "ipv6", Dhcp.BOTH: "yes"}


def render_networkd(network: Network) -> Iterator[WriteFile]:
    """Yield the files."""
    for one in network.interfaces:
        if not one.physical:
            yield _file(one, "netdev", _netdev(one))
        yield _file(one, "network", _network(network, one))


def link_files(network: Network) -> Iterator[WriteFile]:
    """Yield what gives each network card of a known MAC its name; udev reads it for every renderer.

    No renderer but ifupdown needs the name: a card that cannot be renamed is found by its MAC.
    """
    for one in network.interfaces:
        if one.physical and one.mac:
            match = f"[Match]\nPermanentMACAddress={one.mac}\n"
            file = _file(one, "link", f"{match}\n[Link]\nNamePolicy=\nName={one.name}\n")
            yield WriteFile(path=file.path, data=file.data, item=INTERFACE_NAMES)


def _file(one: Interface, kind: str, text: str) -> WriteFile:
    path = f"{_FOLDER}/10-nodectl-{one.name}.{kind}"
    return WriteFile(path=path, data=(HEADER + text).encode(), item=NETWORK)


def _netdev(one: Interface) -> str:
    kind = "bond" if one.bond else "vlan" if one.vlan else "bridge"
    lines = ["[NetDev]", f"Name={one.name}", f"Kind={kind}"]
    if one.mtu:
        lines.append(f"MTUBytes={one.mtu}")
    if one.bond:
        lines += ["", "[Bond]", f"Mode={one.bond.mode}", f"MIIMonitorSec={MII_MS}ms"]
    elif one.vlan:
        lines += ["", "[VLAN]", f"Id={one.vlan.id}"]
    else:
        lines += ["", "[Bridge]", "STP=no"]
    return "\n".join(lines) + "\n"


def _network(network: Network, one: Interface) -> str:
    by_mac = one.physical and one.mac
    lines = ["[Match]", f"PermanentMACAddress={one.mac}" if by_mac else f"Name={one.name}"]
    lines += ["", "[Link]"] if one.mtu or is_bare(one) else []
    if one.mtu:
        lines.append(f"MTUBytes={one.mtu}")
    if is_bare(one):
        lines.append("RequiredForOnline=no")  # it never gets an address to wait for
    lines += ["", "[Network]"]
    master = network.master(one)
    if master:
        lines.append(f"{'Bond' if master.bond else 'Bridge'}={master.name}")
    lines += [f"VLAN={vlan.name}" for vlan in network.vlans(one)]
    if is_bare(one):
        lines += ["LinkLocalAddressing=no"]
    lines += [f"DHCP={_DHCP[one.dhcp]}", f"IPv6AcceptRA={'yes' if one.dhcp.six else 'no'}"]
    lines += [f"Address={each}" for each in one.addresses]
    lines += [f"Gateway={each}" for each in one.gateway]
    lines += [f"DNS={each}" for each in one.dns]
    if one.search:
        lines.append(f"Domains={' '.join(one.search)}")
    for to, via, metric in destinations(one):
        lines += ["", "[Route]", f"Destination={to}", f"Gateway={via}"]
        lines += [f"Metric={metric}"] if metric is not None else []
    return "\n".join(lines) + "\n"
