"""Frames onto a connection without a copy: the kernel takes them from where they are.

A transport of asyncio copies what the socket does not take at once, which for spans is most of it.
Here `writev` gives the kernel as much as it takes whenever the transport has nothing to send
itself; a little goes through the transport each time, whose end says that there is room again.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web

from nodectl.swarm.rate import RateLimiter

_THROUGH = 16 * 1024  # bytes given to the transport in order to be told of room
_PIECE = 32 * 1024  # bytes sent at once under a rate limit
_IOV_MAX = 1024  # buffers of one call; limits.h


async def send_all(
    transport: asyncio.Transport,
    buffers: Sequence[bytes],
    drained: Callable[[], Awaitable[None]],
    progress_s: float,
) -> None:
    """Send buffers, one behind the other, over a plain (not TLS) transport.

    Args:
        transport: of the connection.
        buffers: what to send.
        drained: waits until the transport may be given more.
        progress_s: within which the other side has to take `_THROUGH` bytes.

    Raises:
        TimeoutError: it did not.
        ConnectionError: it is gone.
    """
    left = [memoryview(buffer) for buffer in buffers if buffer]
    left.reverse()  # the next one stands at the end
    transport.set_write_buffer_limits(high=0)  # `drained` waits for the last byte of it
    fd = transport.get_extra_info("socket").fileno()
    while left:
        if transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        if not transport.get_write_buffer_size():
            with contextlib.suppress(BlockingIOError):
                _drop(left, os.writev(fd, left[: -_IOV_MAX - 1 : -1]))
        if left:
            piece = left[-1][:_THROUGH]
            transport.write(piece)
            _drop(left, len(piece))
            async with asyncio.timeout(progress_s):
                await drained()


async def send_slowly(
    response: web.StreamResponse,
    buffers: Sequence[bytes],
    rates: Sequence[RateLimiter],
    progress_s: float,
) -> None:
    """Send buffers as fast as all of the rates allow; else as `send_all`."""
    for buffer in buffers:
        view = memoryview(buffer)
        for begin in range(0, len(view), _PIECE):
            piece = view[begin : begin + _PIECE]
            for rate in rates:
                await rate.take(len(piece))
            async with asyncio.timeout(progress_s):
                await response.write(piece)


def _drop(left: list[memoryview], size: int) -> None:
    """Take `size` bytes from the front, which is the end of the list."""
    while size:
        first = left.pop()
        if len(first) > size:
            left.append(first[size:])
        size -= min(size, len(first))
