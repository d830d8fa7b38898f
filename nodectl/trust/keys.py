"""The realm key and the keys derived from it.

One 32-byte secret, made by `nodectl init`, never leaves the controller. Everything else is derived
from it with BLAKE3's key derivation mode (a context string for each purpose), so that one purpose
can never be turned into another. A node gets `ContentKeys` when it joins, and a swarm key for each
manifest that it may have.

While the realm key is changed, `ContentKeys` know those before them, newest first: what was sealed
with them can still be opened. Nothing is sealed with them any more.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from nodectl.ids import Root

KEY_BYTES = 32

_CHUNK_ID = "nodectl 2026-11 chunk id"
_SEAL = "nodectl 2026-11 frame seal"
_NONCE = "nodectl 2026-11 frame nonce"
_SWARM = "nodectl 2026-11 swarm"
_AUDIT = "nodectl 2026-11 audit"
_SITE_FILES = "nodectl 2026-11 site files"
_MARK = "nodectl 2026-11 key mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKeys:
    """What a node needs to read and write frames of its realm; each 32 bytes, never shown."""

    chunk_id: bytes = field(repr=False)  # keys BLAKE3 over plain bytes: the ChunkId
    seal: bytes = field(repr=False)  # AES-256-GCM over the encoded bytes
    nonce: bytes = field(repr=False)  # keys BLAKE3 over the encoded bytes: the nonce
    older: "tuple[ContentKeys, ...]" = field(default=(), repr=False)  # only to open, newest first

    def __post_init__(self) -> None:
        """Refuse keys of a wrong length."""
        if {len(self.chunk_id), len(self.seal), len(self.nonce)} != {KEY_BYTES}:
            raise ValueError("each content key has 32 bytes")
        if any(one.older for one in self.older):
            raise ValueError("older content keys stand in one list")

    def to_hex(self) -> dict[str, Any]:
        """Return the keys as they are kept in a file of mode 0600 and sent when a node joins."""
        keys: dict[str, Any] = {
            "chunk_id": self.chunk_id.hex(),
            "seal": self.seal.hex(),
            "nonce": self.nonce.hex(),
        }
        return {**keys, "older": [one.to_hex() for one in self.older]} if self.older else keys

    @classmethod
    def from_hex(cls, document: Mapping[str, Any]) -> "ContentKeys":
        """Return the keys that `to_hex` wrote.

        Raises:
            ValueError, TypeError: a key is absent or not 32 bytes in hexadecimal digits.
        """
        keys = {name: text for name, text in document.items() if name != "older"}
        if set(keys) != {"chunk_id", "seal", "nonce"}:
            raise ValueError("content keys are chunk_id, seal and nonce")
        older = tuple(cls.from_hex(one) for one in document.get("older", ()))
        return cls(older=older, **{name: bytes.fromhex(text) for name, text in keys.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class RealmKey:
    """The realm's one secret: 32 bytes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse a secret of a wrong length."""
        if len(self.secret) != KEY_BYTES:
            raise ValueError("a realm key has 32 bytes")

    @classmethod
    def generate(cls) -> "RealmKey":
        """Make a new realm key from the system's random source."""
        return cls(secret=secrets.token_bytes(KEY_BYTES))

    def _derive(self, context: str) -> bytes:
        return blake3(self.secret, derive_key_context=context).digest()

    def content_keys(self) -> ContentKeys:
        """Derive the keys for chunks and frames."""
        return ContentKeys(
            chunk_id=self._derive(_CHUNK_ID), seal=self._derive(_SEAL), nonce=self._derive(_NONCE)
        )

    def swarm_key(self, root: Root, epoch: int = 0) -> bytes:
        """Derive the key of the swarm of one manifest: 32 bytes; it keys the MAC of requests.

        The epoch (0 to 2**64 - 1) grows with each node that is removed from the realm.
        """
        message = root + epoch.to_bytes(8, "little") if epoch else root
        return blake3(message, key=self._derive(_SWARM)).digest()

    def mark(self) -> bytes:
        """Return 32 bytes that tell this key from others and nothing else about it."""
        return self._derive(_MARK)

    def audit_key(self) -> bytes:
        """Derive the key that seals the lines of the audit log."""
        return self._derive(_AUDIT)

    def site_files_key(self) -> bytes:
        """Derive the key that seals a site's secrets and templates in the catalog."""
        return self._derive(_SITE_FILES)
