"""A bell: many wait, one rings, all wake. What long polls wait for."""

import asyncio
import contextlib


class Bell:
    """Wakes everybody who waits; remembers nothing, so look again after waking."""

    def __init__(self) -> None:
        """Start silent."""
        self._event = asyncio.Event()
        self.closed = False

    def ring(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        if not self.closed:
            self._event = asyncio.Event()

    def close(self) -> None:
        """Wake all, and let nobody wait any more: the server is stopping."""
        self.closed = True
        self._event.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until the bell rings, at most `timeout_s` seconds."""
        event = self._event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
