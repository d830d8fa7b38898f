"""What every renderer of a network configuration shares: who stands on whom, and the order. Pure.

All renderers say the same: router advertisements are taken where DHCP for IPv6 is asked for and
nowhere else, bridges speak no spanning tree, bonds look at their links every 100 ms, and network
cards are found by their MAC where the inventory has one.
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nodectl.catalog.inventory import DEFAULT_ROUTE, Interface

MII_MS = 100
IPV4, IPV6 = 4, 6
HEADER = "# Written by nodectl from the inventory; changes are lost at the next deployment.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The interfaces of one node."""

    realm_id: str
    node: str
    interfaces: tuple[Interface, ...]

    def master(self, one: Interface) -> Interface | None:
        """Return the bond or bridge that an interface belongs to."""
        return next((other for other in self.interfaces if one.name in other.members), None)

    def vlans(self, one: Interface) -> tuple[Interface, ...]:
        """Return the VLANs on an interface."""
        return tuple(
            other for other in self.interfaces if other.vlan and other.vlan.link == one.name
        )

    def ordered(self) -> tuple[Interface, ...]:
        """Return the interfaces, each after all that it stands on."""
        by_name: Mapping[str, Interface] = {one.name: one for one in self.interfaces}
        done: dict[str, Interface] = {}

        def add(one: Interface) -> None:
            for name in one.below:
                if name not in done:
                    add(by_name[name])
            done.setdefault(one.name, one)

        for one in self.interfaces:
            add(one)
        return tuple(done.values())


def family(text: str) -> int:
    """Return 4 or 6 for an address or network, with or without a prefix length."""
    return ipaddress.ip_interface(text).version


def of_family(texts: Sequence[str], version: int) -> tuple[str, ...]:
    """Return the addresses of one family."""
    return tuple(text for text in texts if family(text) == version)


def is_used(one: Interface, version: int) -> bool:
    """Say whether an interface has anything of a family."""
    asks = one.dhcp.four if version == IPV4 else one.dhcp.six
    return asks or bool(of_family(one.addresses, version))


def is_bare(one: Interface) -> bool:
    """Say whether an interface has no addresses and gets none."""
    return not (is_used(one, IPV4) or is_used(one, IPV6))


def destinations(one: Interface) -> Iterator[tuple[str, str, int | None]]:
    """Yield (network, via, metric) of every route but those of the gateways."""
    for route in one.routes:
        default = "0.0.0.0/0" if family(route.via) == IPV4 else "::/0"
        yield (default if route.to == DEFAULT_ROUTE else route.to), route.via, route.metric
