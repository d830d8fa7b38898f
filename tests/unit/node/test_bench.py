"""What a machine can do: every figure is there, nothing stays, and the advice names the slowest."""

import dataclasses
from pathlib import Path

import pytest

from nodectl.errors import NoSpace, PathMissing
from nodectl.events import NullObserver
from nodectl.node.bench import BenchOptions, BenchResult, _links, advice, run_bench

GB = 10**9
RESULT = BenchResult(
    cores=2,
    hash_one=4.0 * GB,
    hash_all=8.0 * GB,
    compress_one=0.2 * GB,
    seal_one=0.15 * GB,
    seal_all=0.3 * GB,
    open_one=1.0 * GB,
    open_all=2.0 * GB,
    disk_write=0.1 * GB,
    disk_read=0.5 * GB,
    disk_sync_ms=0.5,
    loopback=2.0 * GB,
    links={},
    folder="/var/tmp",
)


def test_every_figure_is_there_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodectl.node.bench._DISK_BYTES", 32 << 20)
    monkeypatch.setattr("nodectl.node.bench._DISK_LEAST", 16 << 20)
    result = run_bench(BenchOptions(folder=tmp_path, seconds=0.01), NullObserver())
    for name, value in result.to_json().items():
        if name not in {"links", "folder"}:
            assert value > 0, name
    assert result.folder == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_not_there_or_too_small_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PathMissing, match="no directory"):
        run_bench(BenchOptions(folder=tmp_path / "none"), NullObserver())
    monkeypatch.setattr("nodectl.node.bench._DISK_LEAST", 1 << 60)
    with pytest.raises(NoSpace, match="free"):
        run_bench(BenchOptions(folder=tmp_path), NullObserver())


def test_the_advice_names_what_is_slowest() -> None:
    capture, restore, network = advice(RESULT)
    assert capture == "a capture here is bound by sealing on 2 cores, 286 MiB/s"
    assert restore == "a restore here is bound by its disk, writing 95.4 MiB/s"
    assert "more than 0.8 Gbit/s" in network
    quick_disk = dataclasses.replace(RESULT, disk_write=9.0 * GB, disk_read=0.1 * GB)
    capture, restore, _ = advice(quick_disk)
    assert "its disk, reading 95.4 MiB/s" in capture
    assert "opening frames on 2 cores" in restore


@pytest.mark.parametrize(("bits", "which"), [(10**8, "the network"), (10**10, "this machine")])
def test_the_advice_compares_with_the_network_card(bits: int, which: str) -> None:
    *_, line = advice(dataclasses.replace(RESULT, links={"eth0": bits}))
    assert line.startswith("of eth0 (")
    assert line.endswith(f"this machine, {which} is the slower")


def test_only_cards_that_are_up_count(tmp_path: Path) -> None:
    for name, speed, state in (
        ("eth0", "10000", "up"),
        ("eth1", "1000", "down"),
        ("tap0", "-1", "up"),
        ("lo", None, "unknown"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(state + "\n")
        if speed is not None:
            (tmp_path / name / "speed").write_text(speed + "\n")
    assert _links(tmp_path) == {"eth0": 10**10}
