"""What aiohttp's server has to say, in a form that a stranger cannot fill a log with.

aiohttp writes a traceback for each request that it cannot parse. Here what is the asker's fault is
one line, and not each time: once a minute for each address, and `_LINES_MAX` in a minute for all,
with how many were left out. What is a fault of ours keeps its traceback, as many in a minute.
"""

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

_AGAIN_S = 60.0
_LINES_MAX = 20
_REASON_MAX = 120  # characters of what the parser says: it may quote the request
_FAULTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError, TimeoutError)

_ExcInfo = (
    bool | BaseException | tuple[type[BaseException], BaseException, TracebackType | None] | None
)


class WebLog(logging.LoggerAdapter[logging.Logger]):
    """Given to aiohttp in place of a logger."""

    def __init__(
        self, logger: logging.Logger, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write to `logger` about requests to `what` ("the controller")."""
        super().__init__(logger, {})
        self._what = what
        self._clock = clock
        self._began = clock()
        self._written: Counter[str] = Counter()  # address: lines in this minute; "": tracebacks
        self._left_out = 0

    def exception(  # type: ignore[override]
        self,
        msg: object,
        *args: object,
        exc_info: _ExcInfo = True,
        **kwargs: Any,  # noqa: ANN401 - as logging has it
    ) -> None:
        """Write what went wrong with a request: `msg` and its first argument, the address."""
        error = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        asker = str(args[0]) if args else ""
        fault = isinstance(error, _FAULTS)
        if not self._may_write(asker if fault else ""):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        if fault:
            reason = " ".join(str(error).split())[:_REASON_MAX] or type(error).__name__
            shown = "".join(
                char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in reason
            )
            self.warning(
                "a request from %s to %s could not be read: %s (%d more were not written here)",
                asker, self._what, shown, left_out,
            )  # fmt: skip
        else:
            super().exception(msg, *args, exc_info=exc_info, **kwargs)

    def _may_write(self, asker: str) -> bool:
        """Say whether there is room for one more line in this minute, and count it."""
        now = self._clock()
        if now - self._began >= _AGAIN_S:
            self._began = now
            self._written.clear()
        once = bool(asker) and bool(self._written[asker])
        if once or self._written.total() >= _LINES_MAX:
            return False
        self._written[asker] += 1
        return True
