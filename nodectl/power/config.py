"""How the management controllers of nodes are reached: the file power.toml. Pure.

    [[bmc]]
    nodes = "node[01-40]"              # a node range; "all"
    kind = "redfish"                   # or "ipmi", or "hook"
    user = "admin"
    password_file = "/etc/nodectl/bmc" # mode 0600, one line
    url = "https://{bmc}"              # redfish: {bmc} is the node's in the inventory
    ca_file = "/etc/nodectl/bmc.pem"   # redfish: else the system's authorities
    port = 623                         # ipmi
    cipher = 17                        # ipmi
    command = ["/usr/local/sbin/pdu", "{action}", "{node}"]   # hook

The first entry that names a node counts. A password is in no inventory and on no command line.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.noderange import KnownNodes, expand
from nodectl.errors import InvalidInput, InventoryInvalid

_IPMI_PORT = 623
_IPMI_CIPHER = 17  # AES-128 and SHA-256; what older BMCs cannot, an entry lowers
_PORT_MAX = 65_535
_WORDS_MAX = 100
_SHOWN = 10
_TYPES: Mapping[str, type] = {
    "nodes": str,
    "kind": str,
    "user": str,
    "password_file": str,
    "url": str,
    "ca_file": str,
    "port": int,
    "cipher": int,
    "command": list,
}


class Kind(StrEnum):
    """By what a machine's power is switched."""

    IPMI = "ipmi"
    REDFISH = "redfish"
    HOOK = "hook"


class Action(StrEnum):
    """What is asked of a machine."""

    ON = "on"
    OFF = "off"  # at once, as the switch does it
    RESET = "reset"
    CYCLE = "cycle"  # off and on
    STATUS = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bmc:
    """One entry of the file."""

    nodes: str
    kind: Kind
    user: str = ""
    password_file: str = ""
    url: str = "https://{bmc}"
    ca_file: str = ""
    port: int = _IPMI_PORT
    cipher: int = _IPMI_CIPHER
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One machine, and how it is reached."""

    node: str
    address: str  # of its management controller; empty where a hook needs none
    bmc: Bmc


def parse_power(text: str, *, source: str) -> tuple[Bmc, ...]:
    """Return the entries of the file.

    Raises:
        InvalidInput: it has mistakes; all are named.
    """
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise InvalidInput(f"{source} is no TOML: {exc}") from exc
    entries = document.pop("bmc", [])
    mistakes = [f"{name}: unknown key (known: bmc)" for name in document]
    found: list[Bmc] = []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        mistakes.append("bmc: entries are written [[bmc]]")
        entries = []
    for number, entry in enumerate(entries):
        wrong = _mistakes(entry)
        mistakes += [f"bmc[{number}].{line}" for line in wrong]
        if not wrong:
            words = {**entry, "kind": Kind(entry["kind"])}
            found.append(Bmc(**{**words, "command": tuple(entry.get("command", ()))}))
    if mistakes:
        lines = "".join(f"\n  {line}" for line in mistakes)
        raise InvalidInput(f"{source} has {len(mistakes)} mistakes:{lines}")
    return tuple(found)


def _mistakes(entry: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with one entry."""
    wrong = _wrong_types(entry) or _wrong_values(entry)
    if "nodes" not in entry:
        wrong.append("nodes: is needed")
    return wrong


def _wrong_types(entry: Mapping[str, Any]) -> list[str]:
    unknown = entry.keys() - _TYPES
    wrong = [f"{name}: unknown key (known: {', '.join(_TYPES)})" for name in sorted(unknown)]
    return wrong + [
        f"{name}: is not of type {wanted.__name__}"
        for name, wanted in _TYPES.items()
        if name in entry and (not isinstance(entry[name], wanted) or isinstance(entry[name], bool))
    ]


def _wrong_values(entry: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an entry whose keys and types are right."""
    kind = entry.get("kind")
    if kind not in list(Kind):
        return [f"kind: is one of {', '.join(Kind)}"]
    needed = ("command",) if kind == Kind.HOOK else ("user", "password_file")
    wrong = [f"{name}: is needed for {kind}" for name in needed if not entry.get(name)]
    if not 0 < entry.get("port", _IPMI_PORT) <= _PORT_MAX:
        wrong.append(f"port: is from 1 to {_PORT_MAX}")
    command = entry.get("command", [])
    if len(command) > _WORDS_MAX or not all(isinstance(word, str) for word in command):
        wrong.append(f"command: is a list of at most {_WORDS_MAX} texts")
    if not entry.get("url", "https://").startswith(("https://", "http://")):
        wrong.append("url: begins with https://")
    return wrong


def targets(
    entries: Sequence[Bmc],
    nodes: Sequence[str],
    said: Mapping[str, NodeInventory],
    known: KnownNodes,
    *,
    source: str,
) -> tuple[Target, ...]:
    """Return how each node is reached, in the order given.

    Raises:
        InvalidInput: an entry's range is none, or no entry names a node.
        InventoryInvalid: the inventory does not say where a node's management controller is.
    """
    ranges = [(frozenset(expand(one.nodes, known)), one) for one in entries]
    found: list[Target] = []
    nameless, homeless = [], []
    for node in nodes:
        entry = next((one for names, one in ranges if node in names), None)
        address = said[node].bmc if node in said else ""
        if entry is None:
            nameless.append(node)
        elif not address and entry.kind is not Kind.HOOK:
            homeless.append(node)
        else:
            found.append(Target(node=node, address=address, bmc=entry))
    if nameless:
        raise InvalidInput(
            f"no [[bmc]] of {source} names {_some(nameless)}", hint="nodectl power --help shows one"
        )
    if homeless:
        raise InventoryInvalid(
            f"the inventory does not say where the management controller of {_some(homeless)} is",
            hint="nodectl node set NODE --bmc ADDRESS",
        )
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    left = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {left} more" if left > 0 else "")
