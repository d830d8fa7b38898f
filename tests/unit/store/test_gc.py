"""gc: what it deletes, what it spares, and for whom it waits."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_frames import frame, ids

from nodectl.errors import StoreBusy
from nodectl.store.disk import DiskStore
from nodectl.store.gc import GcOptions, _alone, collect, last_gc, plan_gc
from nodectl.store.lease import lease, living_leases

NOW = GcOptions(grace_s=-10.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskStore]:
    monkeypatch.setattr("nodectl.store.packs.PACK_MAX", 4_000)  # four frames of the default size
    with DiskStore(tmp_path / "store") as one:
        one.put_many([frame(number) for number in range(12)])
        yield one


def test_dead_packs_go_and_mostly_dead_ones_are_copied(store: DiskStore) -> None:
    needed = ids(0, 1, 2, 4)  # of three packs of four: three of the first, one of the second
    report = collect(store, lambda: needed, NOW)
    assert (report.deleted_packs, report.waits_for, report.damaged) == (2, (), ())
    assert store.missing(ids(*range(12))) == ids(*range(5, 12))
    assert list(store.get_many(needed)) == [frame(n).sealed for n in (0, 1, 2, 4)]
    assert report.freed_bytes > 5_000
    assert report.plan.thin_bytes > 1_000
    assert last_gc(store.folder)["deleted_packs"] == 2
    assert store.missing(ids(3)) == []  # among what is needed: not worth the copying


def test_a_plan_changes_nothing_and_says_what_a_run_does(store: DiskStore) -> None:
    plan = plan_gc(store, lambda: ids(0, 1, 2, 4), NOW)
    assert store.missing(ids(*range(12))) == []
    assert collect(store, lambda: ids(0, 1, 2, 4), NOW).plan == plan


def test_what_is_young_or_being_written_is_spared(store: DiskStore) -> None:
    assert collect(store, list, GcOptions(grace_s=3600)).deleted_packs == 0
    store.put_many([frame(50)])  # its pack is open
    assert collect(store, list, NOW).deleted_packs == 3
    assert store.missing(ids(50)) == []


def test_work_under_way_is_waited_for(store: DiskStore) -> None:
    """A capture finds frames that nothing needs any more, gc comes by, and then it ends."""
    with lease(store.folder):
        assert store.missing(ids(7)) == []  # the capture relies on it
        first = collect(store, list, NOW)
        assert (len(first.waits_for), first.deleted_packs) == (1, 0)
        second = collect(store, list, NOW)
        assert (len(second.waits_for), second.deleted_packs) == (1, 0)
    third = collect(store, lambda: ids(7), NOW)
    assert (third.waits_for, third.deleted_packs) == ((), 3)
    assert store.missing(ids(6, 7)) == ids(6)


def test_work_that_began_after_the_condemning_saves_what_it_asks_for(store: DiskStore) -> None:
    with lease(store.folder):
        collect(store, list, NOW)
        with lease(store.folder):
            assert store.index.find_chunk(frame(7).chunk_id) is not None
    report = collect(store, lambda: ids(7), NOW)
    assert report.deleted_packs == 3
    assert store.get(frame(7).frame_id) == frame(7).sealed


def test_a_reader_meets_a_pack_that_has_just_gone(store: DiskStore) -> None:
    with DiskStore(store.folder) as other:
        assert other.get(frame(4).frame_id)  # its pack is open here
        reading = other.get_many(ids(4, 5))
        collect(store, lambda: ids(4), NOW)
        assert list(reading) == [frame(4).sealed, frame(5).sealed]
        assert other.get(frame(4).frame_id) == frame(4).sealed
        other.let_go()
        targets = [str(entry.readlink()) for entry in _open_files() if entry.is_symlink()]
        assert [name for name in targets if name.endswith(".pack (deleted)")] == []


def _open_files() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def test_a_damaged_frame_is_not_copied_as_a_good_one(store: DiskStore) -> None:
    row = store.index.find(frame(4).frame_id)
    assert row is not None
    with (store.packs / f"{row.pack}.pack").open("r+b") as file:
        file.seek(row.offset + 10)
        file.write(b"\xff")
    report = collect(store, lambda: ids(4, 5), NOW)
    assert report.damaged == (frame(4).frame_id.hex(),)
    assert store.missing(ids(4, 5)) == ids(4)


def test_two_at_once_are_refused(store: DiskStore) -> None:
    with _alone(store.folder), pytest.raises(StoreBusy, match="another gc"):
        collect(store, list, NOW)


def test_leases_live_as_long_as_their_holder(tmp_path: Path) -> None:
    with lease(tmp_path):
        (name,) = living_leases(tmp_path)
        assert name.startswith(f"{os.getpid()}-")
    assert living_leases(tmp_path) == ()
    dead = tmp_path / "leases" / "1-aa"
    dead.write_bytes(b"")
    assert living_leases(tmp_path) == ()
    assert not dead.exists()
