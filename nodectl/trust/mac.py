"""The MAC that each request carries, on the control plane and between peers.

    Authorization: NCTL1 <client> <unix_ms> <nonce> <mac>

* client: the name of the node that asks (`ids.checked_name`); unix_ms: its time in milliseconds,
  decimal digits; nonce: 16 random bytes, mac: 32 bytes, both in lower-case hexadecimal digits;
  one space between two fields.
* mac = BLAKE3 keyed with the 32-byte key over these fields, each behind its length (u32,
  little-endian): method (upper case), target (path with query as it stands in the request line),
  client, unix_ms (the same text), nonce (the 16 bytes), BLAKE3 of the body (32 bytes).

A server accepts a time at most 120 s from its own, and each nonce once. Every answer 401 and every
answer of the controller carries `X-Nodectl-Time: <unix_ms>`, so that a machine whose clock is wrong
(installers begin in 1970) signs again with the difference added. The key tells what may be
reached: a node's own secret for the controller, the swarm key of one manifest for peers.
"""

import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from nodectl.errors import MacRefused

SCHEME = "NCTL1"
TIME_HEADER = "X-Nodectl-Time"
RENEW_HEADER = "X-Nodectl-Renew"  # the controller asks this member for a new certificate's request
SKEW_MS = 120_000
NONCE_BYTES = 16
_REMEMBERED = 1 << 15  # nonces, about 5 MB; at 130 requests/s none is forgotten before its time
_HEADER = re.compile(
    r"NCTL1 ([A-Za-z0-9][A-Za-z0-9._-]{0,62}) ([0-9]{1,15}) ([0-9a-f]{32}) ([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Signed:
    """The part of a request that the MAC covers, besides client, time and nonce."""

    method: str
    target: str  # path with query, as in the request line
    body: bytes = b""


def _mac(key: bytes, request: Signed, client: str, unix_ms: str, nonce: bytes) -> bytes:
    fields = (
        request.method.encode(),
        request.target.encode(),
        client.encode(),
        unix_ms.encode(),
        nonce,
        blake3(request.body).digest(),
    )
    message = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return blake3(message, key=key).digest()


def sign_request(
    request: Signed, *, client: str, key: bytes, unix_ms: int, nonce: bytes | None = None
) -> str:
    """Return the value of the `Authorization` header.

    Args:
        request: what is asked.
        client: the name of this node.
        key: 32 bytes.
        unix_ms: now, by the server's clock as far as it is known.
        nonce: 16 bytes never used before; by default from the system's random source.
    """
    nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
    mac = _mac(key, request, client, str(unix_ms), nonce)
    return f"{SCHEME} {client} {unix_ms} {nonce.hex()} {mac.hex()}"


class MacVerifier:
    """Checks the header of requests to one server; remembers nonces within a bound.

    When there is no room for one more nonce, the older half is forgotten, and from then on
    requests as old as those are refused: a replay never passes, an honest client signs again.
    """

    def __init__(
        self,
        key_of: Callable[[str], bytes | None],
        *,
        now_ms: Callable[[], int],
        remembered: int = _REMEMBERED,
    ) -> None:
        """Prepare.

        Args:
            key_of: returns the key of a client, None for one that has none.
            now_ms: this server's time, unix milliseconds.
            remembered: nonces kept, at most.
        """
        self._key_of = key_of
        self._now_ms = now_ms
        self._remembered = remembered
        self._nonces: dict[bytes, int] = {}  # -> unix_ms of its request
        self._oldest = 0  # unix_ms: a request that is not younger is refused

    def verify(self, header: str | None, request: Signed) -> str:
        """Return the client that made this request.

        Raises:
            MacRefused: no header, not of this form, unknown client, wrong MAC, wrong time, or
                seen before. The reason is for this server's log; a client is told nothing.
        """
        match = _HEADER.fullmatch(header or "")
        if match is None:
            raise MacRefused("the request carries no MAC")
        client, stamp, nonce_hex, mac_hex = match.groups()
        key = self._key_of(client)
        nonce = bytes.fromhex(nonce_hex)
        # A client without a key costs the same time as one with a wrong MAC.
        mac = _mac(key or bytes(32), request, client, stamp, nonce)
        if not hmac.compare_digest(mac, bytes.fromhex(mac_hex)) or key is None:
            raise MacRefused(f"the MAC of a request by {client} is wrong")
        unix_ms, now_ms = int(stamp), self._now_ms()
        if abs(unix_ms - now_ms) > SKEW_MS or unix_ms <= self._oldest:
            raise MacRefused(f"a request by {client} is {(now_ms - unix_ms) / 1000:.0f} s old")
        if nonce in self._nonces:
            raise MacRefused(f"a request by {client} was seen before")
        if len(self._nonces) >= self._remembered:
            self._forget(now_ms)
            if unix_ms <= self._oldest:
                raise MacRefused(f"a request by {client} came too late among too many")
        self._nonces[nonce] = unix_ms
        return client

    def _forget(self, now_ms: int) -> None:
        """Drop nonces whose time is out; where that is not enough, the older half."""
        alive = {n: at for n, at in self._nonces.items() if at >= now_ms - SKEW_MS}
        if len(alive) > self._remembered // 2:
            self._oldest = max(self._oldest, sorted(alive.values())[len(alive) // 2])
            alive = {n: at for n, at in alive.items() if at > self._oldest}
        self._nonces = alive
