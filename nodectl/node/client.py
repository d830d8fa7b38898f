"""The control API from the outside: what a node and the command line ask of the controller.

Controllers are tried in order until one answers. Every request is bounded in time and carries the
MAC of `trust/mac.py`; when the controller finds the time in it wrong, the offset to its clock is
learned from the answer and the request is made once more.
"""

import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import aiohttp

from nodectl import errors
from nodectl.catalog.records import Job, JobKind, JobState, ReleaseRecord, Work
from nodectl.errors import ControllerUnreachable, InvalidInput, NodectlError, NotAllowed
from nodectl.ids import Root
from nodectl.node.sessions import Sessions
from nodectl.node.state import Membership
from nodectl.swarm.terms import Terms
from nodectl.trust.ca import CONTROLLER_NAME, client_context
from nodectl.trust.certificate import load_identity
from nodectl.trust.mac import RENEW_HEADER, TIME_HEADER, Signed, sign_request
from nodectl.trust.publisher import Publisher

_ANSWER_MAX = 64 << 20  # bytes of one answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long to wait; seconds."""

    connect_s: float = 5.0
    answer_s: float = 30.0  # beyond what a long poll was allowed to take


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where another node serves a root."""

    node: str
    url: str
    complete: bool
    rack: str = ""  # where it stands; "": nobody said


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What a node needs in order to take part in the swarm of one root."""

    root: Root
    root_block: bytes = field(repr=False)
    swarm_key: bytes = field(repr=False)
    release: Mapping[str, Any]  # signed document, not verified yet
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The tracker's answer to an announcement."""

    peers: tuple[Peer, ...]
    known: int
    interval_s: float
    swarm_key: bytes = field(default=b"", repr=False)  # the present one
    terms: Terms = field(default_factory=Terms)


class Assigned(NamedTuple):
    """What this node is to do, and the order for it: signed, not verified yet."""

    job: Job
    work: Work
    order: object


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRow:
    """One node's work and how far it is."""

    work: Work
    done: int  # bytes of the current step
    total: int | None
    version: int
    swarm: Mapping[str, Any] = field(default_factory=dict)  # how its fetch goes


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job, its state, and the rows that changed since the version asked for."""

    job: Job
    state: JobState
    version: int
    rows: tuple[WorkRow, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the view that the controller sent."""
        return cls(
            job=Job.from_json(document["job"]),
            state=JobState(document["state"]),
            version=document["version"],
            rows=tuple(_row(row) for row in document["rows"]),
        )


class ControlClient:
    """A member's connection to its controllers; an async context manager."""

    def __init__(
        self,
        membership: Membership,
        *,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Prepare; nothing is opened before the context is entered. `now` is this clock."""
        self._membership = membership
        self._limits = limits or Limits()
        self._now = now
        self._offset_ms = 0
        self._tls = _tls_side(membership)
        self.rack = ""  # in which this member stands, as the controller said last
        self.renewal_due = False  # the controller wants this member's certificate renewed
        self._sessions = Sessions()

    @property
    def node(self) -> str:
        """Return the name under which it asks."""
        return self._membership.node

    def now_ms(self) -> int:
        """Return the controller's time, unix milliseconds, as far as it was learned."""
        return int(self._now() * 1000) + self._offset_ms

    @property
    def membership(self) -> Membership:
        """Return as whom it asks."""
        return self._membership

    def use(self, membership: Membership) -> None:
        """Ask as this member from now on; what is under way goes on as it began."""
        self._tls = _tls_side(membership)
        self._membership = membership
        self.renewal_due = False

    async def __aenter__(self) -> Self:
        await self._sessions.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._sessions.__aexit__()

    async def renew(self, request: bytes) -> dict[str, Any]:
        """Send the request for this member's next certificate; return what the controller says."""
        return await self._ask("POST", "/v1/renew", {"request": request.decode("ascii")})

    # --- nodes and releases ------------------------------------------------------------------

    async def nodes(self) -> list[dict[str, Any]]:
        """Return all nodes: name, role, joined, heard_s (null: never), address."""
        return list((await self._ask("GET", "/v1/nodes"))["nodes"])

    async def remove_node(self, name: str) -> None:
        """Remove a node from the realm."""
        await self._ask("DELETE", f"/v1/nodes/{name}")

    async def releases(self, name: str = "") -> list[ReleaseRecord]:
        """Return all releases, or those of one name."""
        path = f"/v1/releases?{urlencode({'name': name})}" if name else "/v1/releases"
        answer = await self._ask("GET", path)
        return [ReleaseRecord.from_json(document) for document in answer["releases"]]

    async def release(self, name: str, generation: int | None = None) -> ReleaseRecord:
        """Return one release, the last generation by default; its signature is not checked."""
        path = f"/v1/releases/{name}" + ("" if generation is None else f"/{generation}")
        return ReleaseRecord.from_json(await self._ask("GET", path))

    async def publish(
        self, name: str, root: Root, root_block: bytes, *, kind: str, totals: Mapping[str, int]
    ) -> ReleaseRecord:
        """Publish a root as the next generation of a name; this node is its origin."""
        body = {
            "name": name,
            "root": root.hex(),
            "root_block_hex": root_block.hex(),
            "kind": kind,
            "totals": dict(totals),
        }
        return ReleaseRecord.from_json(await self._ask("POST", "/v1/releases", body))

    async def publishers(self) -> tuple[Publisher, ...]:
        """Return the realm's publishers, revoked and expired ones too."""
        answer = await self._ask("GET", "/v1/publishers")
        return tuple(Publisher.from_json(one) for one in answer["publishers"])

    async def access(self, name: str) -> list[str] | None:
        """Return the nodes that an image is for; None: all."""
        nodes = (await self._ask("GET", f"/v1/releases/{name}/access"))["nodes"]
        return None if nodes is None else list(nodes)

    async def set_access(self, name: str, nodes: Sequence[str] | None) -> None:
        """Say whom an image is for; None: every node."""
        body = {"nodes": None if nodes is None else list(nodes)}
        await self._ask("PUT", f"/v1/releases/{name}/access", body)

    async def terms(self, name: str) -> Terms:
        """Return how the swarms of an image are to behave."""
        return Terms.from_json(await self._ask("GET", f"/v1/releases/{name}/swarm"))

    async def set_terms(self, name: str, terms: Terms) -> None:
        """Say how the swarms of an image are to behave."""
        await self._ask("PUT", f"/v1/releases/{name}/swarm", terms.to_json())

    async def sign(self, name: str, generation: int, signature: str) -> ReleaseRecord:
        """Give a release the signature (armored) that `ssh-keygen -Y sign` made."""
        path = f"/v1/releases/{name}/{generation}/signature"
        return ReleaseRecord.from_json(await self._ask("POST", path, {"signature": signature}))

    # --- swarms ------------------------------------------------------------------------------

    async def ticket(self, root: Root) -> Ticket:
        """Return what is needed to take part in a root's swarm."""
        answer = await self._ask("GET", f"/v1/swarm/{root.hex()}/ticket")
        self.rack = answer["rack"]
        return Ticket(
            root=root,
            root_block=bytes.fromhex(answer["root_block_hex"]),
            swarm_key=bytes.fromhex(answer["swarm_key"]),
            release=answer["release"],
            peers=_peers(answer["peers"]),
        )

    async def announce(self, root: Root, *, url: str, have_bytes: int, complete: bool) -> Peers:
        """Tell the tracker what this node has; return other nodes that have some."""
        body = {"url": url, "have_bytes": have_bytes, "complete": complete}
        answer = await self._ask("POST", f"/v1/swarm/{root.hex()}/announce", body)
        self.rack = answer["rack"]
        return Peers(
            peers=_peers(answer["peers"]),
            known=answer["known"],
            interval_s=float(answer["interval_s"]),
            swarm_key=bytes.fromhex(answer["swarm_key"]),
            terms=Terms.from_json(answer["terms"]),
        )

    # --- jobs --------------------------------------------------------------------------------

    async def create_job(
        self,
        kind: JobKind,
        name: str,
        nodes: Sequence[str],
        *,
        generation: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> JobView:
        """Make a job of a release for some nodes."""
        body = {
            "kind": kind.value,
            "name": name,
            "generation": generation,
            "nodes": list(nodes),
            "options": dict(options or {}),
        }
        return JobView.from_json(await self._ask("POST", "/v1/jobs", body))

    async def jobs(self) -> list[tuple[Job, JobState]]:
        """Return all jobs, oldest first."""
        answer = await self._ask("GET", "/v1/jobs")
        return [
            (Job.from_json(_without(one, "state")), JobState(one["state"]))
            for one in answer["jobs"]
        ]

    async def job(self, job_id: int) -> JobView:
        """Return one job with all its rows."""
        return JobView.from_json(await self._ask("GET", f"/v1/jobs/{job_id}"))

    async def job_events(self, job_id: int, *, since: int, wait_s: float) -> JobView:
        """Return the rows that changed after version `since`; waits for one at most `wait_s`."""
        query = urlencode({"since": since, "wait_ms": int(wait_s * 1000)})
        path = f"/v1/jobs/{job_id}/events?{query}"
        return JobView.from_json(await self._ask("GET", path, wait_s=wait_s))

    async def report(self, job_id: int, body: Mapping[str, Any]) -> None:
        """Report this node's state, progress or result; fields as in docs/control-api.md."""
        await self._ask("POST", f"/v1/jobs/{job_id}/nodes/{self.node}", dict(body))

    async def work(self, *, since: int, wait_s: float) -> list[Assigned]:
        """Return this node's unfinished work of jobs after id `since`; waits at most `wait_s`."""
        query = urlencode({"since": since, "wait_ms": int(wait_s * 1000)})
        answer = await self._ask("GET", f"/v1/work?{query}", wait_s=wait_s)
        return [
            Assigned(Job.from_json(one["job"]), Work.from_json(one["work"]), one["order"])
            for one in answer["work"]
        ]

    # --- asking ------------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Ask what has no method of its own here: errors as of any other."""
        return await self._ask(method, path, body)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, wait_s: float = 0
    ) -> dict[str, Any]:
        """Ask the first controller that answers.

        Raises:
            ControllerUnreachable: none of them does.
            NodectlError: the one that the controller says.
        """
        data = b"" if body is None else json.dumps(body).encode()
        failures = []
        for url in self._membership.controllers:
            try:
                return await self._ask_one(url, Signed(method, path, data), wait_s)
            except (aiohttp.ClientError, OSError, TimeoutError) as exc:
                failures.append(f"{url}: {reason(exc)}")
        raise unreachable(failures)

    async def _ask_one(self, url: str, request: Signed, wait_s: float) -> dict[str, Any]:
        status, answer = await self._exchange(url, request, wait_s)
        if status == HTTPStatus.UNAUTHORIZED:
            status, answer = await self._exchange(url, request, wait_s)
        if status == HTTPStatus.UNAUTHORIZED:
            raise NotAllowed(
                f"the controller does not accept {self.node} as a member",
                hint="it was removed, or joined again elsewhere: join with a new token and --force",
            )
        return read_answer(status, answer)

    async def _exchange(self, url: str, request: Signed, wait_s: float) -> tuple[int, bytes]:
        """Make one request; every answer tells the controller's time."""
        header = sign_request(
            request,
            client=self.node,
            key=self._membership.secret,
            unix_ms=self.now_ms(),
        )
        timeout = aiohttp.ClientTimeout(
            total=self._limits.connect_s + wait_s + self._limits.answer_s,
            sock_connect=self._limits.connect_s,
        )
        async with self._sessions.of(request.target).request(
            request.method,
            url + request.target,
            data=request.body or None,
            headers={"Authorization": header},
            ssl=self._tls,
            server_hostname=CONTROLLER_NAME,
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            self._learn_time(response.headers)
            self.renewal_due = self.renewal_due or RENEW_HEADER in response.headers
            return response.status, await read_bounded(response)

    def _learn_time(self, headers: Mapping[str, str]) -> None:
        text = headers.get(TIME_HEADER, "")
        if text.isascii() and text.isdigit():
            self._offset_ms = int(text) - int(self._now() * 1000)


def _tls_side(membership: Membership) -> ssl.SSLContext:
    context = client_context(membership.ca_pem.encode("ascii"))
    load_identity(context, membership.identity)
    return context


def read_answer(status: int, answer: bytes) -> dict[str, Any]:
    """Return the JSON object of an answer, or raise the error that it says."""
    try:
        document = json.loads(answer or b"{}")
    except (ValueError, RecursionError) as exc:
        raise ControllerUnreachable("what answers there is no nodectl controller") from exc
    if not isinstance(document, dict):
        raise ControllerUnreachable("what answers there is no nodectl controller")
    if status == HTTPStatus.OK:
        return document
    name, sentence = document.get("error"), document.get("sentence")
    leaf = getattr(errors, name, None) if isinstance(name, str) else None
    if isinstance(leaf, type) and issubclass(leaf, NodectlError) and isinstance(sentence, str):
        raise leaf(sentence, hint=str(document.get("hint", "")))
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise InvalidInput(f"the controller refused the request (HTTP status {status})")
    raise ControllerUnreachable(f"the controller failed (HTTP status {status}); its log says why")


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a response, which must not be larger than any that we expect."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _ANSWER_MAX:
            raise aiohttp.ClientPayloadError("the answer is too long")
    return bytes(body)


def reason(exc: BaseException) -> str:
    """Return in few words why a connection failed."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return "it is not the controller of this realm (its certificate is another one's)"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__


def unreachable(failures: Sequence[str]) -> ControllerUnreachable:
    """Return the error for controllers that all failed, each with its reason."""
    return ControllerUnreachable(
        f"no controller answers ({'; '.join(failures) or 'none is known'})",
        hint="is nodectl serve --controller running there, and does the network let it through?",
    )


def _peers(documents: Sequence[Mapping[str, Any]]) -> tuple[Peer, ...]:
    return tuple(Peer(**document) for document in documents)


def _row(document: Mapping[str, Any]) -> WorkRow:
    return WorkRow(
        work=Work.from_json(_without(document, "done", "total", "swarm", "version")),
        done=document["done"],
        total=document["total"],
        version=document["version"],
        swarm=document["swarm"],
    )


def _without(document: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}
