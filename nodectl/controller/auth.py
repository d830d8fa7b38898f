"""Who asks: every request but a join carries a MAC keyed with its node's secret.

Without a right one the answer is 401 with no content. Every answer, that one too, carries the
controller's time, so that a client whose clock is wrong can correct itself and ask once more.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Middleware

from nodectl.controller.members import Members
from nodectl.errors import (
    AlreadyThere,
    ContentInvalid,
    InvalidInput,
    MacRefused,
    NameTaken,
    NodectlError,
    NotAllowed,
    TokenRefused,
    UnknownImage,
    UnknownJob,
    UnknownNode,
    WriteConflict,
)
from nodectl.trust.mac import TIME_HEADER, MacVerifier, Signed
from nodectl.trust.token import Role

log = logging.getLogger(__name__)

JOIN_PATH = "/v1/join"

NODE = web.RequestKey("node", str)
ROLE = web.RequestKey("role", Role)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: dict[type[NodectlError], HTTPStatus] = {
    AlreadyThere: HTTPStatus.CONFLICT,
    ContentInvalid: HTTPStatus.BAD_REQUEST,
    InvalidInput: HTTPStatus.BAD_REQUEST,
    NameTaken: HTTPStatus.CONFLICT,
    NotAllowed: HTTPStatus.FORBIDDEN,
    TokenRefused: HTTPStatus.FORBIDDEN,
    UnknownImage: HTTPStatus.NOT_FOUND,
    UnknownJob: HTTPStatus.NOT_FOUND,
    UnknownNode: HTTPStatus.NOT_FOUND,
    WriteConflict: HTTPStatus.CONFLICT,
}


class Heard:
    """When and from where each node was last heard of."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Start having heard nobody."""
        self._monotonic = monotonic
        self._began = monotonic()
        self._at: dict[str, float] = {}
        self._address: dict[str, str] = {}

    def note(self, node: str, address: str) -> None:
        """Take note that a node asked something."""
        self._at[node] = self._monotonic()
        self._address[node] = address

    def at(self, node: str) -> float:
        """Return when a node was last heard of; for one never heard of, when this began."""
        return self._at.get(node, self._began)

    def seconds_ago(self, node: str) -> float | None:
        """Return how long ago a node was heard of, or None."""
        at = self._at.get(node)
        return None if at is None else self._monotonic() - at

    def address(self, node: str) -> str:
        """Return the address that a node last asked from, or an empty text."""
        return self._address.get(node, "")

    def forget(self, node: str) -> None:
        """Forget a node that was removed."""
        self._at.pop(node, None)
        self._address.pop(node, None)


class Gate:
    """Lets members in."""

    def __init__(self, members: Members, heard: Heard, now: Callable[[], float]) -> None:
        """Check against the members' secrets and the controller's clock."""
        self._members = members
        self._heard = heard
        self._now = now
        self._verifier = MacVerifier(self._secret_of, now_ms=lambda: int(now() * 1000))

    async def client_of(self, request: web.Request) -> str | None:
        """Return the name of the member that made this request, else None."""
        header = request.headers.get("Authorization")
        if header is None:
            return None  # before its body is read
        signed = Signed(request.method, request.path_qs, await request.read())
        try:
            return self._verifier.verify(header, signed)
        except MacRefused as exc:
            log.info("%s %s from %s: %s", request.method, request.path, request.remote, exc)
            return None

    def _secret_of(self, name: str) -> bytes | None:
        node = self._members.find(name)
        return None if node is None else node.secret

    def answer_errors(self) -> Middleware:
        """Return what turns errors into answers and puts the time on every answer."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                response = await handler(request)
            except NodectlError as error:
                response = _error_response(request, error)
            except web.HTTPException as error:
                response = web.Response(status=error.status)
            response.headers[TIME_HEADER] = str(int(self._now() * 1000))
            return response

        return answer

    def guard(self) -> Middleware:
        """Return what stands before every handler."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            client = await self.client_of(request)
            if request.path == JOIN_PATH and request.method == "POST":
                request[NODE] = client or ""
                return await handler(request)
            if client is None:
                return web.Response(status=HTTPStatus.UNAUTHORIZED)
            self._heard.note(client, request.remote or "")
            request[NODE] = client
            request[ROLE] = self._members.get(client).role
            return await handler(request)

        return guard


def _error_response(request: web.Request, error: NodectlError) -> web.Response:
    status = _STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s: %s", request.method, request.path, error)
    return web.json_response(
        {"error": type(error).__name__, "sentence": str(error), "hint": error.hint}, status=status
    )


def require_operator(request: web.Request) -> None:
    """Refuse a member that is no operator.

    Raises:
        NotAllowed: it is a node.
    """
    if request[ROLE] is not Role.OPERATOR:
        raise NotAllowed(
            f"{request[NODE]} has the role node, and this needs an operator",
            hint="join this machine with a token made by: nodectl token create --role operator",
        )


def require_self(request: web.Request, node: str) -> None:
    """Refuse a node that speaks for another one; an operator may.

    Raises:
        NotAllowed: it is another node.
    """
    if request[NODE] != node:
        require_operator(request)
