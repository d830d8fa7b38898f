"""The inventory as people and programs write it: TOML or JSON, one document for each node.

    rack = "r1"
    groups = ["compute", "gpu"]
    bmc = "10.9.0.7"

    [attributes]
    cores = "64"

    [[interfaces]]
    name = "eth0"
    mac = "52:54:00:12:34:56"
    addresses = ["10.0.0.7/24"]
    gateway = "10.0.0.1"
    dns = ["10.0.0.2"]

    [[interfaces]]
    name = "bond0"
    bond = { mode = "802.3ad", members = ["eth1", "eth2"] }

A single text stands for a list of one. What each field means is said in `inventory.py`; every
mistake is reported at once, with its field ("interfaces[1].vlan.id"). Unknown keys are mistakes.
"""

import ipaddress
import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from nodectl.catalog.inventory import (
    DEFAULT_ROUTE,
    RENDERER_ATTRIBUTE,
    Bond,
    BondMode,
    Bridge,
    Dhcp,
    Interface,
    NodeInventory,
    Renderer,
    Route,
    Vlan,
)
from nodectl.catalog.inventory_rules import interface_mistakes
from nodectl.errors import InvalidInput, InventoryInvalid
from nodectl.ids import checked_name
from nodectl.trust.token import checked_mac

T = TypeVar("T")

TEXT_MAX = 4096  # characters of an attribute
LIST_MAX = 256  # of anything
_ATTRIBUTE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")
_INTERFACE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")  # 15 bytes: IFNAMSIZ less one
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.?")
_HOST_MAX = 253
_MTU_LEAST, _MTU_MOST = 68, 65535
_VLAN_MOST = 4094
_METRIC_MOST = (1 << 32) - 1


def parse_document(text: str, *, source: str) -> dict[str, Any]:
    """Return the table that a text describes: JSON if `source` ends with .json, else TOML.

    Raises:
        InventoryInvalid: it is no such text, or holds no table.
    """
    is_json = source.endswith(".json")
    try:
        document = json.loads(text) if is_json else tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        kind = "JSON" if is_json else "TOML"
        raise InventoryInvalid(f"{source} is not valid {kind}: {exc}") from exc
    if not isinstance(document, dict):
        raise InventoryInvalid(f"{source} holds no table of keys and values")
    return document


def read_inventory(document: object, *, name: str, source: str) -> NodeInventory:
    """Return the inventory that a parsed document describes, of the node `name`.

    Raises:
        InventoryInvalid: with every mistake, each with its field.
    """
    reader = _Reader()
    found = reader.node(document, name)
    mistakes = reader.mistakes or [*interface_mistakes(found.interfaces)]
    if mistakes:
        plural = "s" if len(mistakes) > 1 else ""
        lines = "".join(f"\n  {line}" for line in mistakes)
        raise InventoryInvalid(
            f"{source} has {len(mistakes)} mistake{plural}:{lines}", hint="correct the fields named"
        )
    return found


class _Reader:
    """Turns a parsed document into an inventory and gathers what is wrong on the way."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []

    def _wrong(self, place: str, text: str) -> None:
        self.mistakes.append(f"{place}: {text}")

    def node(self, document: object, name: str) -> NodeInventory:
        table = self._table(document, "the document", NodeInventory)
        if table.get("name", name) != name:
            self._wrong("name", f"is {table['name']!r}, and the node is {name!r}")
        groups = self._texts(table, "groups", checked_name)
        return NodeInventory(
            name=self._checked("name", name, checked_name, ""),
            rack=self._name(table, "rack"),
            groups=tuple(sorted(set(groups))),
            macs=tuple(dict.fromkeys(self._texts(table, "macs", checked_mac))),
            interfaces=tuple(
                self._interface(each, f"interfaces[{index}]")
                for index, each in enumerate(self._list(table, "interfaces"))
            ),
            attributes=self._attributes(table.get("attributes", {})),
            bmc=self._checked("bmc", table.get("bmc", ""), _host, "", optional=True),
            image=self._name(table, "image"),
            layout=self._name(table, "layout"),
        )

    def _interface(self, document: object, place: str) -> Interface:
        table = self._table(document, place, Interface)
        at = f"{place}."
        mac, mtu = table.get("mac", ""), table.get("mtu")
        return Interface(
            name=self._checked(f"{at}name", table.get("name", ""), _interface_name, ""),
            mac=self._checked(f"{at}mac", mac, checked_mac, "", optional=True),
            addresses=self._texts(table, "addresses", _address, at),
            gateway=self._texts(table, "gateway", _ip, at),
            mtu=self._number(f"{at}mtu", mtu, _MTU_LEAST, _MTU_MOST) if mtu is not None else None,
            dhcp=self._checked(f"{at}dhcp", table.get("dhcp", "none"), _dhcp, Dhcp.NONE),
            dns=self._texts(table, "dns", _ip, at),
            search=self._texts(table, "search", _host, at),
            routes=tuple(
                self._route(each, f"{at}routes[{index}]")
                for index, each in enumerate(self._list(table, "routes", at))
            ),
            bond=self._bond(table["bond"], f"{at}bond") if table.get("bond") else None,
            vlan=self._vlan(table["vlan"], f"{at}vlan") if table.get("vlan") else None,
            # A bridge may have no members at all: an empty table is one.
            bridge=self._bridge(table["bridge"], f"{at}bridge")
            if table.get("bridge") is not None
            else None,
        )

    def _route(self, document: object, place: str) -> Route:
        table = self._table(document, place, Route)
        metric = table.get("metric")
        return Route(
            to=self._checked(f"{place}.to", table.get("to", ""), _destination, ""),
            via=self._checked(f"{place}.via", table.get("via", ""), _ip, ""),
            metric=self._number(f"{place}.metric", metric, 0, _METRIC_MOST)
            if metric is not None
            else None,
        )

    def _bond(self, document: object, place: str) -> Bond:
        table = self._table(document, place, Bond)
        return Bond(
            mode=self._checked(f"{place}.mode", table.get("mode", ""), _mode, BondMode.LACP),
            members=self._texts(table, "members", _interface_name, f"{place}."),
        )

    def _vlan(self, document: object, place: str) -> Vlan:
        table = self._table(document, place, Vlan)
        return Vlan(
            id=self._number(f"{place}.id", table.get("id"), 1, _VLAN_MOST),
            link=self._checked(f"{place}.link", table.get("link", ""), _interface_name, ""),
        )

    def _bridge(self, document: object, place: str) -> Bridge:
        table = self._table(document, place, Bridge)
        return Bridge(members=self._texts(table, "members", _interface_name, f"{place}."))

    # --- single fields -----------------------------------------------------------------------

    def _table(self, document: object, place: str, shape: Any) -> Mapping[str, Any]:  # noqa: ANN401 - a dataclass
        if not isinstance(document, Mapping):
            self._wrong(place, "is no table of keys and values")
            return {}
        known = tuple(shape.__dataclass_fields__)
        at = "" if place == "the document" else f"{place}."
        for key in document:
            if key not in known:
                self._wrong(f"{at}{key}", f"unknown key (known: {', '.join(known)})")
        return document

    def _list(self, table: Mapping[str, Any], key: str, at: str = "") -> list[Any]:
        value = table.get(key, [])
        if isinstance(value, str):
            value = [value] if value else []
        if not isinstance(value, list) or len(value) > LIST_MAX:
            self._wrong(f"{at}{key}", f"is no list of at most {LIST_MAX}")
            return []
        return value

    def _texts(
        self, table: Mapping[str, Any], key: str, check: Callable[[str], str], at: str = ""
    ) -> tuple[str, ...]:
        values = self._list(table, key, at)
        checked = (self._checked(f"{at}{key}", each, check, "") for each in values)
        return tuple(each for each in checked if each)

    def _checked(
        self,
        place: str,
        value: object,
        check: Callable[[str], T],
        bad: T,
        *,
        optional: bool = False,
    ) -> T:
        """Return what `check` makes of a text, or `bad` after noting what is wrong."""
        if optional and not value:
            return bad
        if isinstance(value, bool) and check is _dhcp:
            value = "both" if value else "none"
        if not isinstance(value, str):
            self._wrong(place, f"is no text: {value!r:.60}")
            return bad
        if not value:
            self._wrong(place, "is needed")
            return bad
        try:
            return check(value)
        except (ValueError, InvalidInput) as exc:
            self._wrong(place, str(exc))
            return bad

    def _name(self, table: Mapping[str, Any], key: str) -> str:
        return self._checked(key, table.get(key, ""), checked_name, "", optional=True)

    def _number(self, place: str, value: object, least: int, most: int) -> int:
        if type(value) is not int or not least <= value <= most:
            self._wrong(place, f"is no whole number from {least} to {most}: {value!r:.60}")
            return least
        return value

    def _attributes(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping) or len(value) > LIST_MAX:
            self._wrong("attributes", f"is no table of at most {LIST_MAX} keys and values")
            return {}
        for key, text in value.items():
            if not _ATTRIBUTE.fullmatch(key):
                self._wrong("attributes", f"{key!r:.80} is no name of letters, digits, _ . -")
            elif not (isinstance(text, str) and len(text) <= TEXT_MAX and text.isprintable()):
                self._wrong(
                    f"attributes.{key}",
                    f"is no text of at most {TEXT_MAX} printable characters on one line",
                )
        renderer = value.get(RENDERER_ATTRIBUTE, Renderer.NETWORKD)
        if renderer not in tuple(Renderer):
            choices = ", ".join(Renderer)
            self._wrong(f"attributes.{RENDERER_ATTRIBUTE}", f"must be one of {choices}")
        return {str(key): str(value[key]) for key in sorted(value)}


def _one_of(choices: Collection[str], value: str) -> str:
    if value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, is {value!r:.60}")
    return value


def _mode(value: str) -> BondMode:
    return BondMode(_one_of([mode.value for mode in BondMode], value))


def _dhcp(value: str) -> Dhcp:
    return Dhcp(_one_of([each.value for each in Dhcp], value))


def _interface_name(value: str) -> str:
    if not _INTERFACE_NAME.fullmatch(value) or value == "lo":
        raise ValueError(
            f"{value!r:.60} is no name of an interface (1 to 15 letters, digits, _ . -)"
        )
    return value


def _host(value: str) -> str:
    with_colon = ":" in value
    if with_colon:
        return _ip(value)
    if len(value) > _HOST_MAX or not _HOST.fullmatch(value):
        raise ValueError(f"{value!r:.80} is no host name or address")
    return value.lower()


def _ip(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f"{value!r:.60} is no IP address") from None


def _address(value: str) -> str:
    """Return an address with its prefix length."""
    try:
        found = ipaddress.ip_interface(value)
    except ValueError:
        raise ValueError(f"{value!r:.60} is no IP address with a prefix length") from None
    if "/" not in value:
        raise ValueError(f"{value} has no prefix length: write {value}/24, or what the network has")
    network = found.network
    inner = network.prefixlen < network.max_prefixlen - 1
    if inner and found.ip == network.network_address:
        raise ValueError(f"{value} is the network itself, not an address in it")
    if inner and found.version == 4 and found.ip == network.broadcast_address:  # noqa: PLR2004
        raise ValueError(f"{value} is the broadcast address of its network")
    return found.with_prefixlen


def _destination(value: str) -> str:
    if value == DEFAULT_ROUTE:
        return value
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as exc:
        raise ValueError(f"is no network such as 10.2.0.0/16, nor {DEFAULT_ROUTE}: {exc}") from None
