"""The index of a store: SQLite beside the packs, which can be thrown away and made again.

Rows of frames and, in the same transaction, how far each pack is indexed. The packs are the truth:
opening a store compares sizes and scans what the index does not know.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nodectl.ids import ChunkId, FrameId
from nodectl.store.packs import PackedFrame

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE frames (
    frame_id BLOB PRIMARY KEY, chunk_id BLOB NOT NULL, pack TEXT NOT NULL,
    offset INTEGER NOT NULL, sealed_len INTEGER NOT NULL, plain_len INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX frames_by_chunk ON frames (chunk_id);
CREATE TABLE packs (pack TEXT PRIMARY KEY, indexed INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE removals (count INTEGER NOT NULL);
INSERT INTO removals VALUES (abs(random() / 2));
"""
_BUSY_TIMEOUT_S = 60.0
_PARAMETERS = 500  # of one query; SQLite takes 32,766, more than a few hundred gain nothing
_COLUMNS = "frame_id, chunk_id, pack, offset, sealed_len, plain_len"


_open_indexes: "weakref.WeakSet[Index]" = weakref.WeakSet()


def _close_before_fork() -> None:
    # A connection of SQLite must not be carried over a fork; each side opens its own again.
    for index in list(_open_indexes):
        index.close()


os.register_at_fork(before=_close_before_fork)


# The second: no room for the 32 KiB that processes share (the -shm file).
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def is_full(error: sqlite3.Error) -> bool:
    """Say whether SQLite found the file system full."""
    return getattr(error, "sqlite_errorcode", None) in _FULL


class Index:
    """Rows of frames; each thread has its own connection."""

    def __init__(self, path: Path) -> None:
        """Open or make the index file; `sqlite3.DatabaseError` if it is damaged."""
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        _open_indexes.add(self)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Closed by `close` from whichever thread; each is used by its own thread alone.
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            with self._lock:
                self._connections.append(connection)
            # NORMAL never corrupts, and a transaction that a power cut loses is found again in the
            # packs. The cache is small because a node has many other uses for its memory.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -8192")
            self._local.connection = connection
        return connection

    def _prepare(self) -> None:
        self._connection().execute("PRAGMA journal_mode = WAL")
        with self._transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"index version {version} is not known")
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Write under the lock from the first statement on: all of it counts, or nothing."""
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled it back already
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close every connection; the next use opens one again."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    def add(self, frames: Iterable[PackedFrame]) -> None:
        """Add rows (one that is there is kept) and how far their packs are indexed."""
        rows = list(frames)
        ends: dict[str, int] = {}
        for row in rows:
            ends[row.pack] = max(ends.get(row.pack, 0), row.offset + row.sealed_len)
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT OR IGNORE INTO frames ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows
            )
            connection.executemany(
                "INSERT INTO packs (pack, indexed) VALUES (?, ?) ON CONFLICT (pack)"
                " DO UPDATE SET indexed = max(indexed, excluded.indexed)",
                ends.items(),
            )

    def find_many(self, frame_ids: Sequence[FrameId]) -> dict[FrameId, PackedFrame]:
        """Return where those of `frame_ids` stand that are here; one query for many of them."""
        found = (PackedFrame._make(row) for row in self._select(_COLUMNS, frame_ids))
        return {frame.frame_id: frame for frame in found}

    def absent(self, frame_ids: Sequence[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are not here, in their order."""
        present = {frame_id for (frame_id,) in self._select("frame_id", frame_ids)}
        return [frame_id for frame_id in frame_ids if frame_id not in present]

    def _select(self, columns: str, frame_ids: Sequence[FrameId]) -> Iterator[tuple[Any, ...]]:
        execute = self._connection().execute
        for first in range(0, len(frame_ids), _PARAMETERS):
            batch = frame_ids[first : first + _PARAMETERS]
            marks = ",".join("?" * len(batch))
            yield from execute(f"SELECT {columns} FROM frames WHERE frame_id IN ({marks})", batch)

    def find_chunk(self, chunk_id: ChunkId) -> PackedFrame | None:
        """Return where some frame of a chunk stands (there may be more than one level of zstd)."""
        row = (
            self._connection()
            .execute(f"SELECT {_COLUMNS} FROM frames WHERE chunk_id = ? LIMIT 1", (chunk_id,))
            .fetchone()
        )
        return None if row is None else PackedFrame(*row)

    def indexed(self) -> dict[str, int]:
        """Return how far (bytes) each pack is indexed."""
        return dict(self._connection().execute("SELECT pack, indexed FROM packs"))

    def forget_pack(self, pack: str) -> None:
        """Remove a pack that is gone, with its rows."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM frames WHERE pack = ?", (pack,))
            connection.execute("DELETE FROM packs WHERE pack = ?", (pack,))
            connection.execute("UPDATE removals SET count = count + 1")

    def removals(self) -> int:
        """Return a number that changes whenever frames are taken out, or the index is made anew."""
        (count,) = self._connection().execute("SELECT count FROM removals").fetchone()
        return int(count)

    def totals(self) -> tuple[int, int]:
        """Return the number of frames and their sealed bytes."""
        count, size = (
            self._connection()
            .execute("SELECT count(*), coalesce(sum(sealed_len), 0) FROM frames")
            .fetchone()
        )
        return count, size

    def rows(self) -> Iterator[PackedFrame]:
        """Yield all rows, by FrameId."""
        cursor = self._connection().execute(f"SELECT {_COLUMNS} FROM frames ORDER BY frame_id")
        return (PackedFrame(*row) for row in cursor)
