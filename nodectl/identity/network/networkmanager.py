"""Keyfiles for NetworkManager: nm-settings-keyfile(5). Pure.

`master` and `slave-type` are what every version of it reads; newer ones call them controller and
port-type. A UUID is derived from realm, node and interface, so that it stays the same.
"""

from collections.abc import Iterator

from nodectl.catalog.inventory import Interface
from nodectl.identity.derived import derive_uuid
from nodectl.identity.model import WriteFile
from nodectl.identity.network.model import (
    HEADER,
    IPV4,
    IPV6,
    MII_MS,
    Network,
    destinations,
    family,
    is_used,
    of_family,
)
from nodectl.identity.rows import NETWORK

_FOLDER = "etc/NetworkManager/system-connections"
_MODE = 0o600  # NetworkManager ignores keyfiles that others may read


def render_networkmanager(network: Network) -> Iterator[WriteFile]:
    """Yield the files."""
    for one in network.interfaces:
        text = HEADER + "\n".join(_sections(network, one))
        path = f"{_FOLDER}/nodectl-{one.name}.nmconnection"
        yield WriteFile(path=path, data=text.encode(), item=NETWORK, mode=_MODE)


def _uuid(network: Network, name: str) -> str:
    return derive_uuid("network connection", network.realm_id, network.node, name)


def _sections(network: Network, one: Interface) -> Iterator[str]:
    kind = _kind(one)
    yield "[connection]"
    yield f"id=nodectl {one.name}"
    yield f"uuid={_uuid(network, one.name)}"
    yield f"type={kind}"
    if one.infiniband or not (one.physical and one.mac):
        yield f"interface-name={one.name}"
    yield "autoconnect-priority=100"
    master = network.master(one)
    if master:
        yield f"master={_uuid(network, master.name)}"
        yield f"slave-type={'bond' if master.bond else 'bridge'}"
    elif one.members:
        yield "autoconnect-slaves=1"
    yield ""
    yield from _device(network, one)
    if not master:
        for version in (IPV4, IPV6):
            yield from _addresses(one, version)


def _kind(one: Interface) -> str:
    if one.infiniband:
        return "infiniband"
    if one.physical:
        return "ethernet"
    return "bond" if one.bond else "vlan" if one.vlan else "bridge"


def _device(network: Network, one: Interface) -> Iterator[str]:
    if one.infiniband:
        yield from ("[infiniband]", "transport-mode=datagram")
        yield from ([f"mtu={one.mtu}", ""] if one.mtu else [""])
    elif one.physical or one.mtu:
        yield "[ethernet]"
        if one.physical and one.mac:
            yield f"mac-address={one.mac.upper()}"
        if one.mtu:
            yield f"mtu={one.mtu}"
        yield ""
    if one.bond:
        yield from ("[bond]", f"miimon={MII_MS}", f"mode={one.bond.mode}", "")
    if one.vlan:
        parent = _uuid(network, one.vlan.link)
        yield from ("[vlan]", "flags=1", f"id={one.vlan.id}", f"parent={parent}", "")
    if one.bridge is not None:
        yield from ("[bridge]", "stp=false", "")


def _addresses(one: Interface, version: int) -> Iterator[str]:
    yield f"[ipv{version}]"
    yield f"method={_method(one, version)}"
    if is_used(one, version):
        for number, address in enumerate(of_family(one.addresses, version), start=1):
            yield f"address{number}={address}"
        for gateway in of_family(one.gateway, version):
            yield f"gateway={gateway}"
        routes = [each for each in destinations(one) if family(each[1]) == version]
        for number, (to, via, metric) in enumerate(routes, start=1):
            yield f"route{number}={to},{via}" + ("" if metric is None else f",{metric}")
        dns = of_family(one.dns, version)
        if dns:
            yield f"dns={''.join(f'{each};' for each in dns)}"
        if one.search and version == (IPV4 if is_used(one, IPV4) else IPV6):
            yield f"dns-search={''.join(f'{each};' for each in one.search)}"
    yield ""


def _method(one: Interface, version: int) -> str:
    if one.dhcp.four if version == IPV4 else one.dhcp.six:
        return "auto"
    if of_family(one.addresses, version):
        return "manual"
    # An interface with IPv4 alone has its link-local address, as everywhere.
    return "link-local" if version == IPV6 and is_used(one, IPV4) else "disabled"
