"""Patterns of what a capture leaves out."""

import pytest

from nodectl.content.excludes import (
    Excludes,
)
from nodectl.errors import InvalidInput


@pytest.mark.parametrize(
    ("pattern", "matched", "passed"),
    [
        ("/a", [b"a"], [b"b/a", b"a/b", b"aa"]),
        ("a", [b"a", b"b/a", b"c/b/a"], [b"a/b", b"ba", b"b/ba"]),
        ("/a/", [b"a"], [b"a/b"]),
        ("/a/*", [b"a/b", b"a/.b"], [b"a", b"a/b/c"]),
        ("*.o", [b"x.o", b"a/x.o", b".o"], [b"x.oo", b"x.o/a"]),
        ("/a?c", [b"abc", b"a\xffc", b"a\nc"], [b"a/c", b"ac"]),
        ("/srv/**/cache", [b"srv/a/cache", b"srv/a/b/cache"], [b"srv/cache", b"srv/a/cached"]),
        ("/srv/**", [b"srv/a", b"srv/a/b"], [b"srv"]),
        ("a/b", [b"a/b", b"x/a/b"], [b"xa/b"]),
        ("/a.b", [b"a.b"], [b"axb"]),
        ("/[a]", [b"[a]"], [b"a"]),
        ("*", [b"a", b"a/b"], []),
        ("/\udcff*", [b"\xff", b"\xffx"], [b"\xfe"]),
        ("/new\nline", [b"new\nline"], [b"new"]),
    ],
)
def test_patterns(pattern: str, matched: list[bytes], passed: list[bytes]) -> None:
    excludes = Excludes([pattern])
    assert [path for path in matched + passed if excludes.match(path)] == matched


def test_what_is_below_a_match_is_covered() -> None:
    excludes = Excludes(["/a/b", "*.d"])
    assert excludes.covers(b"a/b/c/d")
    assert excludes.covers(b"x/y.d/z")
    assert excludes.covers(b"a/b")
    assert not excludes.covers(b"a")
    assert not excludes.covers(b"")
    assert not Excludes([]).covers(b"a/b")
    assert not Excludes([]).match(b"")


@pytest.mark.parametrize("pattern", ["", "/", "//", "a\0b"])
def test_patterns_of_everything_or_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Excludes([pattern])
    assert caught.value.hint


def test_each_pattern_is_kept_once_and_in_order() -> None:
    assert Excludes(["b", "a", "b"]).patterns == ("b", "a")
