"""What a catalog is: the controller's small mutable state, as documents under keys.

A key is a path such as `nodes/n01`; a value is a JSON object. Every write raises the catalog's one
revision counter by 1, and a document's revision is the counter's value at its last write (etcd's
`mod_revision`). Writes are compare-and-set: the writer says which revision it has seen, 0 for
"there is none". `changes` tells what was written after a revision, so a watch is a loop around it
that misses nothing and may begin anywhere.

`memory.py` and `sqlite.py` keep the contract; tests/contract/test_catalog.py holds both to it. All
calls are short (one small transaction), safe from any thread, and block.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

KEY_MAX = 512
ABSENT = 0
"""The revision of a document that does not exist."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


class Document(NamedTuple):
    """One document as it was at one revision."""

    key: str
    value: Mapping[str, Any]
    revision: int


class Change(NamedTuple):
    """The last thing that happened to a key: `document` is None when it was deleted."""

    key: str
    document: Document | None
    revision: int


class Catalog(Protocol):
    """Small documents under keys."""

    def get(self, key: str) -> Document | None:
        """Return the document, or None."""
        ...

    def list(self, prefix: str) -> tuple[Document, ...]:
        """Return the documents whose key begins with `prefix`, sorted by key."""
        ...

    def put(self, key: str, value: Mapping[str, Any], *, expected: int) -> Document:
        """Write a document whose revision is `expected` (`ABSENT`: it must not exist).

        When it returns, the write survives kill -9 and power loss (where the backend is durable).

        Raises:
            WriteConflict: the document has another revision; nothing was written.
            ValueError: the key is not a path of names, or the value is no JSON object.
        """
        ...

    def delete(self, key: str, *, expected: int) -> None:
        """Delete a document whose revision is `expected`.

        Raises:
            WriteConflict: the document has another revision, or there is none.
        """
        ...

    def revision(self) -> int:
        """Return the counter: how many writes there were."""
        ...

    def changes(self, since: int, *, prefix: str = "") -> tuple[Change, ...]:
        """Return each key's last change under `prefix` after `since`, oldest first."""
        ...


def checked_key(key: str) -> str:
    """Return `key` if it is a path of names.

    Raises:
        ValueError: it is not, or is longer than `KEY_MAX`.
    """
    if len(key) > KEY_MAX or not _KEY.fullmatch(key):
        raise ValueError(f"not a catalog key: {key[:80]!r}")
    return key
