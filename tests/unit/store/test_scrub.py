"""scrub: every flipped bit is found, what is bad is taken out, and a pass can be stopped.

`NODECTL_FLIPS_EVERY=1` tries every bit of a pack, without it a sample of them is tried.
"""

import os
import shutil
from pathlib import Path

import pytest
from small_frames import frame, ids

from nodectl.ids import FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.packs import PACK_HEADER
from nodectl.store.scrub import Pacing, ScrubState, last_scrub, scrub

EVERY = int(os.environ.get("NODECTL_FLIPS_EVERY", "0"))
FAST = Pacing(rate=0, now=lambda: 5.0, monotonic=lambda: 0.0, pause=lambda _: None)


def _fill(folder: Path, *numbers: int) -> Path:
    with DiskStore(folder) as store:
        store.put_many([frame(number, 40) for number in numbers])
    (pack,) = (folder / "packs").iterdir()
    return pack


def _scrub(folder: Path) -> ScrubState:
    with DiskStore(folder) as store:
        return scrub(store, FAST)


def test_a_sound_store_is_found_sound(tmp_path: Path) -> None:
    pack = _fill(tmp_path, 1, 2, 3)
    state = _scrub(tmp_path)
    assert (state.frames, state.packs, state.damaged, state.rewritten) == (3, 1, (), 0)
    assert state.checked_bytes == pack.stat().st_size
    assert last_scrub(tmp_path) == state


def test_every_flipped_bit_in_a_pack_is_found_and_nothing_good_is_lost(tmp_path: Path) -> None:
    whole = _fill(tmp_path / "one", 1, 2).read_bytes()
    bits = range(len(whole) * 8)
    # Of the pack's and the first record's header more than of all others.
    tried = bits if EVERY == 1 else (*bits[: 84 * 8 : 25], *bits[84 * 8 :: 73])
    for at in tried:
        folder = tmp_path / "damaged"
        pack = _fill(folder, 1, 2)
        data = bytearray(pack.read_bytes())
        data[at // 8] ^= 1 << at % 8
        pack.write_bytes(data)
        with DiskStore(folder) as store:
            state = scrub(store, FAST)
            assert state.rewritten == 1, at
            here = [frame(n, 40) for n in (1, 2) if not store.missing([frame(n, 40).frame_id])]
            assert len(here) + len(state.damaged) == 2
            assert len(here) >= 1
            assert [store.get(one.frame_id) for one in here] == [one.sealed for one in here]
            rows = [(row.frame_id, row.chunk_id, row.plain_len) for row in store.index.rows()]
        for path in folder.glob("index.sqlite*"):
            path.unlink()
        with DiskStore(folder) as store:  # made again, the index says the same
            again = [(row.frame_id, row.chunk_id, row.plain_len) for row in store.index.rows()]
            assert again == rows
        shutil.rmtree(folder)


@pytest.mark.parametrize("cut", [1, 50, 120, 200])
def test_a_pack_cut_short_loses_only_what_was_cut(tmp_path: Path, cut: int) -> None:
    pack = _fill(tmp_path, 1, 2, 3)
    with DiskStore(tmp_path) as store:
        pack.write_bytes(pack.read_bytes()[:-cut])
        state = scrub(store, FAST)
        lost = store.missing(frame(n, 40).frame_id for n in (1, 2, 3))
        assert lost == [FrameId(bytes.fromhex(one)) for one in state.damaged] or set(
            state.damaged
        ) == {one.hex() for one in lost}
        assert 1 <= len(lost) <= 2
        assert store.get(frame(1, 40).frame_id) == frame(1, 40).sealed


def test_a_damaged_pack_of_a_living_writer_loses_only_the_bad_frame(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as writer:
        writer.put_many([frame(1), frame(2)])
        (pack,) = (tmp_path / "packs").iterdir()
        with pack.open("r+b") as file:
            file.seek(200)
            file.write(b"\xff")
        with DiskStore(tmp_path) as other:
            state = scrub(other, FAST)
        assert state.damaged == (frame(1).frame_id.hex(),)
        assert state.rewritten == 0
        assert writer.missing(ids(1, 2)) == ids(1)
        writer.put_many([frame(1)])
        assert writer.get(frame(1).frame_id) == frame(1).sealed
    assert _scrub(tmp_path).rewritten == 1  # nobody writes to it any more
    with DiskStore(tmp_path) as store:
        assert store.missing(ids(1, 2)) == []


def test_a_pass_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodectl.store.packs.PACK_MAX", 4_000)
    with DiskStore(tmp_path) as store:
        store.put_many([frame(number) for number in range(12)])

        class Stop(Exception):
            pass

        waits: list[float] = []

        def pause(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 6:
                raise Stop

        slow = Pacing(rate=1076, now=lambda: 1.0, monotonic=lambda: 0.0, pause=pause)
        with pytest.raises(Stop):
            scrub(store, slow)
        assert waits == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]  # the rate is kept
        stopped = last_scrub(tmp_path)
        assert stopped is not None
        assert (stopped.packs, stopped.ended) == (1, 0)
        done = scrub(store, FAST)
        assert (done.packs, done.frames, done.began, done.ended) == (3, 12, 1.0, 5.0)


@pytest.mark.parametrize(
    "change",
    ["sealed_len = 9", "plain_len = 9", "offset = 90", "pack = 'none'", "proof = x'00'"],
)
def test_what_a_damaged_row_of_the_index_hid_is_taken_from_the_pack(
    tmp_path: Path, change: str
) -> None:
    _fill(tmp_path, 1, 2, 3)
    with DiskStore(tmp_path) as store:
        with store.index.transaction() as connection:
            connection.execute(f"UPDATE frames SET {change} WHERE frame_id = ?", ids40(2))
        state = scrub(store, FAST)
        assert (state.damaged, store.missing([frame(n, 40).frame_id for n in (1, 2, 3)])) == (
            (),
            [],
        )
        for number in (1, 2, 3):
            assert store.get(frame(number, 40).frame_id) == frame(number, 40).sealed
        assert {row.plain_len for row in store.index.rows()} == {frame(1, 40).plain_len}


def test_of_row_and_header_the_row_is_right(tmp_path: Path) -> None:
    pack = _fill(tmp_path, 1, 2)
    data = bytearray(pack.read_bytes())
    data[len(PACK_HEADER) + 8] ^= 1  # the plain length in the first header
    pack.write_bytes(data)
    state = _scrub(tmp_path)
    assert (state.damaged, state.rewritten) == ((), 1)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    with DiskStore(tmp_path) as store:
        lengths = {row.frame_id: row.plain_len for row in store.index.rows()}
    assert lengths == {frame(n, 40).frame_id: frame(n, 40).plain_len for n in (1, 2)}


def ids40(number: int) -> tuple[FrameId]:
    return (frame(number, 40).frame_id,)
