"""One suite over every store, so that the memory store is a verified stand-in for the disk."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from nodectl.errors import FrameMissing, NoSpace
from nodectl.ids import ChunkId, FrameId
from nodectl.store.chain import ChainStore
from nodectl.store.disk import DiskStore
from nodectl.store.memory import MemoryStore
from nodectl.store.model import NO_CHUNK, Store, StoredFrame

OpenStore = Callable[[], Store]


def frame(number: int, size: int = 100) -> StoredFrame:
    sealed = number.to_bytes(4, "little") * (size // 4)
    return StoredFrame(
        FrameId(blake3(sealed).digest()), ChunkId(blake3(b"c" + sealed).digest()), size * 2, sealed
    )


@pytest.fixture(params=["memory", "disk", "chain"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with DiskStore(tmp_path / "store") as disk:
        if request.param == "chain":
            first = MemoryStore()
            first.put_many([frame(10_000)])
            yield ChainStore(first, disk)
        else:
            yield disk


def test_what_was_put_is_got(store: Store) -> None:
    frames = [frame(number) for number in range(10)]
    store.put_many(frames)
    for one in frames:
        assert store.get(one.frame_id) == one.sealed


def test_missing_keeps_order_and_names_each_once(store: Store) -> None:
    a, b, c = frame(1), frame(2), frame(3)
    store.put_many([b])
    asked = [c.frame_id, a.frame_id, b.frame_id, c.frame_id]
    assert store.missing(asked) == [c.frame_id, a.frame_id]


def test_get_many_keeps_the_order_asked(store: Store) -> None:
    frames = [frame(number, size) for number, size in enumerate((100, 5_000, 60_000, 100, 1 << 20))]
    store.put_many(frames)
    asked = [frames[i].frame_id for i in (4, 0, 1, 2, 3, 0)]
    assert list(store.get_many(asked)) == [frames[i].sealed for i in (4, 0, 1, 2, 3, 0)]


def test_get_of_an_absent_frame_is_refused_before_the_first_byte(store: Store) -> None:
    store.put_many([frame(1)])
    with pytest.raises(FrameMissing):
        store.get(frame(2).frame_id)
    with pytest.raises(FrameMissing):
        store.get_many([frame(1).frame_id, frame(2).frame_id])


def test_putting_twice_stores_once(store: Store) -> None:
    store.put_many([frame(1), frame(1)])
    store.put_many([frame(1), frame(2)])
    statistics = store.statistics()
    assert (statistics.frames, statistics.sealed_bytes) == (2, 200)


def test_an_empty_batch_is_nothing(store: Store) -> None:
    store.put_many([])
    assert store.statistics().frames == 0
    assert list(store.get_many([])) == []


def test_threads_may_share_it(store: Store) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 30):
                store.put_many([frame(number)])
                assert store.get(frame(number).frame_id) == frame(number).sealed
        except BaseException as exc:  # noqa: BLE001 - reported by the test
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 20, 40, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.statistics().frames == 90


# From here on: what only a disk can lose.


def test_reopened_it_holds_the_same(tmp_path: Path) -> None:
    frames = [frame(number) for number in range(5)]
    with DiskStore(tmp_path) as store:
        store.put_many(frames)
    with DiskStore(tmp_path) as store:
        assert [store.get(one.frame_id) for one in frames] == [one.sealed for one in frames]
        assert store.index.find_chunk(frames[3].chunk_id) is not None


@pytest.mark.parametrize("damage", ["absent", "garbage", "empty"])
def test_the_index_is_made_again_from_the_packs(tmp_path: Path, damage: str) -> None:
    frames = [frame(number, 400) for number in range(50)]
    with DiskStore(tmp_path) as store:
        store.put_many(frames)
        rows = list(store.index.rows())
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    if damage == "garbage":
        (tmp_path / "index.sqlite").write_bytes(b"no database" * 1000)
    elif damage == "empty":
        (tmp_path / "index.sqlite").write_bytes(b"")
    with DiskStore(tmp_path) as store:
        assert list(store.index.rows()) == rows
        assert list(store.get_many([one.frame_id for one in frames])) == [f.sealed for f in frames]


def test_a_torn_tail_is_cut_and_the_rest_stands(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_many([frame(1), frame(2)])
    (pack,) = (tmp_path / "packs").iterdir()
    whole = pack.read_bytes()
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    for cut in range(len(whole) - 1, len(whole) - 100, -7):
        pack.write_bytes(whole[:cut])
        with DiskStore(tmp_path) as store:
            assert store.get(frame(1).frame_id) == frame(1).sealed
            assert store.missing([frame(2).frame_id]) == [frame(2).frame_id]
        for path in tmp_path.glob("index.sqlite*"):
            path.unlink()


def test_a_flipped_byte_in_an_unindexed_record_is_not_taken_in(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_many([frame(1), frame(2)])
    (pack,) = (tmp_path / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    with DiskStore(tmp_path) as store:
        assert store.missing([frame(1).frame_id, frame(2).frame_id]) == [frame(2).frame_id]


def test_a_pack_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_many([frame(1)])
    (pack,) = (tmp_path / "packs").iterdir()
    pack.unlink()
    with DiskStore(tmp_path) as store:
        assert store.missing([frame(1).frame_id]) == [frame(1).frame_id]
        store.put_many([frame(1)])
        assert store.get(frame(1).frame_id) == frame(1).sealed


def test_a_pack_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as writer:
        writer.put_many([frame(1)])
        (pack,) = (tmp_path / "packs").iterdir()
        size = pack.stat().st_size
        with pack.open("ab") as file:
            file.write(b"half a rec")
        with DiskStore(tmp_path) as reader:
            assert reader.get(frame(1).frame_id) == frame(1).sealed
            assert pack.stat().st_size == size + 10


def test_packs_end_at_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodectl.store.packs.PACK_MAX", 10_000)
    frames = [frame(number, 4_000) for number in range(10)]
    with DiskStore(tmp_path) as store:
        store.put_many(frames)
        assert store.statistics().packs == 4
        assert list(store.get_many([one.frame_id for one in frames])) == [f.sealed for f in frames]


WRITER = """
import sys
from pathlib import Path
from blake3 import blake3
from nodectl.ids import ChunkId, FrameId
from nodectl.store.chain import ChainStore
from nodectl.store.disk import DiskStore
from nodectl.store.model import StoredFrame

store = DiskStore(Path(sys.argv[1]))
number = 0
while True:
    batch = []
    for _ in range(20):
        sealed = number.to_bytes(8, "little") * 512
        batch.append(StoredFrame(FrameId(blake3(sealed).digest()), ChunkId(bytes(32)), 1, sealed))
        number += 1
    store.put_many(batch)
    print(number, flush=True)
"""


def test_kill_9_loses_no_acknowledged_frame(tmp_path: Path) -> None:
    for acknowledgements in (1, 3, 10, 25):
        folder = tmp_path / str(acknowledgements)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, cwd=Path.cwd()
        )
        assert process.stdout is not None
        acknowledged = 0
        for _ in range(acknowledgements):
            acknowledged = int(process.stdout.readline())
        process.kill()
        process.communicate()
        with DiskStore(folder) as store:
            ids = [
                FrameId(blake3(number.to_bytes(8, "little") * 512).digest())
                for number in range(acknowledged)
            ]
            assert store.missing(ids) == []
            for frame_id in ids:
                assert blake3(store.get(frame_id)).digest() == frame_id


@pytest.mark.root
def test_a_full_disk_leaves_the_store_whole(tmp_path: Path) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)], check=True, timeout=10
    )
    try:
        with DiskStore(tmp_path / "store") as store:
            store.put_many([frame(1, 500_000)])
            with pytest.raises(NoSpace, match="no space left"):
                store.put_many([frame(number, 800_000) for number in range(2, 10)])
            assert store.get(frame(1, 500_000).frame_id)
            store.put_many([frame(20, 100_000)])
        with DiskStore(tmp_path / "store") as store:
            assert store.missing([frame(1, 500_000).frame_id, frame(20, 100_000).frame_id]) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def test_root_blocks_are_kept_like_frames(store: Store) -> None:
    block = b"root block" * 50
    root = FrameId(blake3(block).digest())
    store.put_many([StoredFrame(root, NO_CHUNK, len(block), block)])
    assert store.get(root) == block


def test_a_chain_reads_from_whichever_has_it_and_writes_to_the_last() -> None:
    first, last = MemoryStore(), MemoryStore()
    first.put_many([frame(1)])
    chain = ChainStore(first, last)
    chain.put_many([frame(1), frame(2)])
    assert last.missing([frame(1).frame_id, frame(2).frame_id]) == [frame(1).frame_id]
    both = [frame(2).frame_id, frame(1).frame_id]
    assert list(chain.get_many(both)) == [frame(2).sealed, frame(1).sealed]


def test_an_index_from_before_a_repair_does_not_bring_the_damage_back(tmp_path: Path) -> None:
    """A power cut sets the index back to when it named a copy that has rotted since."""
    folder = tmp_path / "s"
    with DiskStore(folder) as store:
        store.put_many([frame(1), frame(2)])
        (row,) = store.index.find_many([frame(1).frame_id]).values()
    older = (folder / "index.sqlite").read_bytes()
    with (folder / "packs" / f"{row.pack}.pack").open("r+b") as file:
        file.seek(row.offset)
        file.write(bytes([frame(1).sealed[0] ^ 1]))
    with DiskStore(folder) as store:
        store.index.drop([row])  # as a scrub does that dies right after
        store.put_many([frame(1)])
        assert store.get(frame(1).frame_id) == frame(1).sealed
    (folder / "index.sqlite").write_bytes(older)
    with DiskStore(folder) as store:
        assert store.get(frame(1).frame_id) == frame(1).sealed
