"""Which held roots a node lets go of. Pure: the facts come in, the roots to forget go out.

A root stays while any of these holds: it is among the newest of its name that are wanted, it is
young enough, it is the generation that this node runs (the last it was brought to), or it was
captured here and the controller still has its release: this may be the only machine that has it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nodectl.ids import Root
from nodectl.node.state import HeldRoot

_DAY_S = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What is wanted of each name; a root stays if either says so."""

    last: int | None = None  # generations
    days: float | None = None  # since its release was made


def to_let_go(
    held: Iterable[HeldRoot],
    keep: Keep,
    *,
    created: Mapping[Root, float],
    runs: Mapping[str, int],
    now: float,
) -> tuple[Root, ...]:
    """Return the roots that nothing keeps.

    Args:
        held: all roots that the node holds.
        keep: what is wanted.
        created: when each release that the controller has was made, seconds since 1970.
        runs: the generation of each name that the node was brought to last.
        now: the controller's clock, seconds since 1970.
    """
    names: dict[str, list[HeldRoot]] = {}
    for one in held:
        names.setdefault(one.name, []).append(one)
    dropped: list[Root] = []
    for _, group in sorted(names.items()):
        group.sort(key=lambda one: one.generation, reverse=True)
        for place, one in enumerate(group):
            if one.root not in created:
                dropped.append(one.root)  # the controller deleted it
                continue
            newest = place < max(1, keep.last or 1)
            young = keep.days is not None and created[one.root] >= now - keep.days * _DAY_S
            running = runs.get(one.name) == one.generation
            if not (newest or young or running or one.own):
                dropped.append(one.root)
    return tuple(dropped)


def last_of_each(names: Mapping[Root, str], count: int) -> set[Root]:
    """Return the last `count` roots of each name."""
    left = Counter(names.values())
    kept = set()
    for root, name in names.items():
        left[name] -= 1
        if left[name] < count:
            kept.add(root)
    return kept
