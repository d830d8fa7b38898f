"""The inventory: what an operator says of a node, before it joined and ever after.

One document for each node under `inventory/NAME`: where it stands, how it is reached, what network
it has, and free attributes. Here is what it is and its JSON; `inventory_text.py` reads what people
write and names every mistake, `identity/` makes files of it. Whether the machine is a member of the
realm is another document (`records.NodeRecord`), which no inventory changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

PREFIX = "inventory/"
DEFAULT_ROUTE = "default"


class BondMode(StrEnum):
    """How the members of a bond share the work; Linux's names (bonding.rst)."""

    BALANCE_RR = "balance-rr"
    ACTIVE_BACKUP = "active-backup"
    BALANCE_XOR = "balance-xor"
    BROADCAST = "broadcast"
    LACP = "802.3ad"
    BALANCE_TLB = "balance-tlb"
    BALANCE_ALB = "balance-alb"


class Dhcp(StrEnum):
    """For which families an interface asks a DHCP server."""

    NONE = "none"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    BOTH = "both"

    @property
    def four(self) -> bool:
        """Say whether IPv4 is asked for."""
        return self in {Dhcp.IPV4, Dhcp.BOTH}

    @property
    def six(self) -> bool:
        """Say whether IPv6 is asked for."""
        return self in {Dhcp.IPV6, Dhcp.BOTH}


class Renderer(StrEnum):
    """The programs for which a network configuration can be written."""

    NETPLAN = "netplan"
    NETWORKMANAGER = "NetworkManager"
    NETWORKD = "networkd"
    IFUPDOWN = "ifupdown"


RENDERER_ATTRIBUTE = "network-renderer"
"""The attribute that says for which one; without it, what the image has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """Several network cards as one."""

    mode: BondMode
    members: tuple[str, ...]  # names of interfaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlan:
    """A tagged network on another interface."""

    id: int  # 1 to 4094
    link: str  # name of the interface below


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """A switch in software."""

    members: tuple[str, ...]  # names of interfaces; may be empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route besides the one of the gateway."""

    to: str  # a network such as "10.2.0.0/16", or DEFAULT_ROUTE
    via: str  # an address
    metric: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface; at most one of `bond`, `vlan` and `bridge` is set."""

    name: str
    mac: str = ""  # lower case; of a network card: how it is found
    addresses: tuple[str, ...] = ()  # with prefix length: "10.0.0.7/24", "2001:db8::7/64"
    gateway: tuple[str, ...] = ()  # at most one for each family
    mtu: int | None = None  # bytes
    dhcp: Dhcp = Dhcp.NONE
    dns: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    bond: Bond | None = None
    vlan: Vlan | None = None
    bridge: Bridge | None = None

    @property
    def members(self) -> tuple[str, ...]:
        """Return the interfaces that belong to this one."""
        return (self.bond or self.bridge or _NO_MEMBERS).members

    @property
    def below(self) -> tuple[str, ...]:
        """Return the interfaces that this one stands on."""
        return (*self.members, self.vlan.link) if self.vlan else self.members

    @property
    def physical(self) -> bool:
        """Say whether it is a network card."""
        return not (self.bond or self.vlan or self.bridge is not None)

    @property
    def infiniband(self) -> bool:
        """Say whether it is IP over InfiniBand, as its name says: ib0, ibp5s0."""
        return self.physical and self.name.startswith("ib")


_NO_MEMBERS = Bridge(members=())


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInventory:
    """What is said of one node."""

    name: str
    rack: str = ""
    groups: tuple[str, ...] = ()
    macs: tuple[str, ...] = ()  # besides those of the interfaces; lower case
    interfaces: tuple[Interface, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    bmc: str = ""  # address or host name of its management controller
    image: str = ""  # what it is meant to run
    layout: str = ""

    def all_macs(self) -> Iterator[str]:
        """Yield every hardware address by which the machine may be known."""
        yield from self.macs
        yield from (one.mac for one in self.interfaces if one.mac)

    def all_addresses(self) -> Iterator[str]:
        """Yield every address without its prefix length, in the order of the interfaces."""
        for interface in self.interfaces:
            yield from (address.partition("/")[0] for address in interface.addresses)

    def to_json(self) -> dict[str, Any]:
        """Return the document: empty fields are left out, but for the name."""
        document = _plain(asdict(self))
        return {"name": self.name, **document}


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON has many types
    """Return JSON of the value of a dataclass, without what is empty."""
    if isinstance(value, Mapping):
        inner = {key: _plain(each) for key, each in value.items() if each not in _EMPTY}
        if value.get("bridge") is not None:
            inner["bridge"] = {"members": list(value["bridge"]["members"])}
        return inner
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value.value if isinstance(value, StrEnum) else value


_EMPTY: tuple[Any, ...] = ("", None, (), [], {}, Dhcp.NONE)


def inventory_key(name: str) -> str:
    """Return the key of a node's inventory."""
    return PREFIX + name
