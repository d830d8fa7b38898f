"""What a node lets go of: never the newest, what it runs, or what it captured itself."""

from nodectl.ids import Root
from nodectl.node.retention import Keep, to_let_go
from nodectl.node.state import HeldRoot

DAY = 24 * 3600.0
NOW = 100 * DAY


def root(generation: int, name: str = "golden") -> Root:
    return Root(f"{name} {generation}".encode().ljust(32, b"."))


def held(generation: int, name: str = "golden", *, own: bool = False) -> HeldRoot:
    return HeldRoot(
        root=root(generation, name),
        swarm_key=bytes(32),
        name=name,
        generation=generation,
        root_block=b"block",
        complete=True,
        own=own,
    )


def dropped(
    roots: list[HeldRoot],
    keep: Keep,
    *,
    runs: dict[str, int] | None = None,
    deleted: tuple[Root, ...] = (),
) -> list[int]:
    """A release of generation g was made on day 10 g, 100 - 10 g days ago."""
    created = {one.root: one.generation * 10 * DAY for one in roots if one.root not in deleted}
    found = to_let_go(roots, keep, created=created, runs=runs or {}, now=NOW)
    generations = {one.root: one.generation for one in roots}
    return sorted(generations[one] for one in found)


FIVE = [held(generation) for generation in (3, 1, 5, 2, 4)]


def test_the_newest_generations_stay() -> None:
    assert dropped(FIVE, Keep(last=2)) == [1, 2, 3]
    assert dropped(FIVE, Keep(last=9)) == []


def test_what_is_young_enough_stays() -> None:
    assert dropped(FIVE, Keep(days=65)) == [1, 2, 3]
    assert dropped(FIVE, Keep(days=0)) == [1, 2, 3, 4]  # the newest always
    assert dropped(FIVE, Keep(last=3, days=55)) == [1, 2]  # either keeps
    assert dropped(FIVE, Keep(last=1, days=75)) == [1, 2]


def test_what_the_node_runs_stays() -> None:
    assert dropped(FIVE, Keep(last=1), runs={"golden": 2}) == [1, 3, 4]
    assert dropped(FIVE, Keep(last=1), runs={"other": 2}) == [1, 2, 3, 4]


def test_what_was_captured_here_stays_as_long_as_it_is_released() -> None:
    roots = [held(1, own=True), held(2, own=True), held(3)]
    assert dropped(roots, Keep(last=1)) == []
    assert dropped(roots, Keep(last=1), deleted=(root(1),)) == [1]


def test_a_deleted_release_goes_even_when_it_is_the_newest() -> None:
    assert dropped(FIVE, Keep(last=2), deleted=(root(5),)) == [1, 2, 3, 5]


def test_names_count_for_themselves() -> None:
    assert dropped([held(1), held(2), held(7, "other")], Keep(last=1)) == [1]
