"""Identifiers: what they are, how they are written, how a string becomes one.

All content ids are 32 bytes; for people and in URLs they are 64 lower-case hexadecimal digits.
Lowest module of the house: it imports nothing of nodectl and raises `ValueError`.
"""

import re
from typing import NewType

ChunkId = NewType("ChunkId", bytes)
"""BLAKE3 of a chunk's plain bytes, keyed with a key derived from the realm key: 32 bytes."""

FrameId = NewType("FrameId", bytes)
"""BLAKE3 (no key) of a frame's sealed bytes: 32 bytes."""

Root = NewType("Root", bytes)
"""BLAKE3 (no key) of a manifest's root block: 32 bytes. It names one immutable manifest."""

ID_BYTES = 32

_HEX_ID = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def id_from_hex(text: str) -> bytes:
    """Return the 32 bytes that 64 lower-case hexadecimal digits stand for.

    Raises:
        ValueError: not exactly 64 lower-case hexadecimal digits.
    """
    if not _HEX_ID.fullmatch(text):
        msg = f"not an id of 64 hexadecimal digits: {text[:80]!r}"
        raise ValueError(msg)
    return bytes.fromhex(text)


def checked_name(text: str) -> str:
    """Return `text` if it may name a node, image, layout or realm.

    1 to 63 characters of `A-Z a-z 0-9 . _ -`, the first a letter or digit, so that a name is
    safe in a path, a URL, a host name and a table.

    Raises:
        ValueError: anything else.
    """
    if not _NAME.fullmatch(text):
        msg = (
            f"not a usable name: {text[:80]!r} (1 to 63 letters, digits, '.', '_', '-', "
            "beginning with a letter or digit)"
        )
        raise ValueError(msg)
    return text
