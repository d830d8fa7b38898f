"""Node ranges: as ClusterShell understands them, and never more nodes than one can name."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.noderange import KnownNodes, expand, known_nodes, natural_key
from nodectl.errors import InvalidInput

CLUSTERSHELL = Path(__file__).parents[1] / "golden/noderange_clustershell_1.10.1.jsonl"
NOBODY = KnownNodes()
SAID = [
    NodeInventory(name="n1", groups=("gpu", "old"), rack="r1"),
    NodeInventory(name="n2", groups=("gpu",), rack="r2", image="golden"),
    NodeInventory(name="n10", rack="r1", layout="two"),
]
KNOWN = known_nodes(["c", "n1", "n2", "n10"], SAID)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("n", "n"),
        ("n[01-10]", "n01 n02 n03 n04 n05 n06 n07 n08 n09 n10"),
        ("n[8-11]", "n8 n9 n10 n11"),
        ("n[1-10/3]", "n1 n4 n7 n10"),
        ("n[01,1,7-8]-ib0", "n1-ib0 n01-ib0 n7-ib0 n8-ib0"),
        ("r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"),
        ("n1[0-2]", "n10 n11 n12"),
        ("n[099-100]", "n099 n100"),
        ("n[1-5]!n3", "n1 n2 n4 n5"),
        ("n[1-5]!n3,n3", "n1 n2 n3 n4 n5"),
        ("n[1-5],-n[2-3]", "n1 n4 n5"),
        ("n[1-3],n[2-5]&n[3-9],n1", "n1 n3 n4 n5"),
        ("n[1-3]^n[2-5]", "n1 n4 n5"),
        (" n1 , n2 ", "n1 n2"),
        ("@gpu", "n1 n2"),
        ("@gpu!@old", "n2"),
        ("@rack:r1", "n1 n10"),
        ("@rack:r[1-2]&@gpu", "n1 n2"),
        ("@image:golden,@layout:two", "n2 n10"),
        ("@*", "c n1 n2 n10"),
        ("all", "c n1 n2 n10"),
        ("all!c", "n1 n2 n10"),
        ("n?", "n1 n2"),
        ("n*,x", "n1 n2 n10 x"),
        ("a-b", "a-b"),
        ("n1&n2", ""),
    ],
)
def test_each_form(text: str, nodes: str) -> None:
    assert expand(text, KNOWN) == tuple(nodes.split())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a name is missing"),
        ("n,", "a name is missing"),
        ("n,!m", "a name is missing"),
        ("n,-", "a name is missing"),
        ("n[", "a bracket is not closed"),
        ("n]", "a bracket is not closed"),
        ("n[1[2]]", "a bracket is not closed"),
        ("n[]", "is no range"),
        ("n[1,,2]", "is no range"),
        ("n[a]", "is no range"),
        ("n[-1]", "is no range"),
        ("n[9-1]", "goes down"),
        ("n[1-5/0]", "goes down"),
        ("n[1-010]", "numbers of two widths"),
        ("n[01-100]", "numbers of two widths"),
        ("n1 n2", "is no name of nodes"),
        ("n/1", "is no name of nodes"),
        ("@nobody", "there is no group 'nobody'"),
        ("@rack:r9", "there is no group 'rack:r9'"),
        ("n[1-999999999]", "more than 100000 nodes"),
        ("n[1-999][1-999]", "more than 100000 nodes"),
        ("a[1-99999],b[1-99999]", "more than 100000 nodes"),
        ("n" * 70_000, "at most 65536 characters"),
    ],
)
def test_each_mistake_has_its_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        expand(text, KNOWN)


few = st.frozensets(st.sampled_from([f"n{number}" for number in range(12)]))


def _expanded(text: str) -> "set[str] | None":
    try:
        return set(expand(text, NOBODY))
    except InvalidInput:
        return None


def test_clustershell_says_the_same() -> None:
    """300 random ranges, and what ClusterShell 1.10.1 made of each (null: it refused).

    Without digits before a bracket: n0[1-9] it reads as n[01-09], all of one width.
    """
    lines = CLUSTERSHELL.read_text().splitlines()
    told = {text: None if nodes is None else set(nodes) for text, nodes in map(json.loads, lines)}
    assert len(told) == 300
    assert {text: _expanded(text) for text in told} == told


@given(few, few)
def test_the_operators_are_those_of_sets(a: frozenset[str], b: frozenset[str]) -> None:
    known = KnownNodes(groups={"a": a, "b": b})
    for operator, expected in ((",", a | b), ("!", a - b), ("&", a & b), ("^", a ^ b)):
        assert set(expand(f"@a{operator}@b", known)) == expected


@given(st.text(alphabet="n01-9[]/,!&^@* x:", max_size=24))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        found = expand(text, KNOWN)
    except InvalidInput:
        return
    assert len(set(found)) == len(found)
    assert list(found) == sorted(found, key=natural_key)
