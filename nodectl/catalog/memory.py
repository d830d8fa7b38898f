"""A catalog in memory: for tests, and the plainest reading of the contract."""

import json
import threading
from collections.abc import Mapping
from typing import Any

from nodectl.catalog.model import ABSENT, Change, Document, checked_key
from nodectl.errors import WriteConflict


class MemoryCatalog:
    """Documents in a dictionary; gone with the process."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._changes: dict[str, Change] = {}  # key -> its last change
        self._revision = 0

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        change = self._changes.get(key)
        return change.document if change is not None else None

    def list(self, prefix: str) -> tuple[Document, ...]:
        """Return the documents whose key begins with `prefix`, sorted by key."""
        with self._lock:
            found = [change.document for change in self._changes.values()]
        return tuple(sorted(doc for doc in found if doc is not None and doc.key.startswith(prefix)))

    def put(self, key: str, value: Mapping[str, Any], *, expected: int) -> Document:
        """Write a document whose revision is `expected`."""
        copy = json.loads(json.dumps(dict(value)))  # what comes back is never the caller's object
        with self._lock:
            self._check(checked_key(key), expected)
            self._revision += 1
            document = Document(key, copy, self._revision)
            self._changes[key] = Change(key, document, self._revision)
            return document

    def delete(self, key: str, *, expected: int) -> None:
        """Delete a document whose revision is `expected`."""
        with self._lock:
            self._check(key, expected)
            if expected == ABSENT:
                raise WriteConflict(f"there is no document {key}")
            self._revision += 1
            self._changes[key] = Change(key, None, self._revision)

    def revision(self) -> int:
        """Return how many writes there were."""
        return self._revision

    def changes(self, since: int, *, prefix: str = "") -> tuple[Change, ...]:
        """Return the last change of each key under `prefix` after revision `since`."""
        with self._lock:
            found = [c for c in self._changes.values() if c.revision > since]
        return tuple(
            sorted((c for c in found if c.key.startswith(prefix)), key=lambda c: c.revision)
        )

    def _check(self, key: str, expected: int) -> None:
        document = self.get(key)
        actual = document.revision if document is not None else ABSENT
        if actual != expected:
            raise WriteConflict(f"{key} is at revision {actual}, not {expected}")
