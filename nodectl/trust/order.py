r"""Orders: what one node is to do for one job, signed by the controller.

A node does nothing for a job without an order that names the realm, the node, the job, what is to
be done and until when. It is signed with a key that the controller uses for nothing else and that
each member pinned when it joined: neither a peer, nor a publisher, nor who can write to the
catalog alone, can make a node write to its disks.

Signed form: Ed25519 over `nodectl order 1\n` followed by the canonical JSON of the order (keys
sorted, no spaces, ASCII). JSON document: `{"order": {...}, "signature": hex, "key": hex}`.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from nodectl.errors import OrderRefused
from nodectl.trust.release import publisher_of

LIFE_S = 24 * 3600
_DOMAIN = b"nodectl order 1\n"
_HINT = (
    "only the controller of this realm can order work; its log and `nodectl audit show` tell more"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What one node is to do."""

    realm: str
    node: str
    job_id: int
    task: str
    name: str  # of the release
    generation: int
    root: str  # hexadecimal
    options: Mapping[str, Any]
    expires: int  # seconds since 1970, by the controller's clock

    def signed_bytes(self) -> bytes:
        """Return the bytes that the signature covers."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return _DOMAIN + text.encode("ascii")


def sign_order(order: Order, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return the document of an order, signed with the controller's job key."""
    return {
        "order": asdict(order),
        "signature": key.sign(order.signed_bytes()).hex(),
        "key": publisher_of(key).hex(),
    }


def verify_order(document: object, expected: Order, *, keys: Collection[bytes], now: float) -> None:
    """Refuse a document that does not order exactly what is about to be done.

    Args:
        document: as the controller sent it.
        expected: what this node is about to do; its `expires` does not count.
        keys: the pinned job keys, raw Ed25519 public keys.
        now: seconds since 1970, by the controller's clock.

    Raises:
        OrderRefused: malformed, by another key, for something else, or its time is over.
    """
    what = f"job {expected.job_id}"
    try:
        key, signature, fields = _parts(document)
        order = Order(**fields)
        if key not in keys:
            raise OrderRefused(f"{what} is signed by another key than the controller's", hint=_HINT)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, order.signed_bytes())
    except (InvalidSignature, ValueError, TypeError, KeyError) as exc:
        raise OrderRefused(f"{what} is not signed by the controller", hint=_HINT) from exc
    said, meant = asdict(order), asdict(expected)
    expires = said.pop("expires")
    del meant["expires"]
    for name, value in meant.items():
        if said[name] != value or type(said[name]) is not type(value):
            raise OrderRefused(f"the order of {what} is for another {name}", hint=_HINT)
    if not isinstance(expires, int) or now >= expires:
        raise OrderRefused(f"the order of {what} has ended", hint="start the job again")


def _parts(document: object) -> tuple[bytes, bytes, dict[str, Any]]:
    if not isinstance(document, dict) or set(document) != {"order", "signature", "key"}:
        raise ValueError("the fields are order, signature, key")
    fields = document["order"]
    if not isinstance(fields, dict):
        raise ValueError("an order is a JSON object")  # noqa: TRY004 - of the document
    return bytes.fromhex(document["key"]), bytes.fromhex(document["signature"]), fields
