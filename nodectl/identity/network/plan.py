"""Which network configuration a tree gets, and what of the image's goes. Pure.

Without interfaces in the inventory nothing is written: what the image has stays. With them, what
the image has of any kind is removed, and one kind is written: the one asked for, else the one that
is enabled in the tree, else one that is installed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nodectl.catalog.inventory import RENDERER_ATTRIBUTE, Renderer
from nodectl.identity.model import (
    FileAction,
    MakeLink,
    NodeFacts,
    RemoveFile,
    TreeFacts,
    WriteFile,
)
from nodectl.identity.network.ifupdown import render_ifupdown
from nodectl.identity.network.model import HEADER, Network
from nodectl.identity.network.netplan import render_netplan
from nodectl.identity.network.networkd import link_files, render_networkd
from nodectl.identity.network.networkmanager import render_networkmanager
from nodectl.identity.rows import INTERFACE_NAMES, NETWORK

_MAC = re.compile(r"\b(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}\b")
_UNITS = ("usr/lib/systemd/system", "lib/systemd/system")
_WANTS = "etc/systemd/system/multi-user.target.wants"
_RESOLVERS_MOST = 3  # resolv.conf(5): MAXNS


# How each is recognised: a program, and the unit that is enabled.
PROGRAMS = {
    "netplan": ("usr/sbin/netplan", "usr/libexec/netplan/generate"),
    "NetworkManager": ("usr/sbin/NetworkManager", "usr/bin/NetworkManager"),
    "networkd": ("usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"),
    "ifupdown": ("usr/sbin/ifup", "sbin/ifup"),
    "ifenslave": ("etc/network/if-pre-up.d/ifenslave",),
    "bridge-utils": ("etc/network/if-pre-up.d/bridge", "usr/sbin/brctl", "sbin/brctl"),
    "resolvconf": ("usr/sbin/resolvconf", "sbin/resolvconf"),
    "cloud-init": ("usr/bin/cloud-init",),
}
UNITS = {
    "NetworkManager": "NetworkManager.service",
    "networkd": "systemd-networkd.service",
    "ifupdown": "networking.service",
    "resolved": "systemd-resolved.service",
}
CONFIGURATION = (
    "etc/NetworkManager/system-connections/*",
    "etc/sysconfig/network-scripts/ifcfg-*",
    "etc/sysconfig/network-scripts/route-*",
    "etc/sysconfig/network-scripts/route6-*",
    "etc/sysconfig/network-scripts/rule-*",
    "etc/sysconfig/network/ifcfg-*",
    "etc/sysconfig/network/ifroute-*",
    "etc/systemd/network/*.network",
    "etc/systemd/network/*.netdev",
    "etc/netplan/*.yaml",
    "etc/network/interfaces",
    "etc/network/interfaces.d/*",
)
NAMING = ("etc/systemd/network/*.link", "etc/udev/rules.d/7*-persistent-net*.rules")
_LOOPBACK = "/ifcfg-lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """What is done, and what a person should know."""

    actions: tuple[FileAction, ...] = ()
    notes: tuple[str, ...] = ()


def plan_network(tree: TreeFacts, node: NodeFacts) -> NetworkPlan:
    """Return what makes the network of a tree the node's."""
    interfaces = node.inventory.interfaces if node.inventory else ()
    if not interfaces:
        return NetworkPlan(notes=tuple(_bound_elsewhere(tree)))
    network = Network(realm_id=node.realm_id, node=node.name, interfaces=interfaces)
    renderer = choose_renderer(tree, node)
    if renderer is None:
        note = (
            "the image has neither NetworkManager, systemd-networkd, ifupdown nor netplan: the "
            "interfaces of the inventory were not written"
        )
        return NetworkPlan(notes=(note,))
    written: list[FileAction] = [*link_files(network), *_rendered(renderer, network, tree)]
    written += _resolver(renderer, network, tree)
    written += _enabled(renderer, tree)
    if "cloud-init" in tree.programs:
        data = f"{HEADER}network: {{config: disabled}}\n".encode()
        path = "etc/cloud/cloud.cfg.d/99-nodectl-network.cfg"
        written.append(WriteFile(path=path, data=data, item=NETWORK))
    paths = {action.path for action in written}
    removed = [action for action in _removed(tree) if action.path not in paths]
    return NetworkPlan(actions=(*written, *removed), notes=tuple(_missing(renderer, network, tree)))


def choose_renderer(tree: TreeFacts, node: NodeFacts) -> Renderer | None:
    """Return for which program the configuration is written; None: the tree has none."""
    attributes = node.inventory.attributes if node.inventory else {}
    asked = attributes.get(RENDERER_ATTRIBUTE)
    if asked:
        return Renderer(asked)
    if Renderer.NETPLAN in tree.programs:
        return Renderer.NETPLAN
    order = (Renderer.NETWORKMANAGER, Renderer.NETWORKD, Renderer.IFUPDOWN)
    enabled = [each for each in order if each in tree.enabled and each in tree.programs]
    # networkd comes with systemd itself: where another is installed, that one is meant.
    installed = [each for each in (order[0], order[2], order[1]) if each in tree.programs]
    return next(iter(enabled or installed), None)


def _rendered(renderer: Renderer, network: Network, tree: TreeFacts) -> Iterator[WriteFile]:
    match renderer:
        case Renderer.NETPLAN:
            by_manager = "NetworkManager" in tree.enabled and "networkd" not in tree.enabled
            backend = "NetworkManager" if by_manager else "networkd"
            return render_netplan(network, backend=backend)
        case Renderer.NETWORKMANAGER:
            return render_networkmanager(network)
        case Renderer.NETWORKD:
            return render_networkd(network)
        case Renderer.IFUPDOWN:
            return render_ifupdown(network)


def _resolver(renderer: Renderer, network: Network, tree: TreeFacts) -> Iterator[WriteFile]:
    """Yield resolv.conf where nobody else in the tree would write the servers there."""
    servers = dict.fromkeys(each for one in network.interfaces for each in one.dns)
    search = dict.fromkeys(each for one in network.interfaces for each in one.search)
    told = "resolved" in tree.enabled or renderer is Renderer.NETWORKMANAGER
    told = told or (renderer is Renderer.IFUPDOWN and "resolvconf" in tree.programs)
    if told or not servers:
        return
    lines = [f"search {' '.join(search)}"] if search else []
    lines += [f"nameserver {each}" for each in list(servers)[:_RESOLVERS_MOST]]
    data = (HEADER + "\n".join(lines) + "\n").encode()
    yield WriteFile(path="etc/resolv.conf", data=data, item=NETWORK)


def _enabled(renderer: Renderer, tree: TreeFacts) -> Iterator[FileAction]:
    """Yield the link that starts networkd, which systemd brings along and nobody enabled."""
    if renderer is not Renderer.NETWORKD or "networkd" in tree.enabled:
        return
    unit = UNITS["networkd"]
    folder = next((each for each in _UNITS if f"{each}/{unit}" in tree.files), _UNITS[0])
    yield MakeLink(path=f"{_WANTS}/{unit}", target=f"/{folder}/{unit}", item=NETWORK)


def _removed(tree: TreeFacts) -> Iterator[RemoveFile]:
    for path in sorted(tree.configuration):
        if not path.endswith(_LOOPBACK):
            yield RemoveFile(path=path, item=NETWORK)
    for path in sorted(tree.naming):
        if _MAC.search(tree.texts.get(path, "")):
            yield RemoveFile(path=path, item=INTERFACE_NAMES)


def _bound_elsewhere(tree: TreeFacts) -> Iterator[str]:
    for path in sorted(tree.configuration | tree.naming):
        found = _MAC.search(tree.texts.get(path, ""))
        if found:
            yield (
                f"/{path} of the image is for the network card {found[0]}, and the inventory has "
                "no interfaces for this node"
            )


def _missing(renderer: Renderer, network: Network, tree: TreeFacts) -> Iterator[str]:
    if renderer not in tree.programs:
        yield f"the image has no {renderer}, for which the network configuration was written"
    if renderer is Renderer.IFUPDOWN:
        for kind, package in (("bond", "ifenslave"), ("bridge", "bridge-utils")):
            used = any(getattr(one, kind) for one in network.interfaces)
            if used and package not in tree.programs:
                yield f"the image has no {package}, without which ifupdown makes no {kind}"
