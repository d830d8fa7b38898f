r"""Releases: what a name points to, signed by a publisher of the realm.

A release says: in this realm, generation G of NAME is the manifest ROOT. Generations of one name
only grow; a node remembers the highest that it has seen (`node/state.py`).

Signed form: Ed25519 over `nodectl release 1\n` followed by the canonical JSON of the record (keys
sorted, no spaces, ASCII). JSON document: `{"release": {...}, "signature": hex, "publisher": hex}`,
where `publisher` is the raw public key (32 bytes) that must be among those the node pinned. With
`"form": "sshsig-sha512"` (or sha256) the key signed those bytes as `trust/sshsig.py` describes.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nodectl.errors import ContentInvalid
from nodectl.ids import Root, checked_name, id_from_hex
from nodectl.trust.sshsig import parse_signature, signed_blob

_DOMAIN = b"nodectl release 1\n"
_FIELDS = {"realm", "name", "generation", "root", "kind", "created", "totals"}
_DOCUMENT_FIELDS = {"release", "signature", "publisher"}
_RAW = "ed25519"
_SSH = "sshsig-"  # and the name of the hash
_TOTALS_MAX = 32  # counts that one release may carry
_INTEGER_MAX = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One generation of one name."""

    realm: str  # realm id, 32 hexadecimal digits
    name: str
    generation: int  # from 1
    root: Root
    kind: str  # "tree"
    created: int  # seconds since 1970, by the controller's clock
    totals: Mapping[str, int]  # counts and bytes, as the manifest states them

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {
            "realm": self.realm,
            "name": self.name,
            "generation": self.generation,
            "root": self.root.hex(),
            "kind": self.kind,
            "created": self.created,
            "totals": dict(self.totals),
        }

    def signed_bytes(self) -> bytes:
        """Return the bytes that the signature covers."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return _DOMAIN + text.encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRelease:
    """A release with the signature of a publisher."""

    release: Release
    signature: bytes  # 64 bytes
    publisher: bytes  # raw Ed25519 public key, 32 bytes
    form: str = _RAW  # what was signed: the bytes themselves, or as ssh-keygen does it

    def to_json(self) -> dict[str, Any]:
        """Return the document as it is stored and sent."""
        document = {
            "release": self.release.to_json(),
            "signature": self.signature.hex(),
            "publisher": self.publisher.hex(),
        }
        return document if self.form == _RAW else {**document, "form": self.form}


def publisher_of(key: Ed25519PrivateKey) -> bytes:
    """Return the raw public key (32 bytes) that belongs to a publisher key."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def sign_release(release: Release, key: Ed25519PrivateKey) -> SignedRelease:
    """Sign a release with the publisher's key."""
    return SignedRelease(
        release=release, signature=key.sign(release.signed_bytes()), publisher=publisher_of(key)
    )


def verify_release(document: object, *, realm: str, publishers: Collection[bytes]) -> SignedRelease:
    """Return what a release document says, after checking every part of it.

    Raises:
        ContentInvalid: malformed, of another realm, by an unknown publisher, or a wrong signature.
    """
    signed = parse_release(document)
    name = signed.release.name
    if signed.release.realm != realm:
        raise ContentInvalid(f"the release of {name} belongs to another realm")
    if signed.publisher not in publishers:
        raise ContentInvalid(f"the release of {name} is signed by an unknown publisher")
    try:
        key = Ed25519PublicKey.from_public_bytes(signed.publisher)
        key.verify(signed.signature, _covered(signed))
    except (InvalidSignature, ValueError) as exc:
        raise ContentInvalid(f"the signature of the release of {name} is wrong") from exc
    return signed


def with_ssh_signature(release: Release, armored: str) -> SignedRelease:
    """Return a release with a signature that `ssh-keygen -Y sign` made; not verified yet.

    Raises:
        InvalidInput: it is no such signature.
    """
    ssh = parse_signature(armored)
    return SignedRelease(
        release=release,
        signature=ssh.signature,
        publisher=ssh.key,
        form=_SSH + ssh.hash_name,
    )


def _covered(signed: SignedRelease) -> bytes:
    """Return the bytes that the key signed."""
    message = signed.release.signed_bytes()
    if signed.form == _RAW:
        return message
    if not signed.form.startswith(_SSH):
        raise ValueError("the form of the signature is not known")
    return signed_blob(message, signed.form.removeprefix(_SSH))


def parse_release(document: object) -> SignedRelease:
    """Return what a release document says; its signature is not checked here.

    Raises:
        ContentInvalid: it has not the fields and types of a release.
    """
    try:
        form = _RAW
        if isinstance(document, dict) and "form" in document:
            document = dict(document)
            form = _text(document.pop("form"))
        outer = _record(document, _DOCUMENT_FIELDS)
        inner = _record(outer["release"], _FIELDS)
        totals = _totals(inner["totals"])
        release = Release(
            realm=_text(inner["realm"]),
            name=checked_name(_text(inner["name"])),
            generation=_count(inner["generation"], at_least=1),
            root=Root(id_from_hex(_text(inner["root"]))),
            kind=_text(inner["kind"]),
            created=_count(inner["created"]),
            totals=totals,
        )
        return SignedRelease(
            release=release,
            signature=bytes.fromhex(_text(outer["signature"])),
            publisher=bytes.fromhex(_text(outer["publisher"])),
            form=form,
        )
    except ValueError as exc:
        raise ContentInvalid(f"not a release: {exc}") from exc


def checked_totals(value: object) -> dict[str, int]:
    """Return the totals of a release if they are names with counts.

    Raises:
        ContentInvalid: they are not.
    """
    try:
        return _totals(value)
    except ValueError as exc:
        raise ContentInvalid(f"totals are no totals: {exc}") from exc


def _record(value: object, fields: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != fields:
        raise ValueError(f"the fields are {', '.join(sorted(fields))}")
    return value


def _totals(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > _TOTALS_MAX:
        raise ValueError(f"totals are at most {_TOTALS_MAX} counts")
    return {checked_name(_text(name)): _count(count) for name, count in value.items()}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text expected, not {value!r}"[:200])  # noqa: TRY004 - of the document
    return value


def _count(value: object, *, at_least: int = 0) -> int:
    # A JSON true is an int to Python.
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a whole number expected, not {value!r}"[:200])  # noqa: TRY004
    if not at_least <= value <= _INTEGER_MAX:
        raise ValueError(f"{value} is out of range")
    return value
