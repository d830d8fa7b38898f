"""Who may ask: finds the swarm and the client of a request, or refuses it."""

import contextlib
from collections.abc import Callable

from nodectl.errors import MacRefused
from nodectl.swarm.keys import SwarmKeys
from nodectl.trust.mac import MacVerifier, Signed


class Door:
    """Checks the MACs of one swarm's requests, by each key that counts at the moment."""

    def __init__(self, keys: SwarmKeys, now_ms: Callable[[], int]) -> None:
        """Let in who knows one of `keys`; `now_ms` is the controller's time."""
        self._keys = keys
        self._now_ms = now_ms
        self._verifiers: dict[bytes, MacVerifier] = {}

    def client(self, header: str | None, signed: Signed) -> str:
        """Return the client of a request made with a key that counts now.

        Raises:
            MacRefused: it is none.
        """
        keys = self._keys.accepted()
        for key in keys:
            if key not in self._verifiers:
                self._verifiers = {k: v for k, v in self._verifiers.items() if k in keys}
                self._verifiers[key] = MacVerifier(_always(key), now_ms=self._now_ms)
        *others, last = keys
        for key in others:
            with contextlib.suppress(MacRefused):
                return self._verifiers[key].verify(header, signed)
        return self._verifiers[last].verify(header, signed)


def _always(key: bytes) -> Callable[[str], bytes]:
    """Return what gives every client the same key: that of the swarm."""
    return lambda _: key
