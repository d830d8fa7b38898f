"""The index: all of a transaction or nothing of it, whatever the disk does."""

import os
import sqlite3
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodectl.errors import NoSpace, StoreInvalid
from nodectl.ids import ChunkId, FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.index import Index
from nodectl.store.packs import PackedFrame


def row(number: int, pack: str = "p") -> PackedFrame:
    name = number.to_bytes(32, "little")
    return PackedFrame(FrameId(name), ChunkId(name[::-1]), pack, 100 * number, 50, 60)


def limit_pages(index: Index, more: int) -> None:
    """Let the database grow by `more` pages only: SQLite's own way of a full disk."""
    connection = index._connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + more}")


def test_a_full_disk_is_said_so_and_the_next_transaction_works(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.add_packed([row(1)])
        limit_pages(store.index, 2)
        with pytest.raises(NoSpace, match="no space left"):
            store.add_packed(row(number) for number in range(2, 5000))
        assert [one.frame_id for one in store.index.rows()] == [row(1).frame_id]
        limit_pages(store.index, 10_000)
        store.add_packed([row(2)])
        assert store.index.totals() == (2, 100)


def test_an_error_inside_leaves_nothing_of_a_transaction(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    with pytest.raises(struct.error):
        index.add([row(1), row(2)._replace(plain_len=object())])
    assert list(index.rows()) == []
    index.add([row(1)])
    assert index.find_many([row(1).frame_id]) == {row(1).frame_id: row(1)}
    assert index.find_chunk(row(1).chunk_id) == row(1)
    assert index.find_chunk(ChunkId(bytes(32))) is None
    index.close()


def test_a_row_that_is_there_is_kept_and_packs_only_grow(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.add([row(1), row(5)])
    index.add([row(1)._replace(pack="q")])
    assert index.find_many([row(1).frame_id]) == {row(1).frame_id: row(1)}
    index.add([row(2)])
    assert index.indexed() == {"p": 550, "q": 150}
    index.forget_pack("p")
    assert (index.indexed(), index.totals()) == ({"q": 150}, (0, 0))
    index.close()


def test_after_close_and_after_a_fork_it_opens_again(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.add([row(1)])
    index.close()
    assert index.totals() == (1, 50)
    pid = os.fork()
    if not pid:
        index.add([row(2)])
        os._exit(0 if index.totals() == (2, 100) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert index.totals() == (2, 100)
    index.close()


def test_an_index_of_another_version_is_made_again(tmp_path: Path) -> None:
    Index(tmp_path / "index.sqlite").close()
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with DiskStore(tmp_path) as store:
        assert store.index.totals() == (0, 0)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreInvalid, match="cannot use"):
        DiskStore(tmp_path / "file" / "store")
    (tmp_path / "index.sqlite").mkdir()
    with pytest.raises(StoreInvalid, match="index"):
        DiskStore(tmp_path)


def test_threads_that_ended_leave_no_file_open(tmp_path: Path) -> None:
    """Each fetch has threads of its own; a node that fetches for years keeps none of them."""
    with DiskStore(tmp_path) as store:
        store.add_packed([row(1)])
        opened = []
        for _ in range(20):
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(store.index.find, [row(1).frame_id] * 4))
            opened.append(len(list(Path("/proc/self/fd").iterdir())))
        assert max(opened) <= min(opened) + 6, opened  # of one pool or of two threads
