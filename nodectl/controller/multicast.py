"""Sessions of multicast: what an operator may ask for, and the group that a job gets.

The group is one of 239.192.0.0/14, which RFC 2365 leaves to an organisation, taken at random: who
by chance shares it sees datagrams whose MAC is another session's, and passes them over.
"""

import random
from collections.abc import Mapping
from typing import Any

from nodectl.errors import InvalidInput
from nodectl.multicast.datagram import PORT, SESSION_BYTES, Session

OPTION = "multicast"
_BLOCK = (239, 192)
_BLOCK_BITS = 18  # of the addresses in it
_ASKED = frozenset({"rate", "ttl", "wait_s"})


def with_session(options: Mapping[str, Any], rng: random.Random) -> dict[str, Any]:
    """Return a job's options with the session that they ask for, where they ask for one.

    Raises:
        InvalidInput: they ask for something else than a rate, a TTL and a time to wait.
    """
    wanted = options.get(OPTION)
    if wanted is None:
        return dict(options)
    try:
        if set(wanted) - _ASKED:
            raise ValueError("multicast: only rate, ttl and wait_s can be set")  # noqa: TRY301
        session = Session(
            session=rng.randbytes(SESSION_BYTES), group=_group(rng), port=PORT, **wanted
        )
    except (ValueError, TypeError) as exc:
        raise InvalidInput(f"job: options.{exc}") from exc
    return {**options, OPTION: session.to_options()}


def _group(rng: random.Random) -> str:
    number = rng.randrange(1, (1 << _BLOCK_BITS) - 1)
    first, second = _BLOCK
    return f"{first}.{second + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
