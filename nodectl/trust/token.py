"""Join tokens: what one is, how it is written, and what the controller keeps of it.

Text form: `nodectl1.` + base64url (no padding) of a JSON object
`{"ca": hex sha256, "id": hex, "realm": hex, "secret": hex, "urls": [...]}`. The controller keeps
BLAKE3 of the secret, never the secret (which has 256 random bits, so a plain hash is enough).
"""

import base64
import hmac
import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple

from blake3 import blake3

from nodectl.errors import InvalidInput, TokenRefused

_PREFIX = "nodectl1."
_TEXT_MAX = 4096
_ID_BYTES = 8
_SECRET_BYTES = 32
_MAC = re.compile("[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_GET_ANOTHER = "make a new one on the controller: nodectl token create --role node"


class Role(StrEnum):
    """What a member of the realm may do.

    The controller is none of them: it is known by the realm's keys and by a certificate for TLS
    servers, which no member has.
    """

    OPERATOR = "operator"  # everything
    NODE = "node"  # its own work, and reading releases
    INSTALLER = "installer"  # its own work and the releases that it names, nothing else


class Machine(NamedTuple):
    """The machine that a token is for; an empty text: any."""

    name: str = ""
    mac: str = ""  # of one of its network cards, lower case


ANY_MACHINE = Machine()


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a machine needs in order to join."""

    urls: tuple[str, ...]  # controllers, the first is tried first
    ca_sha256: bytes  # of the CA certificate's DER bytes
    token_id: str
    secret: bytes = field(repr=False)
    realm_id: str

    def text(self) -> str:
        """Return the token as it is given to a person: a secret."""
        document = {
            "ca": self.ca_sha256.hex(),
            "id": self.token_id,
            "realm": self.realm_id,
            "secret": self.secret.hex(),
            "urls": list(self.urls),
        }
        packed = json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
        return _PREFIX + base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What the controller keeps of a token."""

    token_id: str
    secret_hash: str  # hexadecimal
    role: Role
    expires: int  # seconds since 1970, controller's clock
    uses_left: int
    machine: Machine = ANY_MACHINE
    replaces: bool = False  # a boot ticket: takes the place of the member of its name

    def to_json(self) -> dict[str, Any]:
        """Return the record as a catalog document."""
        return {
            "token_id": self.token_id,
            "secret_hash": self.secret_hash,
            "role": self.role.value,
            "expires": self.expires,
            "uses_left": self.uses_left,
            "machine": list(self.machine),
            "replaces": self.replaces,
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> "TokenRecord":
        """Return the record that `to_json` wrote."""
        machine = Machine(*document.get("machine", ()))
        return cls(**{**document, "role": Role(document["role"]), "machine": machine})

    def check(self, secret: bytes, now: int) -> None:
        """Refuse a wrong secret, a token past its time, and one that is used up.

        Raises:
            TokenRefused: with one sentence for each.
        """
        if not hmac.compare_digest(_hash(secret), self.secret_hash):
            raise TokenRefused("the join token is wrong: its secret is not the one issued")
        if now >= self.expires:
            raise TokenRefused("the join token has expired", hint=_GET_ANOTHER)
        if self.uses_left < 1:
            raise TokenRefused("the join token was used already", hint=_GET_ANOTHER)

    def check_machine(self, name: str, macs: Collection[str]) -> None:
        """Refuse a machine that the token is not for.

        Raises:
            TokenRefused: so it is.
        """
        if self.machine.name not in {"", name}:
            raise TokenRefused(
                f"the join token is for a node named {self.machine.name}, not {name}",
                hint=f"join with --name {self.machine.name}, or make another token",
            )
        if self.machine.mac and self.machine.mac not in {mac.lower() for mac in macs}:
            raise TokenRefused(
                f"the join token is for the machine with the network card {self.machine.mac}",
                hint=_GET_ANOTHER,
            )

    def used(self) -> "TokenRecord":
        """Return the record after one more use."""
        return replace(self, uses_left=self.uses_left - 1)

    def given_back(self) -> "TokenRecord":
        """Return the record after a use that came to nothing."""
        return replace(self, uses_left=self.uses_left + 1)


def new_token(urls: tuple[str, ...], ca_sha256: bytes, realm_id: str) -> Token:
    """Make a token with a fresh id and secret."""
    return Token(
        urls=urls,
        ca_sha256=ca_sha256,
        token_id=secrets.token_hex(_ID_BYTES),
        secret=secrets.token_bytes(_SECRET_BYTES),
        realm_id=realm_id,
    )


def checked_mac(text: str) -> str:
    """Return a MAC address in lower case, with colons.

    Raises:
        InvalidInput: it is none.
    """
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise InvalidInput(f"not a MAC address: {text[:40]!r}", hint="example: 52:54:00:12:34:56")
    return mac


def record_of(
    token: Token,
    *,
    role: Role,
    expires: int,
    uses: int,
    machine: Machine = ANY_MACHINE,
    replaces: bool = False,
) -> TokenRecord:
    """Return what the controller keeps of a token that it issues."""
    return TokenRecord(
        token_id=token.token_id,
        secret_hash=_hash(token.secret),
        role=role,
        expires=expires,
        uses_left=uses,
        machine=machine,
        replaces=replaces,
    )


def parse_token(text: str) -> Token:
    """Return the token that a person gave.

    Raises:
        TokenRefused: it is no token, or not a whole one.
    """
    text = text.strip()
    if not text.startswith(_PREFIX) or len(text) > _TEXT_MAX:
        raise TokenRefused(f"that is no join token (it begins with {_PREFIX})", hint=_GET_ANOTHER)
    packed = text.removeprefix(_PREFIX)
    try:
        document = json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4)))
        token = Token(
            urls=tuple(str(url) for url in document["urls"]),
            ca_sha256=bytes.fromhex(document["ca"]),
            token_id=str(document["id"]),
            secret=bytes.fromhex(document["secret"]),
            realm_id=str(document["realm"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise TokenRefused("the join token is damaged", hint="copy it again, whole") from exc
    whole = len(token.secret) == len(token.ca_sha256) == _SECRET_BYTES
    if not whole or token.text() != text:  # one token has one text
        raise TokenRefused("the join token is damaged", hint="copy it again, whole")
    return token


def _hash(secret: bytes) -> str:
    return blake3(b"nodectl join token\n" + secret).hexdigest()
