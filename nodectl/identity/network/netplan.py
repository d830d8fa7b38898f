"""A file for netplan: https://netplan.readthedocs.io/en/stable/netplan-yaml/. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nodectl.catalog.inventory import Interface
from nodectl.identity.model import WriteFile
from nodectl.identity.network.model import (
    HEADER,
    IPV4,
    MII_MS,
    Network,
    destinations,
    family,
    is_bare,
)
from nodectl.identity.rows import NETWORK

_PATH = "etc/netplan/90-nodectl.yaml"
# Keys of ours need no quotes; a name such as "no" or "1e3" does.
_PLAIN = frozenset({
    "accept-ra", "addresses", "bonds", "bridges", "dhcp4", "dhcp6", "ethernets", "id", "interfaces",
    "link", "link-local", "macaddress", "match", "mii-monitor-interval", "mode", "mtu",
    "nameservers", "network", "optional", "parameters", "renderer", "routes", "search", "set-name",
    "stp", "version", "vlans",
})  # fmt: skip
_MODE = 0o600  # netplan complains of files that others may read


def render_netplan(network: Network, *, backend: str) -> Iterator[WriteFile]:
    """Yield the file; `backend` is networkd or NetworkManager."""
    groups: dict[str, Any] = {"version": 2, "renderer": backend}
    for one in network.interfaces:
        kind = "bonds" if one.bond else "vlans" if one.vlan else "bridges"
        kind = "ethernets" if one.physical else kind
        groups.setdefault(kind, {})[one.name] = _interface(one)
    text = HEADER + "\n".join(_yaml({"network": groups})) + "\n"
    yield WriteFile(path=_PATH, data=text.encode(), item=NETWORK, mode=_MODE)


def _interface(one: Interface) -> dict[str, Any]:
    fields = _device(one)
    if one.mtu:
        fields["mtu"] = one.mtu
    fields |= {"dhcp4": one.dhcp.four, "dhcp6": one.dhcp.six, "accept-ra": one.dhcp.six}
    if is_bare(one):
        fields |= {"optional": True, "link-local": []}  # no address to wait for
    if one.addresses:
        fields["addresses"] = list(one.addresses)
    routes = [_route(*each) for each in _routes(one)]
    if routes:
        fields["routes"] = routes
    named = {"addresses": list(one.dns), "search": list(one.search)}
    if one.dns or one.search:
        fields["nameservers"] = {key: value for key, value in named.items() if value}
    return fields


def _device(one: Interface) -> dict[str, Any]:
    if one.bond:
        parameters = {"mode": one.bond.mode.value, "mii-monitor-interval": MII_MS}
        return {"interfaces": list(one.members), "parameters": parameters}
    if one.vlan:
        return {"id": one.vlan.id, "link": one.vlan.link}
    if one.bridge is not None:
        return {"interfaces": list(one.members), "parameters": {"stp": False}}
    return {"match": {"macaddress": one.mac}, "set-name": one.name} if one.mac else {}


def _routes(one: Interface) -> Iterator[tuple[str, str, int | None]]:
    for gateway in one.gateway:
        # "default" is understood from version 0.103 on; this by all.
        yield ("0.0.0.0/0" if family(gateway) == IPV4 else "::/0"), gateway, None
    yield from destinations(one)


def _route(to: str, via: str, metric: int | None) -> dict[str, Any]:
    return {"to": to, "via": via, **({} if metric is None else {"metric": metric})}


def _yaml(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yield YAML in block style; a text is quoted as in JSON, which YAML reads alike."""
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield f"{indent}{_key(key)}:"
            yield from _yaml(inner, f"{indent}  ")
        elif isinstance(inner, Sequence) and any(isinstance(each, Mapping) for each in inner):
            yield f"{indent}{_key(key)}:"
            yield from (f"{indent}- {json.dumps(each)}" for each in inner)
        else:
            yield f"{indent}{_key(key)}: {json.dumps(inner)}"


def _key(key: str) -> str:
    return key if key in _PLAIN else json.dumps(key)
