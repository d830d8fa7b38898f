"""The control API: what each path does. The forms are in docs/control-api.md.

Handlers parse (`wire`), decide through `Members`, `Releases`, `Tracker` and `Jobs`, and answer in
JSON. A catalog write takes a few milliseconds and is made on the event loop on purpose: one owner,
no interleaving.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from nodectl.catalog.model import Catalog
from nodectl.catalog.records import Job, JobState, NodeRecord, Task, Work
from nodectl.controller import openapi, policy, wire
from nodectl.controller.access import Access
from nodectl.controller.access_api import AccessApi
from nodectl.controller.audit import Audit
from nodectl.controller.auth import MEMBER, NODE, Gate, Heard, read_body
from nodectl.controller.bell import Bell
from nodectl.controller.clones_api import ClonesApi
from nodectl.controller.cloning import CloneParts
from nodectl.controller.cloning_api import CloningApi
from nodectl.controller.inventory_api import InventoryApi
from nodectl.controller.jobs import Jobs, Patience
from nodectl.controller.members import Members
from nodectl.controller.multicast import with_session
from nodectl.controller.netboot import Netboot
from nodectl.controller.netboot_api import NetbootApi
from nodectl.controller.polls import Polls
from nodectl.controller.releases import Releases
from nodectl.controller.rollback import reapply
from nodectl.controller.site_files import SiteFiles
from nodectl.controller.site_files_api import SiteFilesApi
from nodectl.controller.terms import SwarmTerms
from nodectl.controller.tracker import Announcement, Tracker
from nodectl.errors import NotAllowed, TokenRefused, UnknownNode
from nodectl.ids import Root
from nodectl.trust.order import LIFE_S, Order, sign_order
from nodectl.trust.realm import Realm
from nodectl.trust.token import Role
from nodectl.zipapp.identity import identity

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BODY_MAX = 8 << 20  # bytes; the largest is a root block in hexadecimal digits
WAIT_MAX_MS = 60_000
_WAIT_MS = 20_000
_VERSION_MAX = 1 << 62
_JOB_ID_MAX = 9_999_999_999
_GENERATION_MAX = 9_999_999_999
_EXPIRE_EVERY_S = 1.0
_GATHER_S = 0.2  # events of many nodes go into one answer
_SHOWN = 10  # names in a sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The controller's clocks and its random source."""

    now: Callable[[], float] = time.time  # seconds since 1970
    monotonic: Callable[[], float] = time.monotonic
    rng: random.Random


class ControlApi:
    """The controller's state and its handlers."""

    def __init__(
        self,
        catalog: Catalog,
        realm: Realm,
        audit: Audit,
        clocks: Clocks,
        patience: Patience | None = None,
    ) -> None:
        """Load what the catalog knows; who does what is written down in `audit`."""
        self.audit = audit
        self._realm = realm
        self._now = clocks.now
        self._rng = clocks.rng
        self.members = Members(catalog, realm, clocks.now)
        self.inventory = InventoryApi(catalog, self._note)
        self.files = SiteFiles(catalog, realm, self.inventory.nodes)
        self._files_api = SiteFilesApi(self.files, self._note)
        self.cloning = CloneParts(catalog, realm, self.inventory.nodes)
        self.releases = Releases(catalog, realm, clocks.now)
        self.tracker = Tracker(clocks.monotonic, clocks.rng, self.inventory.nodes.rack)
        self.jobs = Jobs(catalog, now=clocks.now, monotonic=clocks.monotonic, patience=patience)
        self.terms = SwarmTerms(catalog, self.releases, self._note, self.jobs.cloning)
        self.access = Access(catalog, self.jobs.names)
        self._access_api = AccessApi(self.access, self.members, self.releases, self._note)
        reapply(audit, self.members, self.releases, self.access)
        self.netboot = Netboot(catalog, self.jobs, self.members, self.inventory.nodes, clocks.now)
        self._netboot_api = NetbootApi(
            self.netboot, self.releases, self.access, self.cloning, self._note
        )
        self._heard = Heard(clocks.monotonic)
        self._gate = Gate(self.members, self._heard, clocks.now, owns=self._owns, audit=self.audit)
        self._work_bell = Bell()
        self.polls = Polls(self._gate, self._new_work, clocks.now, wait_max_ms=WAIT_MAX_MS)
        self._event_bell = Bell()
        self._clones_api = ClonesApi(
            self.jobs, self.members, self.releases, self.access, self.audit,
            self._event_bell.ring,
        )  # fmt: skip

    def use(self, realm: Realm) -> None:
        """Go on with other keys of the same realm."""
        self._realm = realm
        self.members.use(realm)
        self.releases.use(realm)
        self.files.use(realm)
        self.cloning.use(realm)

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(
            middlewares=[self._gate.answer_errors(), self._gate.guard()], client_max_size=BODY_MAX
        )
        for (method, path), handler in self._routes().items():
            app.router.add_route(method, path, handler)
        app.on_shutdown.append(self._stop_waiting)
        return app

    def _routes(self) -> dict[tuple[str, str], Handler]:
        return {
            policy.JOIN: self._join,
            ("POST", "/v1/renew"): self._renew,
            ("GET", "/v1/openapi.json"): self._openapi,
            ("GET", "/v1/nodes"): self._list_nodes,
            ("DELETE", "/v1/nodes/{name}"): self._remove_node,
            **self.inventory.routes(),
            **self._files_api.routes(),
            **CloningApi(self.cloning, self._note, self._is_for).routes(),
            **self._access_api.routes(),
            **self.terms.routes(),
            **self._clones_api.routes(),
            **self._netboot_api.routes(),
            ("GET", "/v1/releases"): self._list_releases,
            ("POST", "/v1/releases"): self._publish,
            ("GET", "/v1/releases/{name}"): self._show_release,
            ("GET", "/v1/releases/{name}/{generation}"): self._show_release,
            ("POST", "/v1/releases/{name}/{generation}/signature"): self._sign,
            ("GET", "/v1/publishers"): self._list_publishers,
            ("GET", "/v1/swarm/{root}/ticket"): self._ticket,
            ("POST", "/v1/swarm/{root}/announce"): self._announce,
            ("GET", "/v1/jobs"): self._list_jobs,
            ("POST", "/v1/jobs"): self._create_job,
            ("GET", "/v1/jobs/{job_id}"): self._show_job,
            ("GET", "/v1/jobs/{job_id}/events"): self._job_events,
            ("POST", "/v1/jobs/{job_id}/nodes/{node}"): self._report,
            ("GET", "/v1/work"): self._work,
        }

    def _owns(self, node: NodeRecord, path: str, fields: Mapping[str, str]) -> bool:
        """Say whether what a path names concerns a member itself, or is there at all."""
        if path.startswith("/v1/releases/"):
            return self.access.may_have(node, wire.parse_name(fields["name"]))
        if "root" in fields:
            return self._may_have_root(node, wire.parse_root(fields["root"]))
        if "node" in fields or "name" in fields:
            return node.name == fields.get("node", fields.get("name"))
        job_id = fields.get("job_id", "")
        return job_id.isascii() and job_id.isdigit() and self.jobs.concerns(int(job_id), node.name)

    def _is_for(self, node: str, image: str) -> bool:
        """Say whether an image is for a member."""
        return self.access.may_have(self.members.get(node), image)

    def _may_have_root(self, node: NodeRecord, root: Root) -> bool:
        """Say whether one of the images that a root is a generation of is for a member."""
        last = self.releases.name_of(root)
        if last is None or self.access.may_have(node, last):
            return True  # what nobody published the handler answers
        return any(self.access.may_have(node, name) for name in self.releases.names_of(root))

    # --- members ---------------------------------------------------------------------------

    async def _join(self, request: web.Request) -> web.Response:
        body = await read_body(request)
        wanted = wire.parse_join(body, replaces=False)
        if request[NODE] == wanted.name:
            wanted = wire.parse_join(body, replaces=True)
        try:
            node = self.members.join(wanted, replaced=self.netboot.keep_replaced)
        except TokenRefused as exc:
            why = f"join as {wanted.name}: {exc}"
            self.audit.refused(why, path=request.path, address=request.remote or "")
            raise
        certificate = self.members.certify(node.name, wanted.request, keep=False)
        self._note(request, "join", node.name, who=node.name, token=node.token_id)
        return web.json_response(self.members.welcome(node, certificate))

    async def _renew(self, request: web.Request) -> web.Response:
        wanted = wire.parse_renewal(await request.read())
        answer = self.members.renewed(request[NODE], wanted)
        self._note(request, "renew", request[NODE])
        return web.json_response(answer)

    async def _openapi(self, _request: web.Request) -> web.Response:
        return web.json_response(openapi.document(identity().version))

    async def _list_nodes(self, _request: web.Request) -> web.Response:
        nodes = [
            {
                **node.public(),
                "heard_s": self._heard.seconds_ago(node.name),
                "address": self._heard.address(node.name),
            }
            for node in self.members.list()
        ]
        return web.json_response({"nodes": nodes})

    async def _remove_node(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.members.remove(name)
        self.polls.forget(name)
        self.access.forget(name)
        self.releases.change_swarm_keys()
        self.tracker.forget(name)
        self._heard.forget(name)
        self._note(request, "node remove", name)
        return web.json_response({})

    # --- releases and swarms ---------------------------------------------------------------

    async def _list_releases(self, request: web.Request) -> web.Response:
        name = wire.parse_name(request.query["name"]) if "name" in request.query else ""
        records = [
            record
            for record in self.releases.list(name)
            if self.access.may_have(request[MEMBER], record.signed.release.name)
        ]
        return web.json_response({"releases": [record.to_json() for record in records]})

    async def _publish(self, request: web.Request) -> web.Response:
        wanted = wire.parse_publication(await request.read(), origin=request[NODE])
        record = self.releases.publish(wanted)
        generation = record.signed.release.generation
        self._note(request, "publish", wanted.name, generation=generation, root=wanted.root.hex())
        return web.json_response(record.to_json())

    async def _show_release(self, request: web.Request) -> web.Response:
        generation = None
        if "generation" in request.match_info:
            generation = wire.parse_count(request.match_info, "generation", 0, most=_GENERATION_MAX)
        record = self.releases.get(wire.parse_name(request.match_info["name"]), generation)
        return web.json_response(record.to_json())

    async def _sign(self, request: web.Request) -> web.Response:
        generation = wire.parse_count(request.match_info, "generation", 0, most=_GENERATION_MAX)
        name = wire.parse_name(request.match_info["name"])
        armored = wire.parse_signature(await request.read())
        record = self.releases.sign(name, generation, armored)
        self._note(
            request, "sign", name, generation=generation, publisher=record.signed.publisher.hex()
        )
        return web.json_response(record.to_json())

    async def _list_publishers(self, _request: web.Request) -> web.Response:
        publishers = [one.to_json() for one in self.releases.publishers.list()]
        return web.json_response({"publishers": publishers})

    async def _ticket(self, request: web.Request) -> web.Response:
        root = wire.parse_root(request.match_info["root"])
        record, root_block = self.releases.of_root(root)
        return web.json_response(
            {
                "root_block_hex": root_block.hex(),
                "swarm_key": self.releases.swarm_key(root).hex(),
                "release": record.to_json(),
                "terms": self.terms.in_force(record.signed.release.name).to_json(),
                **self._peers(root, request[NODE], self.tracker.peers(root, but=request[NODE])),
            }
        )

    async def _announce(self, request: web.Request) -> web.Response:
        root = wire.parse_root(request.match_info["root"])
        record, _ = self.releases.of_root(root)  # only what is released has a swarm
        terms = self.terms.in_force(record.signed.release.name)
        announcement = wire.parse_announcement(await request.read(), node=request[NODE])
        found = self.tracker.announce(root, announcement)
        peers = self._peers(root, request[NODE], found)
        key = self.releases.swarm_key(root).hex()
        return web.json_response({**peers, "terms": terms.to_json(), "swarm_key": key})

    def _peers(self, root: Root, node: str, peers: tuple[Announcement, ...]) -> dict[str, Any]:
        return {
            "peers": [
                {"node": one.node, "url": one.url, "complete": one.complete, "rack": one.rack}
                for one in peers
            ],
            "rack": self.tracker.rack_of(node),
            "known": self.tracker.known(root),
            "interval_s": self.tracker.interval_s(root),
        }

    # --- jobs ------------------------------------------------------------------------------

    async def _list_jobs(self, _request: web.Request) -> web.Response:
        jobs = [
            {**job.to_json(), "state": self.jobs.state(job.job_id).value}
            for job in self.jobs.list()
        ]
        return web.json_response({"jobs": jobs})

    async def _create_job(self, request: web.Request) -> web.Response:
        wanted = wire.parse_job(await request.read())
        options = with_session(wanted.options, self._rng)
        self._check_nodes(wanted)
        record = self.releases.get(wanted.name, wanted.generation)
        job = self.jobs.create(wanted.kind, record, wanted.nodes, options=options, by=request[NODE])
        self._note(
            request, "job", f"{job.kind} {job.name} {job.generation}",
            job=job.job_id, nodes=list(job.nodes), options=dict(job.options),
        )  # fmt: skip
        self._work_bell.ring()
        self.polls.ring()
        return web.json_response(self._job(job.job_id, since=0))

    def _check_nodes(self, wanted: wire.JobRequest) -> None:
        """Refuse a job for nodes that there are not, or that may not have its image.

        Raises:
            UnknownNode, NotAllowed: so it is; no job was made.
        """
        known = {node.name: node for node in self.members.list()}
        unknown = [name for name in wanted.nodes if name not in known]
        if unknown:
            shown = ", ".join(unknown[:_SHOWN])
            raise UnknownNode(
                f"no node is named {shown}; no job was made", hint="nodectl node list shows all"
            )
        others = self.access.shut_out([known[name] for name in wanted.nodes], wanted.name)
        if others:
            shown = ", ".join(others[:_SHOWN])
            raise NotAllowed(
                f"{wanted.name} is not for {shown}; no job was made",
                hint=f"nodectl image access {wanted.name} shows whom it is for, and changes it",
            )

    async def _show_job(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(_job_id(request), since=0))

    async def _job_events(self, request: web.Request) -> web.Response:
        job_id = _job_id(request)
        since = wire.parse_count(request.query, "since", 0, most=_VERSION_MAX)
        deadline = asyncio.get_running_loop().time() + _wait_s(request)
        while not self.jobs.rows(job_id, since=since):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._event_bell.closed:
                break
            await self._event_bell.wait(left)
        if since and self.jobs.state(job_id) is JobState.RUNNING:
            await asyncio.sleep(min(_GATHER_S, _wait_s(request)))
        return web.json_response(self._job(job_id, since=since))

    async def _report(self, request: web.Request) -> web.Response:
        node = request.match_info["node"]
        report = wire.parse_report(await request.read())
        self.netboot.ended(self.jobs.report(_job_id(request), node, report))
        self._event_bell.ring()
        return web.json_response({})

    async def _work(self, request: web.Request) -> web.Response:
        since = wire.parse_count(request.query, "since", 0, most=_JOB_ID_MAX)
        deadline = asyncio.get_running_loop().time() + _wait_s(request)
        while not (work := self._new_work(request[NODE], since)):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._work_bell.closed:
                break
            await self._work_bell.wait(left)
        return web.json_response({"work": work})

    def _new_work(self, name: str, since: int) -> list[dict[str, Any]]:
        """Return a member's work after a job; clones are for installers alone."""
        found = [one for one in self.jobs.work_for(name) if one[0].job_id > since]
        if any(work.task is Task.CLONE for _, work in found):
            member = self.members.find(name)
            if member is None or member.role is not Role.INSTALLER:
                found = [one for one in found if one[1].task is not Task.CLONE]
        return [
            {"job": job.to_json(), "work": work.to_json(), "order": self._order(job, work)}
            for job, work in found
        ]

    def _order(self, job: Job, work: Work) -> dict[str, Any]:
        """Return the signed order for one node's work, good from now on for a day."""
        order = Order(
            realm=self._realm.realm_id,
            node=work.node,
            job_id=job.job_id,
            task=work.task.value,
            name=job.name,
            generation=job.generation,
            root=job.root.hex(),
            options=dict(job.options),
            expires=int(self._now()) + LIFE_S,
        )
        return sign_order(order, self._realm.job_key)

    def _job(self, job_id: int, *, since: int) -> dict[str, Any]:
        return {
            "job": self.jobs.get(job_id).to_json(),
            "state": self.jobs.state(job_id).value,
            "version": self.jobs.version,
            "rows": [row.to_json() for row in self.jobs.rows(job_id, since=since)],
        }

    def _note(
        self, request: web.Request, what: str, whom: str, *, who: str = "", **details: object
    ) -> None:
        self.audit.note(
            what, whom, who=who or request[NODE], address=request.remote or "", details=details
        )

    async def watch_silence(self) -> None:
        """Conclude about silent nodes once a second, for ever."""
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            concluded = self.jobs.expire(self._heard.at)
            for row in concluded:
                self.netboot.ended(row)
            if concluded:
                self._event_bell.ring()

    async def _stop_waiting(self, _app: web.Application) -> None:
        self._work_bell.close()
        self._event_bell.close()


def _job_id(request: web.Request) -> int:
    return wire.parse_count(request.match_info, "job_id", 0, most=_JOB_ID_MAX)


def _wait_s(request: web.Request) -> float:
    return wire.parse_count(request.query, "wait_ms", _WAIT_MS, most=WAIT_MAX_MS) / 1000
