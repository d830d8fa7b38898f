"""The table of failure cases names tests that are there."""

import ast
import functools
from pathlib import Path

import pytest
from failure_cases import GROUPS, Case
from failure_cases_nodes import NODES

TESTS = Path(__file__).parent
CASES = [case for group in (*GROUPS, *NODES) for case in group]


@functools.cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_a_case_has_tests_or_says_why_not(case: Case) -> None:
    assert case.tests or case.untested
    for test in case.tests:
        file, name = test.split("::")
        assert name.startswith("test_")
        assert name in functions(file), test


def test_each_case_stands_once() -> None:
    assert len({case.words for case in CASES}) == len(CASES)
