"""The question that every member asks all the time, `GET /v1/work`, answered at the door.

2,000 nodes ask 200 times a second, and nearly always there is nothing to do. HTTP as aiohttp does
it (parser, tasks, router, middlewares, tables of headers) costs several times what TLS does for
such a question. So one that stands in one read, exactly as nodectl's own client writes it, on a
connection on which nothing else was asked yet, is answered here: by the same gate, the same table
of rights and the same jobs. Anything else goes to the application, which answers it alike.
"""

import asyncio
import json
import re
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, NamedTuple

from nodectl.catalog.records import NodeRecord
from nodectl.controller import policy
from nodectl.controller.auth import Gate
from nodectl.door import Guarded
from nodectl.errors import MacRefused
from nodectl.trust.mac import RENEW_HEADER, TIME_HEADER
from nodectl.trust.token import Role

_PATH = "/v1/work"
# No other headers: none that says that a body follows, or that the connection is to end.
_QUESTION = re.compile(
    rb"GET (/v1/work\?since=([0-9]{1,10})&wait_ms=([0-9]{1,5})) HTTP/1\.1\r\n"
    rb"Host: [A-Za-z0-9.:\[\]-]{1,255}\r\n"
    rb"Authorization: ([\x21-\x7e][\x20-\x7e]{0,511})\r\n\r\n"
)
_ANSWER = (
    "HTTP/1.1 200 OK\r\n"
    "Content-Type: application/json; charset=utf-8\r\n"
    "Date: {date}\r\n" + TIME_HEADER + ": {unix_ms}\r\n{renew}"
    "Content-Length: {length}\r\n\r\n"
)
_REFUSAL = (
    "HTTP/1.1 401 Unauthorized\r\n"
    "Date: {date}\r\n" + TIME_HEADER + ": {unix_ms}\r\n"
    "Content-Length: 0\r\nConnection: close\r\n\r\n"
)
_NOTHING = b'{"work": []}'

Work = list[dict[str, Any]]


class _Held(NamedTuple):
    """A question that waits for work."""

    node: NodeRecord
    since: int
    connection: Guarded


class Polls:
    """Answers the question for work; one owner: the controller's event loop."""

    def __init__(
        self,
        gate: Gate,
        find: Callable[[str, int], Work],
        now: Callable[[], float],
        *,
        wait_max_ms: int,
    ) -> None:
        """Prepare.

        Args:
            gate: says who asks.
            find: returns what a member has to do now for jobs after an id.
            now: the controller's clock.
            wait_max_ms: who asks for a longer wait is left to the application, which refuses it.
        """
        self._gate = gate
        self._find = find
        self._now = now
        self._wait_max_ms = wait_max_ms
        self._held: dict[_Held, asyncio.TimerHandle] = {}
        self._closed = False
        self._date = ""
        self._date_at = 0
        # Nobody's rights are looked at here: this is only for what all may ask.
        rights = policy.rights("GET", _PATH)
        self._open = all(rights.of(role) is policy.Scope.ALL for role in Role)

    def take(self, data: bytes, connection: Guarded) -> bool:
        """Answer a question of the usual form, now or when there is work; see `Desk`."""
        question = _QUESTION.fullmatch(data)
        if question is None or not self._open or int(question[3]) > self._wait_max_ms:
            return False
        try:
            header = question[4].decode("ascii")
            node = self._gate.admit_at_desk(connection, header, question[1].decode("ascii"))
        except MacRefused as exc:
            address = connection.transport.get_extra_info("peername")[0]
            self._gate.refused(exc, method="GET", path=_PATH, address=address)
            connection.transport.write(_REFUSAL.format(**self._stamps()).encode("ascii"))
            connection.transport.close()
            return True
        since, wait_s = int(question[2]), int(question[3]) / 1000
        work = self._find(node.name, since)
        if work or not wait_s or self._closed:
            self._answer(connection, node, work)
        else:
            self._hold(_Held(node, since, connection), wait_s)
        return True

    def ring(self) -> None:
        """Answer those for whom there is work now."""
        for held in list(self._held):
            work = self._find(held.node.name, held.since)
            if work:
                self._end(held, work)

    def forget(self, name: str) -> None:
        """End the waiting of who is no member any more: another may get its name, and its work."""
        for held in [held for held in self._held if held.node.name == name]:
            self._held.pop(held).cancel()
            held.connection.hold(None)
            held.connection.transport.close()

    def close(self) -> None:
        """Answer all, and let nobody wait any more: the server is stopping."""
        self._closed = True
        for held in list(self._held):
            self._end(held, [])

    def _hold(self, held: _Held, wait_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._held[held] = loop.call_later(wait_s, self._end, held, [])
        held.connection.hold(lambda: self._held.pop(held).cancel())

    def _end(self, held: _Held, work: Work) -> None:
        self._held.pop(held).cancel()
        held.connection.hold(None)
        self._answer(held.connection, held.node, work)

    def _answer(self, connection: Guarded, node: NodeRecord, work: Work) -> None:
        body = json.dumps({"work": work}).encode() if work else _NOTHING
        renew = f"{RENEW_HEADER}: 1\r\n" if self._gate.renewal_due(node) else ""
        head = _ANSWER.format(**self._stamps(), renew=renew, length=len(body))
        connection.transport.write(head.encode("ascii") + body)

    def _stamps(self) -> dict[str, object]:
        """Return the time as both headers have it."""
        now = self._now()
        if self._date_at != int(now):
            self._date, self._date_at = formatdate(int(now), usegmt=True), int(now)
        return {"date": self._date, "unix_ms": int(now * 1000)}
