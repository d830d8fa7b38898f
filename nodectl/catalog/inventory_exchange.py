"""The inventory in the forms of other tools: CSV, JSON, hosts(5), dnsmasq, genders and xCAT. Pure.

    json     {"nodes": [...]}: everything
    csv      a header, then a line for each node: name, rack, groups and macs (";" between), bmc,
             image, layout; interface, mac, address, gateway of the first interface; attribute.KEY
    hosts    ADDRESS NAME; the addresses after the first as NAME-INTERFACE
    dnsmasq  dhcp-host=MAC,ADDRESS,NAME
    genders  NAME WORD,KEY=VALUE: a word is a group, rack, bmc, image and layout are what they are,
             any other key is an attribute
    xcat     the stanzas of lsdef -z: groups, rack, bmc, mac, ip and primarynic

Only json holds all; what another form cannot hold is said when it is written. Forms without a
prefix length or the name of an interface get both as options when they are read.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nodectl.catalog.inventory import NodeInventory
from nodectl.errors import InventoryInvalid

_FIELDS = ("rack", "bmc", "image", "layout")
_COLUMNS = ("name", "rack", "groups", "macs", "bmc", "image", "layout", "interface", "mac",
            "address", "gateway")  # fmt: skip
_ATTRIBUTE = "attribute."
_LOCAL = ("127.", "::1", "fe00::", "ff0", "255.")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}")
_OTHER = re.compile(  # what dnsmasq does not take for a name: an address, a lease time, a word
    r"[0-9.]{7,15}|[0-9]+[smhdwSMHDW]?|infinite|ignore|[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}"
)
_MISTAKES_SHOWN = 20

Documents = dict[str, dict[str, Any]]


class Form(StrEnum):
    """The forms."""

    JSON = "json"
    CSV = "csv"
    HOSTS = "hosts"
    DNSMASQ = "dnsmasq"
    GENDERS = "genders"
    XCAT = "xcat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What a form does not say."""

    interface: str = "eth0"
    prefix: int = 24


class _Wrong(Exception):
    """A line that cannot be understood."""


def parse_nodes(text: str, form: Form, missing: Missing, *, source: str) -> Documents:
    """Return node -> its document, as far as the text says; fields that it does not say are absent.

    Raises:
        InventoryInvalid: every line that cannot be understood.
    """
    if form is Form.JSON:
        return _from_json(text, source)
    readers: Mapping[Form, Callable[[str, Missing], Iterator[tuple[int, str, dict[str, Any]]]]] = {
        Form.CSV: _from_csv,
        Form.HOSTS: _from_hosts,
        Form.DNSMASQ: _from_dnsmasq,
        Form.GENDERS: _from_genders,
        Form.XCAT: _from_xcat,
    }
    documents: Documents = {}
    mistakes = []
    try:
        for line, name, fields in readers[form](text, missing):
            if not _NAME.fullmatch(name):
                mistakes.append(f"line {line}: {name[:60]!r} is no name of a node")
            else:
                _merge(documents.setdefault(name, {}), fields)
    except _Wrong as exc:
        mistakes.append(str(exc))
    if mistakes:
        lines = "".join(f"\n  {one}" for one in mistakes[:_MISTAKES_SHOWN])
        raise InventoryInvalid(f"{source} is not of the form {form}:{lines}")
    return documents


def format_nodes(nodes: Sequence[NodeInventory], form: Form) -> tuple[str, tuple[str, ...]]:
    """Return the text, and what of the nodes it does not hold."""
    if form is Form.JSON:
        text = json.dumps({"nodes": [one.to_json() for one in nodes]}, indent=1) + "\n"
        return text, ()
    writers: Mapping[Form, Callable[[Sequence[NodeInventory]], Iterable[str]]] = {
        Form.CSV: _to_csv,
        Form.HOSTS: _to_hosts,
        Form.DNSMASQ: _to_dnsmasq,
        Form.GENDERS: _to_genders,
        Form.XCAT: _to_xcat,
    }
    lines = list(writers[form](nodes))
    text = "".join(f"{line}\n" for line in lines)
    read = parse_nodes(text, form, Missing(), source=form) if text else {}
    less = [one.name for one in nodes if _said(one.to_json()) - _said(read.get(one.name, {}))]
    notes = (f"{form} does not hold all of {len(less)} nodes, such as {less[0]}",) if less else ()
    return text, notes


def _said(document: Mapping[str, Any]) -> set[str]:
    """Return everything that a document says, a text each."""
    found = set()
    for key, value in document.items():
        if key == "attributes":
            found |= {f"{key} {json.dumps(each)}" for each in value.items()}
        elif key == "interfaces":
            found |= {
                f"{one['name']} {name} {json.dumps(each)}"
                for one in value
                for name, each in one.items()
            }
        elif key != "name":
            found.add(f"{key} {json.dumps(sorted(value) if isinstance(value, list) else value)}")
    return found


def _merge(document: dict[str, Any], fields: Mapping[str, Any]) -> None:
    """Put what one line says to what the lines before said of the node."""
    for key, value in fields.items():
        if key == "attributes":
            document.setdefault(key, {}).update(value)
        elif key == "interfaces":
            for one in value:
                _add_interface(document.setdefault(key, []), one)
        elif isinstance(value, list):
            document[key] = [*document.get(key, []), *value]
        else:
            document[key] = value


def _add_interface(interfaces: list[dict[str, Any]], one: dict[str, Any]) -> None:
    """Add an interface, or an address of one that is there; another card gets the next number."""
    known = {each["name"]: each for each in interfaces}
    name = one["name"]
    while name in known and known[name].get("mac") != one.get("mac"):
        stem, number = re.fullmatch(r"(.*?)([0-9]*)", name).groups()  # type: ignore[union-attr]
        name = f"{stem}{int(number or 0) + 1}"
    if name not in known:
        interfaces.append({**one, "name": name})
        return
    old = known[name].setdefault("addresses", [])
    old += [each for each in one.get("addresses", []) if each not in old]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        plain = line.split("#", 1)[0].strip()
        if plain:
            yield number, plain


def _interface(missing: Missing, *, mac: str = "", address: str = "") -> dict[str, Any]:
    fields: dict[str, Any] = {"name": missing.interface}
    if mac:
        fields["mac"] = mac.lower().replace("-", ":")
    if address:
        has_prefix = "/" in address
        prefix = 64 if ":" in address else missing.prefix
        fields["addresses"] = [address if has_prefix else f"{address}/{prefix}"]
    return fields


# --- json, csv -----------------------------------------------------------------------------------


def _from_json(text: str, source: str) -> Documents:
    try:
        entries = json.loads(text)["nodes"]
        return {str(one["name"]): dict(one) for one in entries}
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise InventoryInvalid(f'{source} is no JSON of the form {{"nodes": [...]}}') from exc


def _from_csv(text: str, missing: Missing) -> Iterator[tuple[int, str, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text), strict=True)
    columns = list(rows.fieldnames or ())
    unknown = [c for c in columns if c not in _COLUMNS and not c.startswith(_ATTRIBUTE)]
    if "name" not in columns or unknown:
        raise _Wrong(f"line 1: the columns are {', '.join(_COLUMNS)} and attribute.KEY, "
                     f"not {', '.join(unknown or columns)[:120]}")  # fmt: skip
    try:
        for row in rows:
            if None in row or None in row.values():
                raise _Wrong(f"line {rows.line_num}: it has not {len(columns)} columns")
            yield rows.line_num, row["name"].strip(), _csv_fields(row, missing)
    except csv.Error as exc:
        raise _Wrong(f"line {rows.line_num}: {exc}") from exc


def _csv_fields(row: Mapping[str, str], missing: Missing) -> dict[str, Any]:
    cells = {key: value.strip() for key, value in row.items() if value.strip()}
    fields: dict[str, Any] = {key: cells[key] for key in _FIELDS if key in cells}
    for key in ("groups", "macs"):
        if key in cells:
            fields[key] = [each.strip() for each in cells[key].split(";") if each.strip()]
    attributes = {
        key.removeprefix(_ATTRIBUTE): value
        for key, value in cells.items()
        if key.startswith(_ATTRIBUTE)
    }
    if attributes:
        fields["attributes"] = attributes
    if cells.keys() & {"interface", "mac", "address"}:
        named = Missing(interface=cells.get("interface", missing.interface), prefix=missing.prefix)
        one = _interface(named, mac=cells.get("mac", ""), address=cells.get("address", ""))
        fields["interfaces"] = [
            one | ({"gateway": [cells["gateway"]]} if "gateway" in cells else {})
        ]
    return fields


def _to_csv(nodes: Sequence[NodeInventory]) -> Iterable[str]:
    keys = sorted({key for one in nodes for key in one.attributes})
    stream = io.StringIO()
    writer = csv.DictWriter(
        stream, [*_COLUMNS, *(_ATTRIBUTE + key for key in keys)], lineterminator="\n"
    )
    writer.writeheader()
    for one in nodes:
        row = {key: getattr(one, key) for key in ("name", *_FIELDS)}
        row |= {"groups": ";".join(one.groups), "macs": ";".join(one.macs)}
        row |= {_ATTRIBUTE + key: value for key, value in one.attributes.items()}
        for first in one.interfaces[:1]:
            row |= {"interface": first.name, "mac": first.mac}
            row |= {"address": next(iter(first.addresses), "")}
            row |= {"gateway": next(iter(first.gateway), "")}
        writer.writerow(row)
    return stream.getvalue().splitlines()


# --- hosts, dnsmasq ------------------------------------------------------------------------------


def _from_hosts(text: str, missing: Missing) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in _lines(text):
        address, *names = line.split()
        if address.startswith(_LOCAL):
            continue
        if not names:
            raise _Wrong(f"line {number}: there is no name behind {address[:60]!r}")
        yield (
            number,
            names[0].partition(".")[0],
            {"interfaces": [_interface(missing, address=address)]},
        )


def _to_hosts(nodes: Sequence[NodeInventory]) -> Iterable[str]:
    for one in nodes:
        first = True
        for interface in one.interfaces:
            for address in interface.addresses:
                name = one.name if first else f"{one.name}-{interface.name}"
                yield f"{address.partition('/')[0]}\t{name}"
                first = False


def _from_dnsmasq(text: str, missing: Missing) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in _lines(text):
        key, _, value = line.partition("=")
        if key.strip() != "dhcp-host":
            continue
        words = [word.strip() for word in value.split(",")]
        macs = [word for word in words if _MAC.fullmatch(word)]
        addresses = [w.strip("[]") for w in words if re.fullmatch(r"\[.*:.*\]|[0-9.]{7,15}", w)]
        names = [word for word in words if _NAME.fullmatch(word) and not _OTHER.fullmatch(word)]
        if not (macs and names):
            raise _Wrong(f"line {number}: no MAC and name in {line[:60]!r}")
        address = next(iter(addresses), "")
        yield (
            number,
            names[0].partition(".")[0],
            {"interfaces": [_interface(missing, mac=macs[0], address=address)]},
        )


def _to_dnsmasq(nodes: Sequence[NodeInventory]) -> Iterable[str]:
    for one in nodes:
        for interface in one.interfaces:
            if interface.mac and not _OTHER.fullmatch(one.name):
                addresses = [each.partition("/")[0] for each in interface.addresses]
                shown = [f"[{each}]" if ":" in each else each for each in addresses]
                yield f"dhcp-host={','.join((interface.mac, *shown[:1], one.name))}"


# --- genders, xcat -------------------------------------------------------------------------------


def _from_genders(text: str, _missing: Missing) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in _lines(text):
        names, _, words = line.partition(" ")
        if "[" in names:
            raise _Wrong(f"line {number}: a line for each node, not the range {names[:60]!r}")
        fields: dict[str, Any] = {"groups": [], "attributes": {}}
        for word in filter(None, re.split(r"[,\s]+", words)):
            key, equals, value = word.partition("=")
            if not equals:
                fields["groups"].append(key)
            elif key in _FIELDS:
                fields[key] = value
            else:
                fields["attributes"][key] = value
        for name in names.split(","):
            yield number, name, {key: value for key, value in fields.items() if value}


def _to_genders(nodes: Sequence[NodeInventory]) -> Iterable[str]:
    for one in nodes:
        words = [*one.groups]
        words += [f"{key}={getattr(one, key)}" for key in _FIELDS if getattr(one, key)]
        # Blanks, commas and # would end the value.
        words += [f"{k}={v}" for k, v in one.attributes.items() if not re.search(r"[\s,#]", v)]
        yield f"{one.name} {','.join(words)}".rstrip()


def _from_xcat(text: str, missing: Missing) -> Iterator[tuple[int, str, dict[str, Any]]]:
    name, at, stanza = "", 0, dict[str, str]()
    for number, line in _lines(text):
        key, equals, value = line.partition("=")
        if not equals and line.endswith(":"):
            if name:
                yield at, name, _xcat_fields(stanza, missing)
            name, at, stanza = line[:-1].strip(), number, {}
        elif equals and name:
            stanza[key.strip()] = value.strip()
        else:
            raise _Wrong(f"line {number}: neither NAME: nor KEY=VALUE: {line[:60]!r}")
    if name:
        yield at, name, _xcat_fields(stanza, missing)


def _xcat_fields(stanza: Mapping[str, str], missing: Missing) -> dict[str, Any]:
    fields: dict[str, Any] = {key: stanza[key] for key in ("rack", "bmc") if stanza.get(key)}
    if stanza.get("groups"):
        fields["groups"] = [each.strip() for each in stanza["groups"].split(",") if each.strip()]
    # "MAC!HOST|MAC": the first card is the one that is installed over.
    mac = re.split(r"[!|]", stanza.get("mac", ""))[0]
    if mac or stanza.get("ip"):
        named = Missing(
            interface=stanza.get("primarynic") or stanza.get("installnic") or missing.interface,
            prefix=missing.prefix,
        )
        if _MAC.fullmatch(named.interface) or named.interface == "mac":
            named = missing
        fields["interfaces"] = [_interface(named, mac=mac, address=stanza.get("ip", ""))]
    return fields


def _to_xcat(nodes: Sequence[NodeInventory]) -> Iterable[str]:
    for one in nodes:
        first = next(iter(one.interfaces), None)
        fields = {
            "objtype": "node",
            "groups": ",".join(one.groups),
            "rack": one.rack,
            "bmc": one.bmc,
            "mac": first.mac if first else "",
            "ip": next(iter(first.addresses), "").partition("/")[0] if first else "",
            "primarynic": first.name if first and (first.mac or first.addresses) else "",
        }
        yield f"{one.name}:"
        yield from (f"    {key}={value}" for key, value in fields.items() if value)
