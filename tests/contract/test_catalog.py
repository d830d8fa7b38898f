"""One suite for every catalog: memory and SQLite."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.model import ABSENT, Catalog
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.errors import NodectlError, PathUnreadable, WriteConflict


@pytest.fixture(params=["memory", "sqlite"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Catalog]:
    if request.param == "memory":
        yield MemoryCatalog()
    else:
        with SqliteCatalog(tmp_path / "catalog.sqlite") as opened:
            yield opened


def test_what_was_put_is_got(catalog: Catalog) -> None:
    assert catalog.get("nodes/a") is None
    document = catalog.put("nodes/a", {"x": [1, {"y": "ü"}]}, expected=ABSENT)
    assert document == catalog.get("nodes/a")
    assert document.value == {"x": [1, {"y": "ü"}]}
    assert document.revision == catalog.revision() == 1


def test_a_write_needs_the_revision_it_has_seen(catalog: Catalog) -> None:
    first = catalog.put("a", {"n": 1}, expected=ABSENT)
    second = catalog.put("a", {"n": 2}, expected=first.revision)
    for expected in (ABSENT, first.revision, second.revision + 1):
        with pytest.raises(WriteConflict):
            catalog.put("a", {"n": 3}, expected=expected)
    with pytest.raises(WriteConflict):
        catalog.put("b", {}, expected=7)
    found = catalog.get("a")
    assert found is not None
    assert found.value == {"n": 2}
    assert catalog.revision() == second.revision


def test_delete_is_compare_and_set_too_and_a_key_can_come_back(catalog: Catalog) -> None:
    document = catalog.put("a", {}, expected=ABSENT)
    with pytest.raises(WriteConflict):
        catalog.delete("a", expected=document.revision + 1)
    catalog.delete("a", expected=document.revision)
    assert catalog.get("a") is None
    for expected in (ABSENT, document.revision):
        with pytest.raises(WriteConflict):
            catalog.delete("a", expected=expected)
    again = catalog.put("a", {"back": True}, expected=ABSENT)
    assert again.revision > document.revision


def test_list_is_by_prefix_and_sorted(catalog: Catalog) -> None:
    for key in ("n/b", "n/a", "m/x", "n/a-2", "nn/a"):
        catalog.put(key, {"k": key}, expected=ABSENT)
    assert [doc.key for doc in catalog.list("n/")] == ["n/a", "n/a-2", "n/b"]
    assert [doc.key for doc in catalog.list("")] == ["m/x", "n/a", "n/a-2", "n/b", "nn/a"]
    assert catalog.list("q/") == ()


def test_changes_tell_the_last_of_each_key_and_deletions(catalog: Catalog) -> None:
    a = catalog.put("j/a", {"n": 1}, expected=ABSENT)
    b = catalog.put("j/b", {"n": 1}, expected=ABSENT)
    catalog.put("k/a", {}, expected=ABSENT)
    mark = catalog.revision()
    assert catalog.changes(mark) == ()
    a = catalog.put("j/a", {"n": 2}, expected=a.revision)
    a = catalog.put("j/a", {"n": 3}, expected=a.revision)
    catalog.delete("j/b", expected=b.revision)
    seen = [(c.key, c.document and c.document.value) for c in catalog.changes(mark, prefix="j/")]
    assert seen == [("j/a", {"n": 3}), ("j/b", None)]
    assert [c.key for c in catalog.changes(0)] == ["k/a", "j/a", "j/b"]


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/..", "a b", "ä", "a" * 600])
def test_a_key_that_is_no_path_of_names_is_refused(catalog: Catalog, key: str) -> None:
    with pytest.raises(ValueError, match="catalog key"):
        catalog.put(key, {}, expected=ABSENT)


def test_what_comes_back_is_not_the_callers_object(catalog: Catalog) -> None:
    value = {"list": [1]}
    catalog.put("a", value, expected=ABSENT)
    value["list"].append(2)
    found = catalog.get("a")
    assert found is not None
    assert found.value == {"list": [1]}


def test_of_many_writers_with_one_revision_one_wins(catalog: Catalog) -> None:
    document = catalog.put("a", {"winner": ""}, expected=ABSENT)
    assert _race(lambda name: catalog.put("a", {"winner": name}, expected=document.revision)) == 1


def test_of_many_processes_one_wins(tmp_path: Path) -> None:
    """Two connections to one file behave as two processes do."""
    path = tmp_path / "catalog.sqlite"
    with SqliteCatalog(path) as one, SqliteCatalog(path) as two:
        one.put("a", {}, expected=ABSENT)
        both = (one, two)
        wins = _race(lambda name: both[int(name) % 2].put("a", {"w": name}, expected=1))
        assert wins == 1
        assert one.get("a") == two.get("a")


def _race(attempt: Callable[[str], object]) -> int:
    wins: list[str] = []
    barrier = threading.Barrier(8)

    def racer(name: str) -> None:
        barrier.wait(10)
        try:
            attempt(name)
        except WriteConflict:
            return
        wins.append(name)

    threads = [threading.Thread(target=racer, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return len(wins)


def test_the_file_is_private_and_keeps_what_was_put(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    with SqliteCatalog(path) as catalog:
        catalog.put("a", {"n": 1}, expected=ABSENT)
        modes = {name.name: name.stat().st_mode & 0o777 for name in tmp_path.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    with SqliteCatalog(path) as catalog:
        found = catalog.get("a")
        assert found is not None
        assert found.value == {"n": 1}


def test_what_is_no_catalog_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(PathUnreadable) as caught:
        SqliteCatalog(path)
    assert isinstance(caught.value, NodectlError)
    assert str(path) in str(caught.value)
