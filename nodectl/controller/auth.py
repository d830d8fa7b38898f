"""Who asks, and whether they may.

Every request but a join and the telling of a first start (they bring a token, or a ticket) comes
over a connection on which a certificate of the realm was presented, and carries a MAC keyed with
its node's secret; both must be of the same member, and the certificate one that the realm still
counts. Else the answer is 401 with no content. Then `policy.py` says what the member's role may
call; else 403.

Every answer, those too, carries the controller's time, so that a client whose clock is wrong can
correct itself and ask once more; and `X-Nodectl-Renew: 1` when its certificate is to be renewed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware

from nodectl.catalog.records import NodeRecord
from nodectl.controller import policy
from nodectl.controller.audit import Audit
from nodectl.controller.members import Members, good_certificate
from nodectl.door import Guarded, prove
from nodectl.errors import (
    AlreadyThere,
    ContentInvalid,
    InvalidInput,
    InventoryInvalid,
    LayoutInvalid,
    MacRefused,
    NameTaken,
    NetbootRefused,
    NodectlError,
    NotAllowed,
    PathMissing,
    TokenRefused,
    UnknownImage,
    UnknownJob,
    UnknownNode,
    WriteConflict,
)
from nodectl.trust.certificate import Presented, presented
from nodectl.trust.mac import RENEW_HEADER, TIME_HEADER, MacVerifier, Signed

log = logging.getLogger(__name__)

_BODY_S = 30.0  # for a body to come
_JOIN_MAX = 65_536  # bytes of the one body that is read before anybody proved to be somebody

NODE = web.RequestKey("node", str)
MEMBER = web.RequestKey("member", NodeRecord)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: dict[type[NodectlError], HTTPStatus] = {
    AlreadyThere: HTTPStatus.CONFLICT,
    ContentInvalid: HTTPStatus.BAD_REQUEST,
    InvalidInput: HTTPStatus.BAD_REQUEST,
    InventoryInvalid: HTTPStatus.BAD_REQUEST,
    LayoutInvalid: HTTPStatus.BAD_REQUEST,
    NameTaken: HTTPStatus.CONFLICT,
    NetbootRefused: HTTPStatus.BAD_REQUEST,
    NotAllowed: HTTPStatus.FORBIDDEN,
    PathMissing: HTTPStatus.NOT_FOUND,
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
    """Lets members in: who they are, and what their role may call."""

    def __init__(
        self,
        members: Members,
        heard: Heard,
        now: Callable[[], float],
        *,
        owns: Callable[[NodeRecord, str, Mapping[str, str]], bool],
        audit: Audit,
    ) -> None:
        """Check against the members' secrets and certificates and the controller's clock.

        `owns` says whether what the fields of a path (as the router writes it) name concerns a
        member itself.
        """
        self._members = members
        self._heard = heard
        self._now = now
        self._owns = owns
        self._audit = audit
        self._found: NodeRecord | None = None  # by the verifier, for the request that it checks
        self._verifier = MacVerifier(self._secret_of, now_ms=lambda: int(now() * 1000))

    async def _signer(self, request: web.BaseRequest) -> NodeRecord:
        """Return the member whose MAC a request carries.

        Raises:
            MacRefused: none.
        """
        header = request.headers.get("Authorization")
        if header is None:
            raise MacRefused("the request carries no MAC")  # before its body is read
        body = await read_body(request) if request.body_exists else b""
        return self._signed(header, Signed(request.method, request.raw_path, body))

    def _signed(self, header: str, signed: Signed) -> NodeRecord:
        self._verifier.verify(header, signed)
        found, self._found = self._found, None
        if found is None:
            raise RuntimeError("a MAC was checked without a key")
        return found

    def _secret_of(self, name: str) -> bytes | None:
        self._found = self._members.find(name)
        return None if self._found is None else self._found.secret

    async def _admit(self, request: web.Request) -> NodeRecord:
        """Return the member who asks: its MAC and its certificate say the same name.

        Raises:
            MacRefused: not both, or the certificate is not, or no longer, good.
        """
        shown = presented(request.get_extra_info("peercert"))
        if shown is None:
            raise MacRefused("no certificate was presented")
        node = self._checked(shown, await self._signer(request))
        prove(request.transport)
        self._heard.note(node.name, request.remote or "")
        return node

    def admit_at_desk(self, connection: Guarded, header: str, target: str) -> NodeRecord:
        """Return the member who asks (GET) for `target`, by the same rules.

        Raises:
            MacRefused: nobody.
        """
        transport = connection.transport
        shown = presented(transport.get_extra_info("peercert"))
        if shown is None:
            raise MacRefused("no certificate was presented")
        node = self._checked(shown, self._signed(header, Signed("GET", target)))
        connection.prove()
        self._heard.note(node.name, transport.get_extra_info("peername")[0])
        return node

    def _checked(self, shown: Presented, node: NodeRecord) -> NodeRecord:
        if shown.name != node.name:
            raise MacRefused(f"the certificate of {shown.name} came with a MAC of {node.name}")
        if not good_certificate(node, shown.serial, self._now()):
            raise MacRefused(f"the certificate of {node.name} has ended or was replaced")
        return node

    def refused(self, why: MacRefused, *, method: str, path: str, address: str) -> None:
        """Log and audit that somebody is no member."""
        log.info("%s %s from %s: %s", method, path, address, why)
        self._audit.refused(str(why), path=path, address=address)

    def renewal_due(self, node: NodeRecord) -> bool:
        """Say whether a member should ask for a new certificate."""
        return self._members.renewal_due(node)

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
            if (request.method, request.path) in {policy.JOIN, policy.BOOTED}:
                if (request.content_length or _JOIN_MAX + 1) > _JOIN_MAX:
                    return web.Response(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                joins = request.path == policy.JOIN[1]
                request[NODE] = await self._rejoining(request) if joins else ""
                return await handler(request)
            try:
                node = await self._admit(request)
            except MacRefused as exc:
                address = request.remote or ""
                self.refused(exc, method=request.method, path=request.path, address=address)
                refusal = web.Response(status=HTTPStatus.UNAUTHORIZED)
                refusal.force_close()
                return refusal
            request[NODE], request[MEMBER] = node.name, node
            self._check_rights(request, node)
            response = await handler(request)
            if self.renewal_due(node):
                response.headers[RENEW_HEADER] = "1"
            return response

        return guard

    async def _rejoining(self, request: web.Request) -> str:
        """Return the name of the member that joins again, or an empty text."""
        if "Authorization" not in request.headers:
            return ""
        try:
            return (await self._signer(request)).name
        except MacRefused as exc:
            log.info("a join from %s: %s", request.remote, exc)
            return ""

    def _check_rights(self, request: web.Request, node: NodeRecord) -> None:
        """Refuse what the role of a member may not call.

        Raises:
            NotAllowed: so it is; logged and audited.
        """
        resource = request.match_info.route.resource
        if resource is None:
            raise web.HTTPNotFound  # no such path: a member may know that
        scope = policy.rights(request.method, resource.canonical).of(node.role)
        if scope is policy.Scope.ALL:
            return
        path = resource.canonical
        if scope is policy.Scope.OWN and self._owns(node, path, request.match_info):
            return
        log.warning(
            "refused %s %s by %s (%s) from %s",
            request.method, request.path, node.name, node.role, request.remote,
        )  # fmt: skip
        self._audit.refused(
            f"{request.method} is not for the role {node.role}",
            path=request.path,
            address=request.remote or "",
            who=node.name,
        )
        if scope is policy.Scope.OWN and path.startswith(("/v1/releases", "/v1/swarm")):
            raise NotAllowed(
                f"this image is not for {node.name}",
                hint="an operator says whom it is for: nodectl image access NAME --nodes ...; an "
                "installer needs a job that names it",
            )
        raise NotAllowed(
            f"{node.name} has the role {node.role}, and this needs an operator",
            hint="join this machine with a token made by: nodectl token create --role operator",
        )


async def read_body(request: web.BaseRequest) -> bytes:
    """Return the body of a request.

    Raises:
        InvalidInput: it did not come in time, or was cut off or not of the form it said.
        web.HTTPRequestEntityTooLarge: it is larger than any that is expected.
    """
    try:
        async with asyncio.timeout(_BODY_S):
            return await request.read()
    except TimeoutError as exc:
        raise InvalidInput("the body of the request did not come in time") from exc
    except (web.RequestPayloadError, HttpProcessingError, ConnectionError) as exc:
        raise InvalidInput("the body of the request cannot be read") from exc


def _error_response(request: web.Request, error: NodectlError) -> web.Response:
    status = _STATUS.get(type(error), HTTPStatus.INTERNAL_SERVER_ERROR)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s: %s", request.method, request.path, error)
    return web.json_response(
        {"error": type(error).__name__, "sentence": str(error), "hint": error.hint}, status=status
    )
