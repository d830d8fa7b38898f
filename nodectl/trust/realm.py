"""A realm: its identity and secrets, and the folder that keeps them on the controller.

Folder (mode 0700, every file 0600): `realm.json` (`{"version": 1, "id", "name", "created"}`),
`realm.key` (64 hexadecimal digits), `ca.pem`, `ca.key`, `controller.pem` (the controller's
certificate, then the CA's: the chain it presents), `controller.key`, `publisher.key` and
`jobs.key` (Ed25519). While the CA is changed also `ca.next.pem` and `ca.next.key`: members then get
certificates of the next CA and trust both, and the controller still shows one of the old.

While the realm key is changed also `realm.old.keys`, a line for each key before it. From the first
change on `audit.key` holds the key that seals the audit log, derived from the first realm key: no
member ever had it, so it need not change, and the log stays one chain.
"""

import hashlib
import json
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.errors import AlreadyThere, InvalidInput, NoRealm, PathUnreadable
from nodectl.fsio import fsync_folder, make_private_folder, write_private
from nodectl.ids import checked_name
from nodectl.trust.ca import Credential, fingerprint, issue_controller, make_authority
from nodectl.trust.keys import ContentKeys, RealmKey
from nodectl.trust.release import publisher_of

VERSION = 1
_REALM_ID_BYTES = 16
_CHAIN = "controller.pem"
_CHAIN_KEY = "controller.key"
_NEXT, _NEXT_KEY = "ca.next.pem", "ca.next.key"
_KEY, _OLD_KEYS, _AUDIT_KEY = "realm.key", "realm.old.keys", "audit.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Realm:
    """One trust domain, with everything secret about it."""

    realm_id: str  # 32 hexadecimal digits
    name: str
    created: int  # seconds since 1970
    key: RealmKey
    authority: Credential
    controller: Credential
    publisher: Ed25519PrivateKey = field(repr=False)
    job_key: Ed25519PrivateKey = field(repr=False)  # signs orders (trust/order.py)
    next_authority: Credential | None = None  # while the CA is changed
    old_keys: tuple[RealmKey, ...] = ()  # while the realm key is changed, the newest first
    kept_audit_key: bytes = field(default=b"", repr=False)  # since the realm key was changed once

    def issuer(self) -> Credential:
        """Return the CA that members' certificates are issued with."""
        return self.next_authority or self.authority

    def trusted(self) -> bytes:
        """Return the CA certificates that members and the controller trust now, PEM."""
        following = b"" if self.next_authority is None else self.next_authority.certificate
        return self.authority.certificate + following

    def trust_mark(self) -> str:
        """Return what tells one set of CAs and realm keys from another, hexadecimal digits.

        A member whose certificate was issued under another mark renews it, and learns both.
        """
        keys = b"".join(key.mark() for key in (self.key, *self.old_keys))
        return hashlib.sha256(self.trusted() + keys).hexdigest()

    def content_keys(self) -> ContentKeys:
        """Return what members seal with, and open with."""
        older = tuple(key.content_keys() for key in self.old_keys)
        return replace(self.key.content_keys(), older=older)

    def audit_key(self) -> bytes:
        """Return the key that seals the audit log."""
        return self.kept_audit_key or self.key.audit_key()

    def ca_sha256(self) -> bytes:
        """Return the fingerprint that join tokens carry."""
        return fingerprint(self.authority.certificate)

    def publishers(self) -> tuple[bytes, ...]:
        """Return the raw public keys whose releases members accept."""
        return (publisher_of(self.publisher),)


def create_realm(name: str, *, now: int) -> Realm:
    """Make a realm with fresh keys; nothing is written.

    Raises:
        ValueError: the name is not usable.
    """
    authority = make_authority(checked_name(name))
    return Realm(
        realm_id=secrets.token_hex(_REALM_ID_BYTES),
        name=name,
        created=now,
        key=RealmKey.generate(),
        authority=authority,
        controller=issue_controller(authority),
        publisher=Ed25519PrivateKey.generate(),
        job_key=Ed25519PrivateKey.generate(),
    )


def write_realm(realm: Realm, folder: Path) -> None:
    """Write a realm's folder, each file durable and readable by its owner alone."""
    make_private_folder(folder)
    about = {
        "version": VERSION,
        "id": realm.realm_id,
        "name": realm.name,
        "created": realm.created,
    }
    files = {
        "realm.json": json.dumps(about, indent=2).encode() + b"\n",
        _KEY: realm.key.secret.hex().encode() + b"\n",
        "ca.pem": realm.authority.certificate,
        "ca.key": realm.authority.key,
        _CHAIN: realm.controller.certificate + realm.authority.certificate,
        _CHAIN_KEY: realm.controller.key,
        "publisher.key": _private_bytes(realm.publisher),
        "jobs.key": _private_bytes(realm.job_key),
    }
    for name, data in files.items():
        write_private(folder / name, data)


def load_realm(folder: Path) -> Realm:
    """Read a realm's folder.

    Raises:
        NoRealm: there is none.
        PathUnreadable: it may not be read, or a file of it is absent or damaged.
    """
    if not (folder / "realm.json").exists():
        raise NoRealm(
            f"no realm in {folder}", hint="make one: nodectl init --realm NAME; or name its --state"
        )
    try:
        about = json.loads((folder / "realm.json").read_bytes())
        if about["version"] != VERSION:
            raise ValueError(f"version {about['version']} is not known")  # noqa: TRY301 - one seam
        leaf, _, _ = (folder / _CHAIN).read_bytes().partition(b"-----END CERTIFICATE-----\n")
        return Realm(
            realm_id=str(about["id"]),
            name=checked_name(about["name"]),
            created=int(about["created"]),
            key=_realm_key(folder),
            authority=Credential(
                certificate=(folder / "ca.pem").read_bytes(), key=(folder / "ca.key").read_bytes()
            ),
            controller=Credential(
                certificate=leaf + b"-----END CERTIFICATE-----\n",
                key=(folder / _CHAIN_KEY).read_bytes(),
            ),
            next_authority=_next_authority(folder),
            old_keys=_old_keys(folder),
            kept_audit_key=_audit_key(folder),
            publisher=_ed25519(folder / "publisher.key"),
            job_key=_ed25519(folder / "jobs.key"),
        )
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise PathUnreadable(f"the realm in {folder} cannot be read: {exc}") from exc


def begin_rotation(folder: Path) -> Realm:
    """Make the next CA, beside the present one; the controller uses it when it begins again.

    Raises:
        AlreadyThere: the CA is being changed already.
    """
    realm = load_realm(folder)
    if realm.next_authority is not None:
        raise AlreadyThere(
            "the CA is being changed already", hint="end it: nodectl realm rotate-ca --finish"
        )
    made = make_authority(realm.name)
    write_private(folder / _NEXT_KEY, made.key)
    write_private(folder / _NEXT, made.certificate)
    return load_realm(folder)


def finish_rotation(folder: Path) -> Realm:
    """Make the next CA the only one. A run that was cut off is simply repeated.

    Raises:
        InvalidInput: the CA is not being changed.
    """
    following = load_realm(folder).next_authority
    if following is None:
        raise InvalidInput("the CA is not being changed", hint="begin: nodectl realm rotate-ca")
    controller = issue_controller(following)
    write_private(folder / _CHAIN_KEY, controller.key)
    write_private(folder / _CHAIN, controller.certificate + following.certificate)
    write_private(folder / "ca.key", following.key)
    write_private(folder / "ca.pem", following.certificate)
    for name in (_NEXT, _NEXT_KEY):
        (folder / name).unlink()
    fsync_folder(folder)
    return load_realm(folder)


def begin_key_rotation(folder: Path) -> Realm:
    """Make the next realm key; the present one only opens from now on.

    The new key counts with the last write: a run that was cut off before it changed nothing.

    Raises:
        AlreadyThere: the key is being changed already.
    """
    realm = load_realm(folder)
    if realm.old_keys:
        raise AlreadyThere(
            "the realm key is being changed already",
            hint="nodectl realm show tells what is still to do; end it: "
            "nodectl realm rotate-key --finish",
        )
    write_private(folder / _AUDIT_KEY, realm.audit_key().hex().encode() + b"\n")
    write_private(folder / _OLD_KEYS, realm.key.secret.hex().encode() + b"\n")
    write_private(folder / _KEY, RealmKey.generate().secret.hex().encode() + b"\n")
    return load_realm(folder)


def finish_key_rotation(folder: Path) -> Realm:
    """Forget the realm key before the present one.

    Raises:
        InvalidInput: the key is not being changed.
    """
    if not load_realm(folder).old_keys:
        raise InvalidInput(
            "the realm key is not being changed", hint="begin: nodectl realm rotate-key"
        )
    (folder / _OLD_KEYS).unlink()
    fsync_folder(folder)
    return load_realm(folder)


def _realm_key(folder: Path) -> RealmKey:
    return RealmKey(secret=bytes.fromhex((folder / _KEY).read_text("ascii")))


def _old_keys(folder: Path) -> tuple[RealmKey, ...]:
    """Return the keys before the present one, which a change that was cut off may list, too."""
    try:
        lines = (folder / _OLD_KEYS).read_text("ascii").split()
    except FileNotFoundError:
        return ()
    keys = (RealmKey(secret=bytes.fromhex(line)) for line in lines)
    present = _realm_key(folder)
    return tuple(key for key in keys if key != present)


def _audit_key(folder: Path) -> bytes:
    try:
        return bytes.fromhex((folder / _AUDIT_KEY).read_text("ascii"))
    except FileNotFoundError:
        return b""


def _next_authority(folder: Path) -> Credential | None:
    if not (folder / _NEXT).exists():
        return None
    return Credential(
        certificate=(folder / _NEXT).read_bytes(), key=(folder / _NEXT_KEY).read_bytes()
    )


def _private_bytes(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _ed25519(path: Path) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path.name} is no Ed25519 key")  # noqa: TRY004 - of the file
    return key


def chain_files(folder: Path) -> tuple[str, str]:
    """Return the paths of the controller's certificate chain and its key."""
    return str(folder / _CHAIN), str(folder / _CHAIN_KEY)
