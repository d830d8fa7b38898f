"""Templates of site files: text with variables of the inventory, filled in for one node. Pure.

    NodeName=@{name} CPUs=@{attribute.cores} RealMemory=@{attribute.memory:128000}
    ListenAddress @{interface.eth0.address}

`@{VARIABLE}` is replaced, `@{VARIABLE:TEXT}` by TEXT where the node has no such value, `@@{` stands
for `@{`. Variables: name, rack, groups, bmc, image, layout, attribute.KEY, address (the first), and
interface.NAME.address, .prefix, .mac, .gateway or .mtu. There is nothing else.

Why so little, and not Jinja2: a template is written by the site and filled with values that came
from elsewhere, and here neither can run anything: one pass over the text, what was put in is never
read again, and every value is one line (`inventory_text.py` sees to that). Jinja2 and MarkupSafe
would be two more dependencies, one of them native code for each Python and machine, and its
sandbox has been left before. `$` is not the mark because scripts and configuration are full of it.
"""

import re
from collections.abc import Iterator

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.errors import TemplateInvalid

_FIELD = re.compile(r"@@\{|@\{([^{}\n]*)\}|@\{")
_SIMPLE = ("name", "rack", "groups", "bmc", "image", "layout", "address")
_OF_INTERFACE = ("address", "prefix", "mac", "gateway", "mtu")
_ATTRIBUTE, _INTERFACE = "attribute.", "interface."


def fill(text: str, node: NodeInventory, *, name: str) -> str:
    """Return the text with the values of a node; `name` is the template's, for errors.

    Raises:
        TemplateInvalid: every line with a variable that does not exist or has no value.
    """
    mistakes: list[str] = []

    def value(found: re.Match[str]) -> str:
        if found[0] == "@@{":
            return "@{"
        try:
            return _value(found[1], node)
        except ValueError as exc:
            line = text.count("\n", 0, found.start()) + 1
            mistakes.append(f"line {line}: {exc}")
            return ""

    filled = _FIELD.sub(value, text)
    _refuse(mistakes, f"the template {name} cannot be filled in for {node.name}")
    return filled


def check(text: str, *, name: str) -> None:
    """Refuse a template with variables that no node has.

    Raises:
        TemplateInvalid: every line with one.
    """
    mistakes = []
    for found in _FIELD.finditer(text):
        if found[0] == "@@{":
            continue
        try:
            _checked(found[1])
        except ValueError as exc:
            mistakes.append(f"line {text.count(chr(10), 0, found.start()) + 1}: {exc}")
    _refuse(mistakes, f"the template {name} is not valid")


def _refuse(mistakes: list[str], sentence: str) -> None:
    if mistakes:
        raise TemplateInvalid(
            f"{sentence}:" + "".join(f"\n  {line}" for line in mistakes),
            hint="@@{ stands for @{ itself; nodectl node show NODE shows what a node has",
        )


def _checked(field: str | None) -> tuple[str, str | None]:
    """Return (variable, default) of what stands in the braces."""
    if field is None:
        raise ValueError("@{ is not closed on its line")
    variable, colon, default = field.partition(":")
    variable = variable.strip()
    known = variable in _SIMPLE or bool(re.fullmatch(r"attribute\..+", variable))
    if variable.startswith(_INTERFACE):
        inner, _, what = variable.removeprefix(_INTERFACE).rpartition(".")
        known = bool(inner) and what in _OF_INTERFACE
    if not known:
        raise ValueError(f"there is no variable {variable[:60]!r}")
    return variable, default if colon else None


def _value(field: str | None, node: NodeInventory) -> str:
    variable, default = _checked(field)
    found = next((each for each in _values(variable, node) if each), default)
    if found is None:
        raise ValueError(f"{node.name} has no {variable}")
    return found


def _values(variable: str, node: NodeInventory) -> Iterator[str]:
    if variable == "groups":
        yield ",".join(node.groups)
    elif variable == "address":
        yield from node.all_addresses()
    elif variable in _SIMPLE:
        yield getattr(node, variable)
    elif variable.startswith(_ATTRIBUTE):
        yield node.attributes.get(variable.removeprefix(_ATTRIBUTE), "")
    else:
        name, _, what = variable.removeprefix(_INTERFACE).rpartition(".")
        for one in node.interfaces:
            if one.name == name:
                yield from _of_interface(one, what)


def _of_interface(one: Interface, what: str) -> Iterator[str]:
    match what:
        case "address":
            yield from (each.partition("/")[0] for each in one.addresses)
        case "prefix":
            yield from (each.partition("/")[2] for each in one.addresses)
        case "gateway":
            yield from one.gateway
        case "mtu":
            yield str(one.mtu or "")
        case _:
            yield one.mac
