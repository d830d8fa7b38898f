"""Publishers: whose signature on a release counts, until when, and who was revoked.

The controller keeps the list; each member pins it when it joins and brings it up to date before it
takes a release. A member never forgets that a key was revoked, whatever it is told later: a
controller whose database was set back cannot bring a revoked key back to life.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from nodectl.trust.sshsig import KEY_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """One key."""

    key: bytes  # raw Ed25519 public key, 32 bytes
    name: str = ""
    added: int = 0  # seconds since 1970
    expires: int = 0  # seconds since 1970 by the controller's clock, 0: never
    revoked: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the document as it is kept and sent."""
        return {
            "key": self.key.hex(),
            "name": self.name,
            "added": self.added,
            "expires": self.expires,
            "revoked": self.revoked,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the publisher that `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        key = bytes.fromhex(document["key"])
        if len(key) != KEY_BYTES:
            raise ValueError("a publisher's key has 32 bytes")
        return cls(
            key=key,
            name=str(document["name"]),
            added=int(document["added"]),
            expires=int(document["expires"]),
            revoked=bool(document["revoked"]),
        )


def trusted_keys(publishers: Iterable[Publisher], now: float) -> frozenset[bytes]:
    """Return the keys that count at a moment of the controller's clock."""
    return frozenset(
        one.key for one in publishers if not one.revoked and (not one.expires or now < one.expires)
    )


def merged(pinned: Iterable[Publisher], told: Iterable[Publisher]) -> tuple[Publisher, ...]:
    """Return the list that was told, with every revocation that was ever known kept."""
    dead = {one.key: one for one in pinned if one.revoked}
    new = {one.key: replace(one, revoked=one.revoked or one.key in dead) for one in told}
    return tuple({**dead, **new}.values())
