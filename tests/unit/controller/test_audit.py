import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nodectl.catalog.memory import MemoryCatalog
from nodectl.controller.audit import HEAD_KEY, Audit, Head
from nodectl.errors import AuditBroken

KEY = b"k" * 32
Lines = list[bytes]


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "audit.log", KEY, MemoryCatalog(), lambda: 1000.0)


def _fill(audit: Audit, count: int = 4) -> None:
    for number in range(count):
        audit.note("job", f"n{number}", who="c", address="10.0.0.1", details={"n": number})


def test_what_was_done_is_there_and_whole(audit: Audit, tmp_path: Path) -> None:
    assert audit.verify() == Head(seq=0, seal=bytes(32))
    _fill(audit)
    first, *_, last = audit.entries()
    assert (first["who"], first["from"], first["what"], first["whom"]) == (
        "c",
        "10.0.0.1",
        "job",
        "n0",
    )
    assert (first["at"], first["details"]) == (1000, {"n": 0})
    assert audit.verify() == Head(seq=4, seal=bytes.fromhex(last["seal"]))
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def _changed(lines: Lines) -> Lines:
    return [lines[0], lines[1].replace(b'"c"', b'"d"'), *lines[2:]]


def _sealed_again_without_the_key(lines: Lines) -> Lines:
    entry = {**json.loads(lines[3]), "who": "d", "seal": "00" * 32}
    return [*lines[:3], json.dumps(entry).encode() + b"\n"]


TAMPERINGS: list[Callable[[Lines], Lines]] = [
    _changed,
    _sealed_again_without_the_key,
    lambda lines: [lines[0], *lines[2:]],
    lambda lines: [lines[1], lines[0], *lines[2:]],
    lambda lines: [lines[0], lines[0], *lines[1:]],
    lambda lines: lines[:3],
    lambda lines: lines[1:],
    lambda _: [],
    lambda lines: [*lines[:3], lines[3][:-10]],
    lambda lines: [b"nonsense\n", *lines[1:]],
    lambda lines: [b"[]\n", *lines[1:]],
]


@pytest.mark.parametrize("tamper", TAMPERINGS)
def test_a_tampered_or_cut_log_is_found(
    audit: Audit, tmp_path: Path, tamper: Callable[[Lines], Lines]
) -> None:
    _fill(audit)
    path = tmp_path / "audit.log"
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(AuditBroken):
        audit.verify()


def test_another_realms_log_is_no_log_of_this_one(tmp_path: Path) -> None:
    _fill(Audit(tmp_path / "audit.log", b"o" * 32, MemoryCatalog(), lambda: 0.0))
    with pytest.raises(AuditBroken, match="changed"):
        list(Audit(tmp_path / "audit.log", KEY, MemoryCatalog(), lambda: 0.0).entries())


def test_a_line_cut_off_by_a_crash_is_written_over(audit: Audit, tmp_path: Path) -> None:
    _fill(audit)
    with (tmp_path / "audit.log").open("ab") as file:
        file.write(b'{"at": 10')
    assert audit.verify().seq == 4
    _fill(audit, 1)
    assert audit.verify().seq == 5


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    catalog = MemoryCatalog()

    def write() -> None:
        _fill(Audit(tmp_path / "audit.log", KEY, catalog, lambda: 0.0), 10)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert Audit(tmp_path / "audit.log", KEY, catalog, lambda: 0.0).verify().seq == 40
    document = catalog.get(HEAD_KEY)
    assert document is not None
    assert document.value["seq"] == 40


def test_a_stranger_cannot_fill_the_log(audit: Audit) -> None:
    for number in range(1000):
        audit.refused("no MAC", path=f"/{number}", address=f"10.0.{number // 250}.{number % 250}")
    for _ in range(100):
        audit.refused("no MAC", path="/", address="10.9.9.9")
    assert 1 < sum(1 for _ in audit.entries()) <= 60


def test_long_details_are_named_by_their_hash(audit: Audit) -> None:
    audit.note("job", "x", who="c", details={"nodes": ["n" * 60] * 20_000})
    (entry,) = audit.entries()
    assert set(entry["details"]) == {"bytes", "blake3"}
