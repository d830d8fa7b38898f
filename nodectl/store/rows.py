"""Rows of the index: where a frame stands, and a hash of the row by which a changed one is told.

    proof = XXH3-64 (8 bytes, big-endian) of
            frame_id 32 | chunk_id 32 | pack (UTF-8) | offset u64 | sealed_len u64 | plain_len u64

A capture builds its manifest on the word of a row, before anybody reads the frame: a bit that
flipped in a length would become a manifest that nobody can restore. SQLite does not look for that.
"""

import sqlite3
import struct
from typing import Any

from xxhash import xxh3_64_digest

from nodectl.store.packs import PackedFrame

COLUMNS = "frame_id, chunk_id, pack, offset, sealed_len, plain_len, proof"
VALUES = "?, ?, ?, ?, ?, ?, ?"
_NUMBERS = struct.Struct("<QQQ")


def proof_of(frame_id: bytes, chunk_id: bytes, pack: str, *numbers: int) -> bytes:
    """Return the proof of a row: its ids, its pack, then offset, sealed and plain length."""
    return xxh3_64_digest(b"".join((frame_id, chunk_id, pack.encode(), _NUMBERS.pack(*numbers))))


def row_of(frame: PackedFrame) -> tuple[Any, ...]:
    """Return the values of a row, in the order of `COLUMNS`."""
    return (*frame, proof_of(*frame))


def is_true(row: tuple[Any, ...]) -> bool:
    """Say whether a row is as it was written; a flipped bit may have given it any type."""
    try:
        return bool(proof_of(*row[:-1]) == row[-1])
    except (TypeError, AttributeError, struct.error):
        return False


def checked(row: tuple[Any, ...]) -> PackedFrame:
    """Return a row of the index as it was written.

    Raises:
        sqlite3.DatabaseError: it is another one now (see damage.py).
    """
    if not is_true(row):
        raise sqlite3.DatabaseError("it has a row that cannot be")
    return PackedFrame._make(row[:-1])
