"""Node ranges: one text that names many nodes, with ClusterShell's rules. Pure.

    node[01-40]            node01 to node40: a leading zero says how wide the numbers are
    node[1-9/2,20]         node1, 3, 5, 7, 9, 20
    r[1-2]n[01-04]-ib      several brackets: every combination
    a,b                    both
    a!b     a,-b           a without b
    a&b                    what is in both
    a^b                    what is in one of them and not in the other
    @gpu                   a group of the inventory; @rack:r1, @image:golden and @layout:two as well
    @*      all            every node
    node0?  node*          those of every node whose names match

Operators are applied from left to right, none binds stronger than another. Source: ClusterShell,
"Node sets", https://clustershell.readthedocs.io/en/latest/tools/nodeset.html; what it makes of 300
ranges is a test. `a,-b` is xCAT's form, and `all` nodectl's own.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product

from nodectl.catalog.inventory import NodeInventory
from nodectl.errors import InvalidInput

NODES_MAX = 100_000
TEXT_MAX = 65_536
ALL = "all"
_OPERATORS: Mapping[str, Callable[[set[str], set[str]], set[str]]] = {
    ",": set.union,
    "!": set.difference,
    "&": set.intersection,
    "^": set.symmetric_difference,
}
_PIECE = re.compile(r"\[[^\[\]]*\]|[^,!&^\[\]]")
_NAME = re.compile(r"[A-Za-z0-9_.:*?-]+")
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18})(?:/([0-9]{1,9}))?)?")
_HINT = "such as node[01-40],login1!node07 or @gpu&@rack:r1; nodectl node expand RANGE tries one"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNodes:
    """The nodes that there are, and in what groups."""

    names: frozenset[str] = frozenset()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)  # "gpu", "rack:r1"


def known_nodes(names: Iterable[str], said: Iterable[NodeInventory]) -> KnownNodes:
    """Return what every node and a group mean: `names`, and what the inventory says."""
    groups: dict[str, set[str]] = {}
    for one in said:
        sources = {"rack": one.rack, "image": one.image, "layout": one.layout}
        marks = [*one.groups, *(f"{key}:{value}" for key, value in sources.items() if value)]
        for mark in marks:
            groups.setdefault(mark, set()).add(one.name)
    frozen = {name: frozenset(nodes) for name, nodes in groups.items()}
    return KnownNodes(names=frozenset(names), groups=frozen)


def expand(text: str, known: KnownNodes) -> tuple[str, ...]:
    """Return the nodes that a text names, numbers in them in their order, each once.

    Raises:
        InvalidInput: it is no node range, or names a group that there is not.
    """
    found: set[str] = set()
    for operator, term in _terms(text):
        if operator == "," and term.startswith("-"):
            operator, term = "!", term[1:]  # noqa: PLW2901 - xCAT's way to write it
        found = _OPERATORS[operator](found, _named(term, known))
        if len(found) > NODES_MAX:
            raise InvalidInput(f"{text[:80]!r} names more than {NODES_MAX} nodes")
    return tuple(sorted(found, key=natural_key))


def natural_key(name: str) -> tuple[object, ...]:
    """Return a key by which node9 comes before node10."""
    pieces = re.split(r"([0-9]+)", name)
    numbers = ((int(piece), len(piece)) for piece in pieces[1::2])
    return tuple(each for pair in zip(pieces[::2], [*numbers, ()], strict=True) for each in pair)


def _terms(text: str) -> Iterator[tuple[str, str]]:
    """Yield (operator, term) from left to right; the first operator is a union."""
    if len(text) > TEXT_MAX:
        raise InvalidInput(f"a node range has at most {TEXT_MAX} characters")
    operator, term = ",", ""
    at = 0
    while at < len(text):
        piece = _PIECE.match(text, at)
        if piece:
            term += piece[0]
            at = piece.end()
            continue
        if text[at] not in _OPERATORS:
            raise InvalidInput(f"in {text[:80]!r} a bracket is not closed", hint=_HINT)
        yield operator, _checked_term(term, text)
        operator, term = text[at], ""
        at += 1
    yield operator, _checked_term(term, text)


def _checked_term(term: str, text: str) -> str:
    term = term.strip()
    if not term or term == "-":
        raise InvalidInput(f"in {text[:80]!r} a name is missing", hint=_HINT)
    return term


def _named(term: str, known: KnownNodes) -> set[str]:
    if term == ALL:
        return set(known.names)
    is_group = term.startswith("@")
    found: set[str] = set()
    for name in _names(term.removeprefix("@")):
        if is_group:
            found |= _group(name, known)
        elif "*" in name or "?" in name:
            found |= {each for each in known.names if fnmatchcase(each, name)}
        else:
            found.add(name)
    return found


def _group(name: str, known: KnownNodes) -> frozenset[str]:
    if name == "*":
        return known.names
    if name in known.groups:
        return known.groups[name]
    hint = f"there are: {', '.join(sorted(known.groups)[:20])}" if known.groups else (
        "no node is in a group; nodectl node set NAME --group GROUP puts one into it"
    )  # fmt: skip
    raise InvalidInput(f"there is no group {name[:80]!r}", hint=hint)


def _names(term: str) -> Iterator[str]:
    """Yield every name that a term with brackets means."""
    pieces = re.split(r"\[([^\[\]]*)\]", term)
    for piece in pieces[::2]:
        if piece and not _NAME.fullmatch(piece):
            raise InvalidInput(f"{term[:80]!r} is no name of nodes", hint=_HINT)
    choices: list[Sequence[str]] = []
    count = 1
    for index, piece in enumerate(pieces):
        choices.append(_numbers(piece, term) if index % 2 else (piece,))
        count *= len(choices[-1])
        if count > NODES_MAX:
            raise InvalidInput(f"{term[:80]!r} names more than {NODES_MAX} nodes")
    yield from ("".join(each) for each in product(*choices))


def _numbers(text: str, term: str) -> list[str]:
    """Return the numbers of a bracket as they stand in names."""
    numbers: list[str] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise InvalidInput(f"in {term[:80]!r}: {part[:40]!r} is no range", hint=_HINT)
        first, last, step = found[1], found[2] or found[1], int(found[3] or 1)
        padded = any(len(each) > 1 and each.startswith("0") for each in (first, last))
        width = len(first) if padded else 0
        if int(last) < int(first) or step < 1 or (width and len(last) != width):
            raise InvalidInput(
                f"in {term[:80]!r}: {part[:40]!r} goes down, has step 0, or numbers of two widths",
                hint=_HINT,
            )
        if (int(last) - int(first)) // step >= NODES_MAX:
            raise InvalidInput(f"{term[:80]!r} names more than {NODES_MAX} nodes")
        numbers += [f"{number:0{width}}" for number in range(int(first), int(last) + 1, step)]
    return numbers
