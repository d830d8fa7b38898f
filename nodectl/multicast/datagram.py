"""Datagrams of a multicast session: their bytes, their MAC, and what a session is. Pure.

A sender pushes each span once, cut into pieces, to a group address; who is in the group takes what
it lacks, and fetches what did not come from the swarm. docs/protocol.md has the form; in short:

    magic "NCM1" (4) | session (8) | kind (1) | zero (3) | span u32 | offset u32 | sequence u32
    | payload (0 to 1428) | MAC (16)          integers little-endian

The MAC is BLAKE3 keyed with a key of the session, over all that stands before it. The session's key
is derived from the swarm key and the session's number, so that a datagram of one session means
nothing in another. Who has no swarm key cannot make one that counts; who has it can at worst make
frames that are not what their ids say, and these are thrown away.
"""

import hmac
import ipaddress
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Self

from blake3 import blake3

MAGIC = b"NCM1"
PIECE = 1428  # bytes of payload, at most: with all headers 1500, what Ethernet carries
SESSION_BYTES = 8
MAC_BYTES = 16
_HEAD = struct.Struct("<4s8sB3xIII")
OVERHEAD = _HEAD.size + MAC_BYTES
DATAGRAM = OVERHEAD + PIECE  # bytes of a full one
PORT = 7445
_DOMAIN = b"nodectl multicast 1\n"
_RATE_MAX = 1 << 40
_WAIT_MAX_S = 3600
_TTL_MAX = 255


class Kind(IntEnum):
    """What a datagram says."""

    PIECE = 0  # bytes of a span
    WAITING = 1  # the sender waits for receivers: it is there
    END = 2  # every span was sent


class Datagram(NamedTuple):
    """One datagram, its MAC checked."""

    kind: Kind
    span: int
    offset: int  # of the payload in the span's bytes, a multiple of PIECE
    sequence: int  # counts the datagrams of a session
    payload: memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What sender and receivers agree on; it comes with the controller's signed order."""

    session: bytes  # a number of its own, 8 bytes
    group: str  # IPv4 multicast address
    port: int
    rate: int  # bytes/s of payload
    ttl: int = 1  # routers that it may pass, and one
    wait_s: int = 10  # the sender waits so long for receivers that have taken the job

    def __post_init__(self) -> None:
        """Refuse what is no session: it comes from another machine.

        Raises:
            ValueError: names the field.
        """
        if len(self.session) != SESSION_BYTES:
            raise ValueError(f"multicast: session has not {SESSION_BYTES} bytes")
        if not ipaddress.IPv4Address(self.group).is_multicast:
            raise ValueError("multicast: group is no multicast address")
        bounds = {
            "port": (self.port, 65535),
            "rate": (self.rate, _RATE_MAX),
            "ttl": (self.ttl, _TTL_MAX),
            "wait_s": (self.wait_s, _WAIT_MAX_S),
        }
        for name, (value, most) in bounds.items():
            if type(value) is not int or not 1 <= value <= most:
                raise ValueError(f"multicast: {name} is not a number from 1 to {most}")

    def to_options(self) -> dict[str, Any]:
        """Return the JSON values that stand in a job's options."""
        return {**asdict(self), "session": self.session.hex()}

    @classmethod
    def from_options(cls, document: Mapping[str, Any]) -> Self:
        """Return what `to_options` wrote.

        Raises:
            ValueError: it is not of that form.
        """
        try:
            return cls(**{**document, "session": bytes.fromhex(document["session"])})
        except (KeyError, TypeError) as exc:
            raise ValueError("multicast: not a session") from exc


class Seal:
    """Makes and checks the datagrams of one session."""

    def __init__(self, swarm_key: bytes, session: bytes) -> None:
        """Derive the key of a session from that of its swarm (32 bytes)."""
        self._key = blake3(_DOMAIN + session, key=swarm_key).digest()
        self._session = session

    def make(
        self, kind: Kind, *, span: int = 0, offset: int = 0, sequence: int, payload: bytes = b""
    ) -> bytes:
        """Return one datagram."""
        head = _HEAD.pack(MAGIC, self._session, kind, span, offset, sequence & 0xFFFFFFFF)
        body = head + payload
        return body + blake3(body, key=self._key).digest(MAC_BYTES)

    def pieces(self, span: int, body: memoryview, sequence: int) -> Iterator[bytes]:
        """Yield the datagrams of one span, the first with number `sequence`."""
        for offset in range(0, len(body), PIECE):
            payload = bytes(body[offset : offset + PIECE])
            yield self.make(
                Kind.PIECE, span=span, offset=offset, sequence=sequence, payload=payload
            )
            sequence += 1

    def open(self, data: memoryview) -> Datagram | None:
        """Return what a datagram says, or None where it is none of this session.

        The cheap looks come first, then the MAC; nothing is kept of what fails.
        """
        if not OVERHEAD <= len(data) <= DATAGRAM:
            return None
        magic, session, kind, span, offset, sequence = _HEAD.unpack_from(data)
        if magic != MAGIC or session != self._session or kind not in _KINDS:
            return None
        end = len(data) - MAC_BYTES
        mac = blake3(data[:end], key=self._key).digest(MAC_BYTES)
        if not hmac.compare_digest(mac, data[end:]):
            return None
        return Datagram(_KINDS[kind], span, offset, sequence, data[_HEAD.size : end])


_KINDS = {kind.value: kind for kind in Kind}
