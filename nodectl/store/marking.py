"""Marks: a set of frames that gc compares with the rows of the index."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from nodectl.ids import FrameId
from nodectl.store.damage import telling
from nodectl.store.packs import RECORD, PackedFrame
from nodectl.store.rows import COLUMNS, checked


class Marking:
    """A set of frames, kept in a temporary table: a large store's would not fit in memory."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """Begin an empty set; see `Index.marking`."""
        self.path = path
        self._connection = connection
        connection.execute("CREATE TEMP TABLE marked (frame_id BLOB PRIMARY KEY) WITHOUT ROWID")

    @telling
    def mark(self, frame_ids: Iterable[FrameId]) -> None:
        """Add frames, known here or not."""
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT OR IGNORE INTO marked VALUES (?)", [(one,) for one in frame_ids]
        )
        self._connection.execute("COMMIT")

    @telling
    def count(self) -> int:
        """Return how many frames of the set are here."""
        query = "SELECT count(*) FROM frames WHERE frame_id IN marked"
        return int(self._connection.execute(query).fetchone()[0])

    @telling
    def needed(self) -> dict[str, int]:
        """Return for each pack the bytes of the records that are in the set."""
        rows = self._connection.execute(
            f"SELECT pack, sum(sealed_len + {RECORD.size}) FROM frames"
            " WHERE frame_id IN marked GROUP BY pack"
        )
        return dict(rows)

    @telling
    def lost(self) -> set[FrameId]:
        """Return those of the set that are neither here nor condemned."""
        rows = self._connection.execute(
            "SELECT frame_id FROM marked WHERE frame_id NOT IN (SELECT frame_id FROM frames)"
            " AND frame_id NOT IN (SELECT frame_id FROM condemned)"
        )
        return {FrameId(row[0]) for row in rows}

    @telling
    def dead(self, pack: str) -> list[PackedFrame]:
        """Return the rows of a pack that are not in the set."""
        rows = self._connection.execute(
            f"SELECT {COLUMNS} FROM frames WHERE pack = ? AND frame_id NOT IN marked", (pack,)
        ).fetchall()  # a query that is broken off would keep the table
        return [checked(row) for row in rows]

    @telling
    def marked_of_condemned(self) -> list[FrameId]:
        """Return the condemned frames that are in the set."""
        rows = self._connection.execute("SELECT frame_id FROM condemned WHERE frame_id IN marked")
        return [FrameId(row[0]) for row in rows]
