"""The index of a store: SQLite beside the packs, which can be thrown away and made again.

Rows of frames and, in the same transaction, how far each pack is indexed. The packs are the truth:
opening a store compares sizes and scans what the index does not know.

A frame that gc wants to delete is *condemned* first: its row moves into a table of its own. It is
still here for whoever asks, but asking moves the row back: who relies on a frame saves it. What
that protects against is told in gc.py.
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
from nodectl.store.damage import telling
from nodectl.store.marking import Marking
from nodectl.store.packs import PackedFrame
from nodectl.store.rows import COLUMNS, VALUES, checked, is_true, proof_of, row_of

# One step for each version: an index of an older one is brought up, not made again.
_SCHEMAS = (
    """
CREATE TABLE frames (
    frame_id BLOB PRIMARY KEY, chunk_id BLOB NOT NULL, pack TEXT NOT NULL,
    offset INTEGER NOT NULL, sealed_len INTEGER NOT NULL, plain_len INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX frames_by_chunk ON frames (chunk_id);
CREATE TABLE packs (pack TEXT PRIMARY KEY, indexed INTEGER NOT NULL) WITHOUT ROWID;
""",
    """
CREATE TABLE IF NOT EXISTS removals (count INTEGER NOT NULL);
INSERT INTO removals VALUES (abs(random() / 2));
""",
    """
CREATE INDEX frames_by_pack ON frames (pack);
CREATE TABLE condemned (
    frame_id BLOB PRIMARY KEY, chunk_id BLOB NOT NULL, pack TEXT NOT NULL,
    offset INTEGER NOT NULL, sealed_len INTEGER NOT NULL, plain_len INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX condemned_by_chunk ON condemned (chunk_id);
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
    """
ALTER TABLE frames ADD COLUMN proof BLOB NOT NULL DEFAULT x'';
UPDATE frames SET proof = proof_of(frame_id, chunk_id, pack, offset, sealed_len, plain_len);
ALTER TABLE condemned ADD COLUMN proof BLOB NOT NULL DEFAULT x'';
UPDATE condemned SET proof = proof_of(frame_id, chunk_id, pack, offset, sealed_len, plain_len);
""",
)
# At random, not counted: a power cut may set the index back, and no number may come twice.
_REMOVED = "UPDATE removals SET count = abs(random() / 2)"
_BUSY_TIMEOUT_S = 60.0
_ROWS_AT_ONCE = 1000
_PARAMETERS = 500  # of one query; SQLite takes 32,766, more than a few hundred gain nothing


_open_indexes: "weakref.WeakSet[Index]" = weakref.WeakSet()


def _close_before_fork() -> None:
    # A connection of SQLite must not be carried over a fork; each side opens its own again.
    for index in list(_open_indexes):
        index.close()


os.register_at_fork(before=_close_before_fork)


class Index:
    """Rows of frames; each thread has its own connection."""

    def __init__(self, path: Path) -> None:
        """Open or make the index file; `sqlite3.DatabaseError` if it is damaged."""
        self.path = path
        self._local = threading.local()
        self._connections: dict[threading.Thread, sqlite3.Connection] = {}
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
                self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            with self._lock:
                self._close_of_ended_threads()
                self._connections[threading.current_thread()] = connection
            # NORMAL never corrupts, and a transaction that a power cut loses is found again in the
            # packs. The cache is small because a node has many other uses for its memory.
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -8192")
            self._local.connection = connection
        return connection

    def _close_of_ended_threads(self) -> None:
        """Close what nobody can use any more: each fetch of a swarm has threads of its own."""
        for thread in [one for one in self._connections if not one.is_alive()]:
            self._connections.pop(thread).close()

    def _prepare(self) -> None:
        self._connection().execute("PRAGMA journal_mode = WAL")
        self._connection().create_function("proof_of", 6, proof_of, deterministic=True)
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(_SCHEMAS):
                raise sqlite3.DatabaseError(f"index version {version} is not known")
            for schema in _SCHEMAS[version:]:
                for statement in schema.split(";"):
                    connection.execute(statement)
            if version < len(_SCHEMAS):
                connection.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
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
            for connection in self._connections.values():
                connection.close()
            self._connections.clear()
        self._local = threading.local()

    @telling
    def add(
        self, frames: Iterable[PackedFrame], *, advance: bool = True, just_read: bool = False
    ) -> None:
        """Add rows and, to `advance`, how far packs are indexed.

        A row that is there is kept, unless the frames were `just_read` and found right: nobody
        stores a frame again but when its first copy is lost, and a power cut may bring back an
        index that knows nothing of that.
        """
        rows = list(frames)
        ends: dict[str, int] = {}
        for row in rows if advance else ():
            ends[row.pack] = max(ends.get(row.pack, 0), row.offset + row.sealed_len)
        with self.transaction() as connection:
            how = "REPLACE" if just_read else "IGNORE"
            connection.executemany(
                f"INSERT OR {how} INTO frames ({COLUMNS}) VALUES ({VALUES})", map(row_of, rows)
            )
            connection.executemany(
                "INSERT INTO packs (pack, indexed) VALUES (?, ?) ON CONFLICT (pack)"
                " DO UPDATE SET indexed = max(indexed, excluded.indexed)",
                ends.items(),
            )

    @telling
    def find(self, frame_id: FrameId) -> PackedFrame | None:
        """Return where a frame stands; a condemned one is saved by asking for it."""
        return self._find("frame_id", frame_id)

    @telling
    def find_many(self, frame_ids: Sequence[FrameId]) -> dict[FrameId, PackedFrame]:
        """Return where those of `frame_ids` stand that are here; one query for many of them."""
        rows = self._select(COLUMNS, "frames", frame_ids)
        places = {row[0]: checked(row) for row in rows}
        saved = self._saved([one for one in frame_ids if one not in places])
        rows = self._select(COLUMNS, "frames", saved)
        return places | {row[0]: checked(row) for row in rows}

    @telling
    def absent(self, frame_ids: Sequence[FrameId]) -> list[FrameId]:
        """Return those of `frame_ids` that are not here, in their order."""
        present = {frame_id for (frame_id,) in self._select("frame_id", "frames", frame_ids)}
        absent = [frame_id for frame_id in frame_ids if frame_id not in present]
        saved = set(self._saved(absent))
        return [frame_id for frame_id in absent if frame_id not in saved]

    def _saved(self, frame_ids: Sequence[FrameId]) -> list[FrameId]:
        """Save those of `frame_ids` that are condemned, and return those that are here now."""
        found = [frame_id for (frame_id,) in self._select("frame_id", "condemned", frame_ids)]
        if not found:
            return []
        self.save(found)
        return [frame_id for (frame_id,) in self._select("frame_id", "frames", found)]

    def _select(
        self, columns: str, table: str, frame_ids: Sequence[FrameId]
    ) -> list[tuple[Any, ...]]:
        execute = self._connection().execute
        rows: list[tuple[Any, ...]] = []
        for first in range(0, len(frame_ids), _PARAMETERS):
            batch = frame_ids[first : first + _PARAMETERS]
            marks = ",".join("?" * len(batch))
            query = f"SELECT {columns} FROM {table} WHERE frame_id IN ({marks})"
            rows += execute(query, batch).fetchall()
        return rows

    @telling
    def check(self) -> None:
        """Read all of the index and find it sound in itself; for what deletes on its word.

        Raises:
            StoreInvalid: it is damaged.
        """
        (told,) = self._connection().execute("PRAGMA integrity_check(1)").fetchone()
        if told != "ok":
            raise sqlite3.DatabaseError(str(told).replace("\n", " "))

    @telling
    def check_rows(self) -> None:
        """Look at the proof of every row.

        Raises:
            StoreInvalid: one is not what was written.
        """
        for table in ("frames", "condemned"):
            cursor = self._connection().execute(f"SELECT {COLUMNS} FROM {table}")
            while rows := cursor.fetchmany(_ROWS_AT_ONCE):
                if not all(map(is_true, rows)):
                    raise sqlite3.DatabaseError("it has a row that cannot be")

    @telling
    def unknown(self, frame_ids: Sequence[FrameId]) -> set[FrameId]:
        """Return those of `frame_ids` that are neither here nor condemned; saves nothing."""
        known = {
            row[0]
            for table in ("frames", "condemned")
            for row in self._select("frame_id", table, frame_ids)
        }
        return set(frame_ids) - known

    @telling
    def find_chunk(self, chunk_id: ChunkId) -> PackedFrame | None:
        """Return where some frame of a chunk stands (there may be more than one level of zstd)."""
        return self._find("chunk_id", chunk_id)

    def _find(self, column: str, value: bytes) -> PackedFrame | None:
        connection = self._connection()
        query = f"SELECT {COLUMNS} FROM {{}} WHERE {column} = ? LIMIT 1"
        row = connection.execute(query.format("frames"), (value,)).fetchone()
        if row is not None:
            return checked(row)
        row = connection.execute(query.format("condemned"), (value,)).fetchone()
        if row is None:
            return None
        self.save([row[0]])
        row = connection.execute(query.format("frames"), (value,)).fetchone()
        return None if row is None else checked(row)

    @telling
    def save(self, frame_ids: Iterable[FrameId]) -> None:
        """Take condemned frames back; those that are deleted already stay so."""
        ids = [(frame_id,) for frame_id in frame_ids]
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO frames SELECT * FROM condemned WHERE frame_id = ?", ids
            )
            connection.executemany("DELETE FROM condemned WHERE frame_id = ?", ids)

    @telling
    def condemn(self, frames: Iterable[PackedFrame]) -> None:
        """Move the rows of frames that nothing seems to need to the condemned."""
        keys = [(frame.frame_id, frame.pack) for frame in frames]
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO condemned"
                " SELECT * FROM frames WHERE frame_id = ? AND pack = ?",
                keys,
            )
            connection.executemany("DELETE FROM frames WHERE frame_id = ? AND pack = ?", keys)
            connection.execute("DELETE FROM notes WHERE name = 'waits'")
            connection.execute(_REMOVED)

    @telling
    def drop(self, frames: Iterable[PackedFrame]) -> None:
        """Remove the rows of frames whose bytes are lost: from now on they are missing."""
        keys = [(frame.frame_id, frame.pack) for frame in frames]
        with self.transaction() as connection:
            for table in ("frames", "condemned"):
                connection.executemany(f"DELETE FROM {table} WHERE frame_id = ? AND pack = ?", keys)
            connection.execute(_REMOVED)

    @telling
    def move_pack(
        self, pack: str, to: Iterable[PackedFrame], lost: Iterable[PackedFrame] = ()
    ) -> bool:
        """Let the rows of `pack` point to the copies `to`; forget the pack and all else in it.

        Returns False, and changes nothing, when the pack has got rows beside `to` and `lost`.
        """
        copies = {frame.frame_id: frame for frame in to}
        known = copies.keys() | {frame.frame_id for frame in lost}
        ends: dict[str, int] = {}
        for copy in copies.values():
            ends[copy.pack] = max(ends.get(copy.pack, 0), copy.offset + copy.sealed_len)
        with self.transaction() as connection:
            rows = connection.execute("SELECT frame_id FROM frames WHERE pack = ?", (pack,))
            here = {row[0] for row in rows}
            if not here <= known:
                return False
            for table in ("frames", "condemned", "packs"):
                connection.execute(f"DELETE FROM {table} WHERE pack = ?", (pack,))
            connection.executemany(
                f"INSERT OR IGNORE INTO frames ({COLUMNS}) VALUES ({VALUES})",
                [row_of(copy) for frame_id, copy in copies.items() if frame_id in here],
            )
            connection.executemany("INSERT OR REPLACE INTO packs VALUES (?, ?)", ends.items())
            connection.execute(_REMOVED)
        return True

    @telling
    def drop_untrue(self, pack: str) -> int:
        """Remove the rows of a pack that are not what was written; return how many there were."""
        dropped = 0
        with self.transaction() as connection:
            for table in ("frames", "condemned"):
                query = f"SELECT {COLUMNS} FROM {table} WHERE pack = ?"
                rows = connection.execute(query, (pack,)).fetchall()
                bad = [(row[0], pack) for row in rows if not is_true(row)]
                connection.executemany(f"DELETE FROM {table} WHERE frame_id = ? AND pack = ?", bad)
                dropped += len(bad)
            if dropped:
                connection.execute(_REMOVED)
        return dropped

    @contextlib.contextmanager
    def marking(self) -> Iterator[Marking]:
        """Yield an empty set of frames to compare the rows with."""
        connection = self._connection()
        try:
            yield Marking(connection, self.path)
        finally:
            connection.execute("DROP TABLE temp.marked")

    @telling
    def rows_of(self, pack: str) -> list[PackedFrame]:
        """Return the rows of one pack in the order of its file, without the condemned."""
        rows = self._connection().execute(
            f"SELECT {COLUMNS} FROM frames WHERE pack = ? ORDER BY offset", (pack,)
        )
        return [checked(row) for row in rows]

    @telling
    def condemned(self) -> list[PackedFrame]:
        """Return the rows of the condemned frames."""
        rows = self._connection().execute(f"SELECT {COLUMNS} FROM condemned")
        return [checked(row) for row in rows]

    @telling
    def note(self, name: str) -> str | None:
        """Return a note that gc left for the next run."""
        query = "SELECT value FROM notes WHERE name = ?"
        row = self._connection().execute(query, (name,)).fetchone()
        return None if row is None else str(row[0])

    @telling
    def write_note(self, name: str, value: str) -> None:
        """Leave a note; it is lost when the index is made again."""
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    @telling
    def indexed(self) -> dict[str, int]:
        """Return how far (bytes) each pack is indexed."""
        found = dict(self._connection().execute("SELECT pack, indexed FROM packs"))
        if not all(type(size) is int and str(pack).isalnum() for pack, size in found.items()):
            raise sqlite3.DatabaseError("it has a row that cannot be")
        return found

    @telling
    def removals(self) -> int:
        """Return a number that changes whenever frames are taken out, or the index is made anew."""
        (count,) = self._connection().execute("SELECT count FROM removals").fetchone()
        return int(count)

    @telling
    def packs_of_rows(self) -> set[str]:
        """Return the packs that rows name."""
        return {row[0] for row in self._connection().execute("SELECT DISTINCT pack FROM frames")}

    @telling
    def indexed_of(self, pack: str) -> int:
        """Return how far (bytes) one pack is indexed."""
        query = "SELECT indexed FROM packs WHERE pack = ?"
        row = self._connection().execute(query, (pack,)).fetchone()
        return 0 if row is None else int(row[0])

    @telling
    def forget_pack(self, pack: str) -> set[FrameId]:
        """Remove a pack that is gone, with its rows; return the frames that it had."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT frame_id FROM frames WHERE pack = ?", (pack,))
            lost = {FrameId(row[0]) for row in rows}
            for table in ("frames", "condemned", "packs"):
                connection.execute(f"DELETE FROM {table} WHERE pack = ?", (pack,))
            connection.execute(_REMOVED)
        return lost

    @telling
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
        cursor = self._connection().execute(f"SELECT {COLUMNS} FROM frames ORDER BY frame_id")
        return (checked(row) for row in cursor)
