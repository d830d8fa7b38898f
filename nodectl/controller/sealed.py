"""What the catalog holds sealed: who has the catalog alone neither reads nor changes it.

Hexadecimal digits of 12 random bytes of nonce, then AES-256-GCM with a key derived from the realm
key over the content; what is said about the content beside it is associated data (canonical JSON).
"""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodectl.trust.realm import Realm

_NONCE_BYTES = 12


class Sealer:
    """Seals with the realm's key, opens what its older keys sealed, too."""

    def __init__(self, realm: Realm) -> None:
        """Derive the keys."""
        keys = (realm.key, *realm.old_keys)
        self._keys = tuple(AESGCM(key.site_files_key()) for key in keys)

    def seal(self, content: bytes, bound: Mapping[str, Any]) -> str:
        """Return `content` sealed together with what is said about it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return (nonce + self._keys[0].encrypt(nonce, content, _canonical(bound))).hex()

    def open(self, sealed: str, bound: Mapping[str, Any]) -> bytes | None:
        """Return the content; None: it, or what is said about it, was changed, or is foreign."""
        data = bytes.fromhex(sealed)
        for key in self._keys:
            try:
                return key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _canonical(bound))
            except InvalidTag:
                continue
        return None


def _canonical(bound: Mapping[str, Any]) -> bytes:
    return json.dumps(bound, sort_keys=True, separators=(",", ":")).encode()
