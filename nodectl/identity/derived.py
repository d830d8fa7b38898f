"""Values that follow from realm and node name: the same node gets the same ones again. Pure.

Two nodes of a realm, and nodes of two realms, never share one: BLAKE3 in its key derivation mode
over both names, each with its length before it, with a context for each purpose.
"""

import uuid

from blake3 import blake3

_MACHINE_ID_BYTES = 16  # machine-id(5): 32 lower-case hexadecimal digits
_CONTEXT = "nodectl 2026-11 "


def derive(purpose: str, *names: str, length: int) -> bytes:
    """Return bytes for a purpose ("machine id") and some names, of which order and ends count."""
    fields = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in names)
    return blake3(fields, derive_key_context=_CONTEXT + purpose).digest(length=length)


def derive_machine_id(realm_id: str, node_name: str) -> str:
    """Return the machine-id of a node."""
    return derive("machine id", realm_id, node_name, length=_MACHINE_ID_BYTES).hex()


def derive_uuid(purpose: str, *names: str) -> str:
    """Return a UUID for a purpose; marked as one made from a name (version 5, RFC 9562)."""
    return str(uuid.UUID(bytes=derive(purpose, *names, length=16), version=5))
