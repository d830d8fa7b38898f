"""What the interfaces of one node must agree on: names, members, links, gateways. Pure."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from nodectl.catalog.inventory import Interface

_MTU_IPV6 = 1280  # RFC 8200, section 5


def interface_mistakes(interfaces: Sequence[Interface]) -> Iterator[str]:
    """Yield what is wrong, a line each: "interfaces[2].vlan.link: ..."."""
    by_name = {one.name: one for one in interfaces}
    places = {one.name: f"interfaces[{index}]" for index, one in enumerate(interfaces)}
    for index, one in enumerate(interfaces):
        place = f"interfaces[{index}]"
        if places[one.name] != place:
            yield f"{place}.name: {one.name} is there twice"
        yield from _alone(one, place)
        yield from _routed(one, place)
        yield from _stands_on(one, place, by_name)
    yield from _shared(interfaces, places)
    yield from _circles(by_name, places)


def _alone(one: Interface, place: str) -> Iterator[str]:
    """Yield what is wrong with an interface whatever the others are."""
    if sum(bool(kind) for kind in (one.bond, one.vlan, one.bridge is not None)) > 1:
        yield f"{place}: is at most one of bond, vlan and bridge"
    if one.bond and not one.bond.members:
        yield f"{place}.bond.members: a bond needs at least one"
    if one.mtu is not None and one.mtu < _MTU_IPV6 and _has_ipv6(one):
        yield f"{place}.mtu: IPv6 needs at least {_MTU_IPV6}"


def _routed(one: Interface, place: str) -> Iterator[str]:
    """Yield what is wrong with where an interface sends its packets."""
    if one.dhcp.value == "none" and not one.addresses:
        for field in ("gateway", "dns", "search", "routes"):
            if getattr(one, field):
                yield f"{place}.{field}: is nothing without addresses or dhcp"
    networks = [ipaddress.ip_interface(each).network for each in one.addresses]
    for field, via in _next_hops(one, place):
        address = ipaddress.ip_address(via)
        if not address.is_link_local and not any(address in network for network in networks):
            yield f"{field}: {via} is in no network of this interface"
    for index, route in enumerate(one.routes):
        if route.to != "default" and (
            ipaddress.ip_network(route.to).version != ipaddress.ip_address(route.via).version
        ):
            yield f"{place}.routes[{index}]: {route.to} and {route.via} are of two families"


def _has_ipv6(one: Interface) -> bool:
    return one.dhcp.six or any(ipaddress.ip_interface(each).version == 6 for each in one.addresses)  # noqa: PLR2004


def _next_hops(one: Interface, place: str) -> Iterator[tuple[str, str]]:
    for via in one.gateway:
        yield f"{place}.gateway", via
    # Where DHCP gives the addresses, their networks are not known here.
    if one.dhcp.value == "none":
        for index, route in enumerate(one.routes):
            yield f"{place}.routes[{index}].via", route.via


def _stands_on(one: Interface, place: str, by_name: Mapping[str, Interface]) -> Iterator[str]:
    """Yield what is wrong with what an interface stands on."""
    if one.vlan:
        link = by_name.get(one.vlan.link)
        if link is None:
            yield f"{place}.vlan.link: there is no interface {one.vlan.link}"
        elif link.mtu is not None and one.mtu is not None and one.mtu > link.mtu:
            yield f"{place}.mtu: {one.mtu} is more than the {link.mtu} of {link.name} below it"
    kind = "bond" if one.bond else "bridge"
    for name in one.members:
        member = by_name.get(name)
        if member is None:
            yield f"{place}.{kind}.members: there is no interface {name}"
        elif one.bond and not member.physical:
            yield f"{place}.bond.members: {name} is no network card"
        elif _configured(member):
            yield f"{place}.{kind}.members: {name} has addresses, DHCP, DNS or routes of its own"


def _configured(one: Interface) -> bool:
    own = one.addresses or one.gateway or one.dns or one.search or one.routes
    return bool(own) or one.dhcp.value != "none"


def _shared(interfaces: Sequence[Interface], places: Mapping[str, str]) -> Iterator[str]:
    """Yield what two interfaces both have and only one may."""
    seen: dict[str, str] = {}
    for one in interfaces:
        place = places[one.name]
        takes = [("mac", f"the MAC {one.mac}")] if one.mac else []
        takes += [("addresses", f"the address {each.partition('/')[0]}") for each in one.addresses]
        takes += [("members", f"the member {each}") for each in one.members]
        takes += [
            ("gateway", f"a gateway of IPv{ipaddress.ip_address(each).version}")
            for each in one.gateway
        ]
        if one.vlan:
            takes.append(("vlan", f"VLAN {one.vlan.id} on {one.vlan.link}"))
        for field, what in takes:
            other = seen.setdefault(what, one.name)
            if other != one.name or takes.count((field, what)) > 1:
                yield f"{place}.{field}: {other} has {what} already"


def _circles(by_name: Mapping[str, Interface], places: Mapping[str, str]) -> Iterator[str]:
    for name, one in by_name.items():
        below, seen = list(one.below), set[str]()
        while below and name not in seen:
            step = below.pop()
            if step not in seen:
                seen.add(step)
                below += by_name[step].below if step in by_name else ()
        if name in seen:
            yield f"{places[name]}: {name} stands on itself"
