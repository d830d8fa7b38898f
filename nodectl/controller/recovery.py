r"""The recovery file: what a lost controller is made again from.

`nodectl recovery 1\n`, 16 bytes of salt, 12 bytes of nonce, then AES-256-GCM over a JSON object:
`{"realm": {file: text}, "catalog": {key: document}, "membership": {...}}`; the key is scrypt
(N = 2**15, r = 8, p = 1) of the passphrase, the first line is associated data. It holds the realm's
keys and what the catalog said of nodes, tokens, releases, publishers, swarms and site files; not
jobs, not the audit log, and no frames: those are on the nodes.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.errors import RecoveryInvalid
from nodectl.fsio import make_private_folder, write_private

_MAGIC = b"nodectl recovery 1\n"
_SALT, _NONCE = 16, 12
_PREFIXES = (
    "nodes/", "tokens/", "releases/", "roots/", "publishers/", "swarm/", "access/", "inventory/",
    "files/",
)  # fmt: skip
_FILES = frozenset(
    {
        "realm.json", "realm.key", "ca.pem", "ca.key", "controller.pem", "controller.key",
        "publisher.key", "jobs.key",
    }
)  # fmt: skip
_MAY_BE = frozenset({"ca.next.pem", "ca.next.key", "realm.old.keys", "audit.key"})
PASSPHRASE_MIN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What a recovery file holds; all of it is secret."""

    realm: Mapping[str, str]
    catalog: Mapping[str, Any]
    membership: Mapping[str, Any]

    def write_realm(self, folder: Path) -> None:
        """Write the realm's folder."""
        make_private_folder(folder)
        for name, text in self.realm.items():
            write_private(folder / name, text.encode("ascii"))

    def fill(self, catalog: Catalog) -> None:
        """Put the documents into an empty catalog."""
        for key, value in self.catalog.items():
            catalog.put(key, value, expected=ABSENT)


def export_recovery(
    realm_folder: Path, catalog: Catalog, membership: Mapping[str, Any], passphrase: str
) -> bytes:
    """Return a recovery file."""
    present = {name for name in _MAY_BE if (realm_folder / name).exists()}
    names = sorted(_FILES | present)
    document = {
        "realm": {name: (realm_folder / name).read_text("ascii") for name in names},
        "catalog": {
            each.key: dict(each.value) for prefix in _PREFIXES for each in catalog.list(prefix)
        },
        "membership": dict(membership),
    }
    salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
    sealed = AESGCM(_key(passphrase, salt)).encrypt(nonce, json.dumps(document).encode(), _MAGIC)
    return _MAGIC + salt + nonce + sealed


def open_recovery(data: bytes, passphrase: str) -> Recovery:
    """Return what a recovery file holds.

    Raises:
        RecoveryInvalid: it is damaged, or the passphrase is another one.
    """
    if not data.startswith(_MAGIC):
        raise RecoveryInvalid("that is no recovery file of nodectl")
    body = data[len(_MAGIC) :]
    salt, nonce, sealed = body[:_SALT], body[_SALT : _SALT + _NONCE], body[_SALT + _NONCE :]
    try:
        document = json.loads(AESGCM(_key(passphrase, salt)).decrypt(nonce, sealed, _MAGIC))
        recovery = Recovery(**document)
    except (InvalidTag, ValueError, TypeError) as exc:
        raise RecoveryInvalid(
            "the recovery file is damaged, or the passphrase is another one"
        ) from exc
    if not _FILES <= set(recovery.realm) <= _FILES | _MAY_BE:
        raise RecoveryInvalid("the recovery file is of another version of nodectl")
    return recovery


def _key(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << 15, r=8, p=1).derive(passphrase.encode())
