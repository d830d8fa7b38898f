"""What the kernel's command line tells an installer; pure.

    nodectl.name=NAME        the node that this machine becomes
    nodectl.ticket=TOKEN     its boot ticket: a join token for this name, once
    BOOTIF=01-52-54-00-...   the network card that it booted from, as boot loaders say it
    ip=...                   as dracut(7) has it: dhcp, CARD:dhcp, or
                             ADDRESS::GATEWAY:MASK-OR-PREFIX::CARD:none
    bond=NAME:CARD,CARD:mode=active-backup   and vlan=NAME:CARD
    nameserver=ADDRESS

What other programs put there is not our business and is passed over.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodectl.errors import InvalidInput
from nodectl.ids import checked_name
from nodectl.trust.token import checked_mac

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,14}")  # of a card: 15 characters, netdevice(7)
_VLAN = re.compile(r"(?:.*\.|vlan)(\d{1,4})")
_VLAN_MAX = 4094
_STATIC_PARTS = 7
_ETHERNET = "01"  # the hardware type before the address in BOOTIF


@dataclass(frozen=True, slots=True, kw_only=True)
class Bond:
    """Several cards as one."""

    name: str
    members: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Vlan:
    """A tagged network on a card."""

    name: str
    link: str
    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """An address that is not asked for."""

    address: str  # with prefix length
    gateway: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BootWords:
    """The command line, read."""

    name: str = ""
    ticket: str = field(default="", repr=False)
    mac: str = ""  # of the card to use, lower case; empty: any that gives an address
    card: str = ""  # its name, where ip= says one
    static: Static | None = None  # None: DHCP
    bond: Bond | None = None
    vlan: Vlan | None = None
    nameservers: tuple[str, ...] = ()


def parse_words(text: str) -> BootWords:
    """Return what a command line says.

    Raises:
        InvalidInput: a word that is ours is wrong; it is named.
    """
    words: dict[str, str] = {}
    servers = []
    for word in text.split():
        key, equals, value = word.partition("=")
        if key == "nameserver" and equals:
            servers.append(value)
        elif equals:
            words[key] = value
    try:
        card, static = _address(words.get("ip", ""))
        return BootWords(
            name=checked_name(words["nodectl.name"]) if "nodectl.name" in words else "",
            ticket=words.get("nodectl.ticket", ""),
            mac=_booted_mac(words.get("BOOTIF", "")),
            card=card,
            static=static,
            bond=_bond(words.get("bond", "")),
            vlan=_vlan(words.get("vlan", "")),
            nameservers=tuple(str(ipaddress.ip_address(each)) for each in servers),
        )
    except ValueError as exc:
        raise InvalidInput(f"the kernel's command line: {exc}") from exc


def _booted_mac(text: str) -> str:
    if not text:
        return ""
    mac = text.replace("-", ":").lower()
    return checked_mac(mac.removeprefix(f"{_ETHERNET}:") if mac.count(":") == 6 else mac)  # noqa: PLR2004


def _card(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no name of a network card")
    return text


def _address(text: str) -> tuple[str, Static | None]:
    """Return card and address of ip=."""
    parts = text.split(":")
    if text in {"", "dhcp", "on", "any"}:
        return "", None
    if len(parts) == 2:  # noqa: PLR2004 - CARD:dhcp
        if parts[1] not in {"dhcp", "on", "any"}:
            raise ValueError(f"ip={text[:80]}: {parts[1][:40]!r} is not known, dhcp is")
        return _card(parts[0]), None
    if len(parts) < _STATIC_PARTS:
        raise ValueError(f"ip={text[:80]} is neither dhcp, nor CARD:dhcp, nor a whole address")
    address, _, gateway, mask, _, card = parts[:6]
    interface = ipaddress.ip_interface(f"{address}/{mask}")
    via = str(ipaddress.ip_address(gateway)) if gateway else ""
    return _card(card) if card else "", Static(address=interface.with_prefixlen, gateway=via)


def _bond(text: str) -> Bond | None:
    if not text:
        return None
    name, _, rest = text.partition(":")
    members, _, options = rest.partition(":")
    pairs = [each.partition("=") for each in options.split(",") if each]
    if not all(equals and re.fullmatch("[a-z_]+", key) for key, equals, _ in pairs):
        raise ValueError(f"bond={text[:80]}: options are of the form mode=802.3ad,miimon=100")
    return Bond(
        name=_card(name),
        members=tuple(_card(each) for each in members.split(",")),
        options=tuple((key, value) for key, _, value in pairs),
    )


def _vlan(text: str) -> Vlan | None:
    if not text:
        return None
    name, _, link = text.partition(":")
    number = _VLAN.fullmatch(name)
    if number is None or not 1 <= int(number[1]) <= _VLAN_MAX:
        raise ValueError(f"vlan={text[:80]}: its name ends in .ID, or is vlanID (1 to 4094)")
    return Vlan(name=_card(name), link=_card(link), id=int(number[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A network card of this machine."""

    name: str
    mac: str
    physical: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program to run."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A text to write into a file of /sys."""

    path: str
    text: str


NetStep = Command | Setting


def candidates(words: BootWords, cards: Sequence[Card]) -> tuple[str, ...]:
    """Return the interfaces that may lead to the controller, best first; none yet: wait."""
    if words.vlan is not None:
        return (words.vlan.name,)
    if words.bond is not None:
        return (words.bond.name,)
    if words.card:
        return (words.card,)
    booted = [card.name for card in cards if words.mac and card.mac == words.mac]
    return tuple(booted or [card.name for card in cards if card.physical and not words.mac])


def is_complete(words: BootWords, cards: Sequence[Card]) -> bool:
    """Say whether every card that the words name is there."""
    names = {card.name for card in cards}
    wanted = set(words.bond.members) if words.bond else set()
    if words.vlan is not None and (words.bond is None or words.vlan.link != words.bond.name):
        wanted.add(words.vlan.link)
    if words.card and words.bond is None and words.vlan is None:
        wanted.add(words.card)
    if words.mac and not wanted:
        return any(card.mac == words.mac for card in cards)
    return wanted <= names and bool(names)


def link_steps(words: BootWords, cards: Sequence[Card]) -> tuple[NetStep, ...]:
    """Return what makes the interfaces and brings them up, in this order."""
    steps: list[NetStep] = []
    if words.bond is not None:
        bond = words.bond
        steps.append(Command(argv=("modprobe", "bonding", "max_bonds=0")))
        steps.append(Setting(path="/sys/class/net/bonding_masters", text=f"+{bond.name}"))
        folder = f"/sys/class/net/{bond.name}/bonding"
        # The mode comes first: the kernel takes it only while there are no members.
        for key, value in sorted(bond.options, key=lambda pair: pair[0] != "mode"):
            steps.append(Setting(path=f"{folder}/{key}", text=value))
        for member in bond.members:
            steps.append(_ip("link", "set", member, "down"))
            steps.append(Setting(path=f"{folder}/slaves", text=f"+{member}"))
        steps.append(_ip("link", "set", bond.name, "up"))
    if words.vlan is not None:
        vlan = words.vlan
        steps.append(Command(argv=("modprobe", "8021q")))
        steps.append(_ip("link", "set", vlan.link, "up"))
        steps.append(_ip("link", "add", "link", vlan.link, "name", vlan.name, "type", "vlan", "id",
                         str(vlan.id)))  # fmt: skip
    names = candidates(words, cards)
    steps += [_ip("link", "set", name, "up") for name in names]
    if words.static is not None and names:
        steps.append(_ip("addr", "add", words.static.address, "dev", names[0]))
        if words.static.gateway:
            gateway = words.static.gateway
            steps.append(_ip("route", "add", "default", "via", gateway, "dev", names[0]))
    return tuple(steps)


def dhcp_argv(name: str, script: str) -> tuple[str, ...]:
    """Return the DHCP client for one interface; it asks until it is ended, and renews."""
    return ("busybox", "udhcpc", "-f", "-i", name, "-s", script, "-t", "5", "-T", "2", "-A", "5",
            "-O", "mtu", "-O", "search")  # fmt: skip


def _ip(*words: str) -> Command:
    return Command(argv=("busybox", "ip", *words))
