"""The connections of a member to its controllers.

The question for work has one of its own for each controller: the controller answers it at the door
as long as nothing else was asked on that connection, at a fraction of the cost.
"""

from typing import Self

import aiohttp

_WORK = "/v1/work?"
# Nobody reads these there, and the form of the question for work is the one without them.
_NEEDLESS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
_CONNECTIONS = 8  # to one controller


class Sessions:
    """Connections that stay open; an async context manager."""

    def __init__(self) -> None:
        """Prepare; nothing is opened before the context is entered."""
        self._work: aiohttp.ClientSession | None = None
        self._rest: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open both sessions; connections are made when something is asked."""
        self._work = _opened(1)
        self._rest = _opened(_CONNECTIONS)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        for session in (self._work, self._rest):
            if session is not None:
                await session.close()
        self._work = self._rest = None

    def of(self, target: str) -> aiohttp.ClientSession:
        """Return the session over which to ask for a target."""
        session = self._work if target.startswith(_WORK) else self._rest
        if session is None:
            raise RuntimeError("the client is not open")
        return session


def _opened(connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit_per_host=connections),
        auto_decompress=False,
        skip_auto_headers=_NEEDLESS,
    )
