r"""Signatures made by `ssh-keygen -Y sign -n nodectl -f KEY FILE` with an Ed25519 key.

Source: OpenSSH, PROTOCOL.sshsig. Armored form: base64 between two marker lines of
`"SSHSIG" u32 version(1) string publickey string namespace string reserved string hash string sig`,
where a string is u32 big-endian length and bytes; publickey and sig are themselves
`string "ssh-ed25519" string bytes`. What the key signs is
`"SSHSIG" string namespace string reserved string hash string HASH(message)`.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from nodectl.errors import InvalidInput

NAMESPACE = b"nodectl"
_MAGIC = b"SSHSIG"
_TYPE = b"ssh-ed25519"
_BEGIN, _END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
_TEXT_MAX = 4096
_HASHES = {b"sha512": hashlib.sha512, b"sha256": hashlib.sha256}
KEY_BYTES, SIGNATURE_BYTES = 32, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSignature:
    """What an armored signature holds; nothing is verified yet."""

    key: bytes  # raw Ed25519 public key, 32 bytes
    signature: bytes  # 64 bytes
    hash_name: str  # "sha512" or "sha256"


def signed_blob(message: bytes, hash_name: str) -> bytes:
    """Return the bytes that the key of an SSH signature over `message` signed.

    Raises:
        ValueError: the hash is none of those that OpenSSH uses.
    """
    name = hash_name.encode("ascii")
    if name not in _HASHES:
        raise ValueError(f"the hash {hash_name[:20]!r} is not known")
    digest = _HASHES[name](message).digest()
    return _MAGIC + b"".join(_string(part) for part in (NAMESPACE, b"", name, digest))


def parse_signature(text: str) -> SshSignature:
    """Return what an armored signature says.

    Raises:
        InvalidInput: it is none, of another namespace, or not by an Ed25519 key.
    """
    try:
        blob = _Reader(_unarmored(text))
        if blob.take(len(_MAGIC)) != _MAGIC or blob.number() != 1:
            raise ValueError("it does not begin as one")  # noqa: TRY301 - one seam
        public, namespace, _, hash_name, signature = (blob.string() for _ in range(5))
        blob.end()
        if hash_name not in _HASHES:
            raise ValueError("its hash is not known")  # noqa: TRY301 - one seam
        key = _inner(public, KEY_BYTES)
        raw = _inner(signature, SIGNATURE_BYTES)
    except ValueError as exc:
        raise InvalidInput(f"that is no SSH signature by an Ed25519 key: {exc}") from exc
    if namespace != NAMESPACE:
        raise InvalidInput(
            "the SSH signature was made for another namespace",
            hint="sign with: ssh-keygen -Y sign -n nodectl -f KEY FILE",
        )
    return SshSignature(key=key, signature=raw, hash_name=hash_name.decode("ascii"))


def parse_public_key(text: str) -> bytes:
    """Return the raw Ed25519 key (32 bytes) of "ssh-ed25519 BASE64 [comment]" or 64 hex digits.

    Raises:
        InvalidInput: it is neither.
    """
    words = text.split()
    try:
        if len(words) == 1:
            key = bytes.fromhex(words[0])
            if len(key) == KEY_BYTES:
                return key
        elif len(words) > 1 and words[0] == _TYPE.decode():
            return _inner(base64.b64decode(words[1], validate=True), KEY_BYTES)
    except ValueError as exc:
        raise InvalidInput(f"that is no Ed25519 public key: {exc}") from exc
    raise InvalidInput(
        "that is no Ed25519 public key",
        hint="the line of a file such as id_ed25519.pub, or 64 hexadecimal digits",
    )


class _Reader:
    """Takes bytes from the front; too few are a ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise ValueError("it is too short")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())

    def end(self) -> None:
        if self._data:
            raise ValueError("it is too long")


def _inner(data: bytes, length: int) -> bytes:
    reader = _Reader(data)
    kind, value = reader.string(), reader.string()
    reader.end()
    if kind != _TYPE or len(value) != length:
        raise ValueError("its key is no ssh-ed25519")
    return value


def _unarmored(text: str) -> bytes:
    lines = [line.strip() for line in text.strip().splitlines()]
    if len(text) > _TEXT_MAX or len(lines) < 3 or lines[0] != _BEGIN or lines[-1] != _END:  # noqa: PLR2004 - two markers and a line
        raise ValueError("the marker lines are absent")
    try:
        return base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error as exc:
        raise ValueError("it is no base64") from exc


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
