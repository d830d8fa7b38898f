"""The embedded catalog: one SQLite file in WAL mode, which several processes may have open.

Table `documents(key, value, revision)`; a deleted key keeps its row with a NULL value, so that
`changes` can tell of it. The counter is `max(revision)`: rows are never removed. Every write is one
`BEGIN IMMEDIATE` transaction with `synchronous=FULL`: durable when it returns.
"""

import contextlib
import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from nodectl.catalog.model import ABSENT, Change, Document, checked_key
from nodectl.errors import READ_ONLY_HINT, NoSpace, PathUnreadable, WriteConflict
from nodectl.fsio import PRIVATE_FILE

Row = tuple[str, str | None, int]
Rows = list[Row]

_VERSION = 1
_BUSY_S = 10.0  # how long a write waits for another process's write
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    key TEXT PRIMARY KEY,
    value TEXT,
    revision INTEGER NOT NULL UNIQUE
) WITHOUT ROWID
"""


class SqliteCatalog:
    """Documents in an SQLite file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Open the catalog, making it (mode 0600: it holds nodes' secrets) if it is not there.

        Raises:
            PathUnreadable: it cannot be opened, is damaged, or is of a later version.
        """
        self._path = path
        self._lock = threading.Lock()
        connection: sqlite3.Connection | None = None
        try:
            # SQLite gives its -wal and -shm files the mode of the file itself.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE))
            connection = sqlite3.connect(
                path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._prepare(connection)
        except (OSError, sqlite3.Error) as exc:
            if connection is not None:
                connection.close()
            hint = READ_ONLY_HINT if getattr(exc, "errno", 0) == errno.EROFS else ""
            raise PathUnreadable(f"the catalog {path} cannot be opened: {exc}", hint=hint) from exc
        self._connection = connection

    @staticmethod
    def _prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"it was written by a later nodectl (version {version})")
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA user_version={_VERSION}")

    def __enter__(self) -> Self:
        """Return the open catalog."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file; nothing may be asked afterwards."""
        with self._lock:
            self._connection.close()

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        rows = self._read("SELECT key, value, revision FROM documents WHERE key = ?", (key,))
        return _document(rows[0]) if rows and rows[0][1] is not None else None

    def list(self, prefix: str) -> tuple[Document, ...]:
        """Return the documents whose key begins with `prefix`, sorted by key."""
        # Keys are ASCII, so everything with the prefix lies before prefix + U+10FFFF.
        rows = self._read(
            "SELECT key, value, revision FROM documents "
            "WHERE key >= ? AND key < ? AND value IS NOT NULL ORDER BY key",
            (prefix, prefix + "\U0010ffff"),
        )
        return tuple(_document(row) for row in rows)

    def put(self, key: str, value: Mapping[str, Any], *, expected: int) -> Document:
        """Write a document whose revision is `expected`."""
        text = json.dumps(dict(value), sort_keys=True, separators=(",", ":"))
        with self._transaction() as connection:
            self._check(connection, checked_key(key), expected)
            revision = self._write(connection, key, text)
        return Document(key, json.loads(text), revision)

    def delete(self, key: str, *, expected: int) -> None:
        """Delete a document whose revision is `expected`."""
        with self._transaction() as connection:
            self._check(connection, key, expected)
            if expected == ABSENT:
                raise WriteConflict(f"there is no document {key}")
            self._write(connection, key, None)

    def revision(self) -> int:
        """Return how many writes there were."""
        rows = self._read("SELECT '', '', coalesce(max(revision), 0) FROM documents", ())
        return rows[0][2]

    def changes(self, since: int, *, prefix: str = "") -> tuple[Change, ...]:
        """Return the last change of each key under `prefix` after revision `since`."""
        rows = self._read(
            "SELECT key, value, revision FROM documents "
            # The plus signs: by revision, however many keys have the prefix.
            "WHERE revision > ? AND +key >= ? AND +key < ? ORDER BY revision",
            (since, prefix, prefix + "\U0010ffff"),
        )
        return tuple(
            Change(row[0], _document(row) if row[1] is not None else None, row[2]) for row in rows
        )

    def _read(self, query: str, parameters: tuple[Any, ...]) -> Rows:
        with self._lock, self._mapped_errors():
            return self._connection.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._mapped_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # After a full disk SQLite may have rolled back by itself.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _mapped_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise NoSpace(f"no space left for the catalog {self._path}") from exc
            raise PathUnreadable(f"the catalog {self._path} failed: {exc}") from exc

    @staticmethod
    def _check(connection: sqlite3.Connection, key: str, expected: int) -> None:
        row = connection.execute(
            "SELECT revision FROM documents WHERE key = ? AND value IS NOT NULL", (key,)
        ).fetchone()
        actual = int(row[0]) if row is not None else ABSENT
        if actual != expected:
            raise WriteConflict(f"{key} is at revision {actual}, not {expected}")

    @staticmethod
    def _write(connection: sqlite3.Connection, key: str, text: str | None) -> int:
        """Write one row and return its revision."""
        ((revision,),) = connection.execute(
            "INSERT INTO documents (key, value, revision) "
            "VALUES (?, ?, (SELECT coalesce(max(revision), 0) + 1 FROM documents)) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, revision = excluded.revision "
            "RETURNING revision",
            (key, text),
        ).fetchall()
        return int(revision)


def _document(row: Row) -> Document:
    key, text, revision = row
    return Document(key, json.loads(text or "{}"), revision)
