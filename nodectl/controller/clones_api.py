"""The control API of clones: a node begins one, and its new system tells of its first start."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from nodectl.catalog.records import BEGUN_BY_NODE, JobKind, NodeRecord, WorkState
from nodectl.controller import policy, wire
from nodectl.controller.access import Access
from nodectl.controller.audit import Audit
from nodectl.controller.auth import NODE
from nodectl.controller.jobs import Jobs
from nodectl.controller.members import Members
from nodectl.controller.releases import Releases
from nodectl.errors import NotAllowed, TokenRefused, UnknownNode

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ClonesApi:
    """Handlers for `policy.BOOTED` and the clones of a node."""

    def __init__(
        self,
        jobs: Jobs,
        members: Members,
        releases: Releases,
        access: Access,
        audit: Audit,
        changed: Callable[[], None],
    ) -> None:
        """Work on what the controller has; `changed` wakes those who watch jobs."""
        self._jobs = jobs
        self._members = members
        self._releases = releases
        self._access = access
        self._audit = audit
        self._changed = changed

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Return the handlers by method and path."""
        return {
            policy.BOOTED: self._booted,
            ("POST", "/v1/nodes/{name}/clones"): self._begin,
        }

    async def _begin(self, request: web.Request) -> web.Response:
        """Make a job for a clone that a node has begun by itself; no other node hears of it."""
        node = self._member(wire.parse_name(request.match_info["name"]))
        image, generation = wire.parse_clone(await request.read())
        if not self._access.may_have(node, image):
            raise NotAllowed(
                f"{image} is not for {node.name}",
                hint=f"nodectl image access {image} shows whom it is for, and changes it",
            )
        record = self._releases.get(image, generation)
        begun = {BEGUN_BY_NODE: True}
        job = self._jobs.create(JobKind.CLONE, record, [node.name], options=begun, by=request[NODE])
        self._audit.note(
            "clone", f"{job.name} {job.generation}", who=request[NODE],
            address=request.remote or "", details={"job": job.job_id, "node": node.name},
        )  # fmt: skip
        self._changed()
        return web.json_response({"job": job.to_json()})

    def _member(self, name: str) -> NodeRecord:
        node = self._members.find(name)
        if node is None:
            raise UnknownNode(f"no node is named {name}", hint="nodectl node list shows all")
        return node

    async def _booted(self, request: web.Request) -> web.Response:
        told = wire.parse_booted(await request.read())
        try:
            row = self._jobs.booted(told)
        except TokenRefused as exc:
            self._audit.refused(str(exc), path=request.path, address=request.remote or "")
            raise
        what = "booted" if row.work.state is WorkState.DONE else "booted something else"
        self._audit.note(
            what, told.node, who=told.node, address=request.remote or "",
            details={"job": told.job_id},
        )  # fmt: skip
        self._changed()
        return web.json_response({})
