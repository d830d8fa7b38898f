"""The MAC that every request carries, on the control plane and between peers.

    Authorization: NCTL1 <client> <unix_ms> <nonce: 32 hex> <mac: 64 hex>

`mac` is BLAKE3 keyed with a 32-byte key over fields, each as a u32 little-endian length and its
bytes: method, path with query, client, unix_ms as text, nonce (16 bytes), BLAKE3 of the body. The
server accepts a time within 120 s of its own clock, and each nonce once.
"""

import hmac
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from blake3 import blake3

SCHEME = "NCTL1"
TIME_HEADER = "X-Nodectl-Time"
SKEW_MS = 120_000
_NONCES_MAX = 100_000
_HEADER = re.compile(
    rf"{SCHEME} ([A-Za-z0-9][A-Za-z0-9._-]{{0,62}}) ([0-9]{{1,16}})"
    r" ([0-9a-f]{32}) ([0-9a-f]{64})"
)


class SignedRequest(NamedTuple):
    """What the MAC covers."""

    method: str
    target: str  # path with query, as on the wire
    body: bytes


def authorization(
    key: bytes, request: SignedRequest, *, client: str, unix_ms: int, nonce: bytes
) -> str:
    """Return the value of the Authorization header."""
    mac = _mac(key, request, client, str(unix_ms), nonce)
    return f"{SCHEME} {client} {unix_ms} {nonce.hex()} {mac}"


class MacChecker:
    """Checks headers and remembers nonces; one for each key space of a server."""

    def __init__(self) -> None:
        """Start with no nonce seen."""
        self._nonces: OrderedDict[tuple[str, str], int] = OrderedDict()

    def check(
        self,
        header: str | None,
        request: SignedRequest,
        *,
        key_of: Callable[[str], bytes | None],
        now_ms: int,
    ) -> str | None:
        """Return the name of the client if the header is right, else None."""
        match = _HEADER.fullmatch(header or "")
        if match is None:
            return None
        client, unix_ms, nonce, mac = match.groups()
        key = key_of(client)
        if key is None:
            return None
        expected = _mac(key, request, client, unix_ms, bytes.fromhex(nonce))
        if not hmac.compare_digest(expected, mac) or abs(int(unix_ms) - now_ms) > SKEW_MS:
            return None
        return client if self._first_use((client, nonce), now_ms) else None

    def _first_use(self, nonce: tuple[str, str], now_ms: int) -> bool:
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = now_ms
        while len(self._nonces) > _NONCES_MAX:
            self._nonces.popitem(last=False)
        return True


def _mac(key: bytes, request: SignedRequest, client: str, unix_ms: str, nonce: bytes) -> str:
    fields = (
        request.method.encode("ascii"),
        request.target.encode("utf-8"),
        client.encode("ascii"),
        unix_ms.encode("ascii"),
        nonce,
        blake3(request.body).digest(),
    )
    hasher = blake3(key=key)
    for field in fields:
        hasher.update(struct.pack("<I", len(field)))
        hasher.update(field)
    return hasher.hexdigest()
