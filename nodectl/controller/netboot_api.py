"""The paths of the control API that arm machines, and tell which are armed."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from nodectl.boot.model import BootOrder
from nodectl.catalog.cloning import PartKind
from nodectl.controller import wire
from nodectl.controller.access import Access
from nodectl.controller.auth import NODE
from nodectl.controller.cloning import CloneParts
from nodectl.controller.netboot import Netboot
from nodectl.controller.releases import Releases
from nodectl.disk.text import parse_layout
from nodectl.errors import InvalidInput, NetbootRefused, NotAllowed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Note = Callable[..., None]  # (request, what, whom, **details): writes the audit log

LOCAL, CLONER = "local", "cloner"
_TREE = "tree"
_NODES_MAX = 20_000
_LAYOUT_MAX = 256 << 10  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class NetbootRequest:
    """What an operator asks for."""

    nodes: tuple[str, ...]
    state: str  # LOCAL or CLONER
    image: str = ""
    generation: int | None = None
    layout: str = ""  # TOML; empty: a stored one
    disklayout: str = ""  # name of a stored one; empty: the nodes' own, else the image's
    boot_order: BootOrder = BootOrder.LEAVE


class NetbootApi:
    """What may be asked about netboot."""

    def __init__(
        self,
        netboot: Netboot,
        releases: Releases,
        access: Access,
        cloning: CloneParts,
        note: Note,
    ) -> None:
        """Work on what the controller has; `note` writes the audit log."""
        self._netboot = netboot
        self._releases = releases
        self._access = access
        self._cloning = cloning
        self._note = note

    def routes(self) -> Mapping[tuple[str, str], Handler]:
        """Return the handler of each path."""
        return {("GET", "/v1/netboot"): self._list, ("POST", "/v1/netboot"): self._set}

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response({"nodes": [one.to_json() for one in self._netboot.all_armed()]})

    async def _set(self, request: web.Request) -> web.Response:
        wanted = parse_netboot(await request.read())
        who = request[NODE]
        if wanted.state == LOCAL:
            ended = self._netboot.call_off(wanted.nodes, f"set to local by {who}")
            self._note(request, "netboot local", ",".join(ended), nodes=list(ended))
            return web.json_response({"job": None, "nodes": list(ended)})
        record = self._releases.get(wanted.image, wanted.generation)
        if record.signed.release.kind != _TREE:
            raise NetbootRefused(
                f"{wanted.image} is no tree but a {record.signed.release.kind}: nothing was armed",
                hint="nodectl image capture NAME --tree / makes what machines are cloned from",
            )
        self._check_access(wanted)
        layout = wanted.layout or self._stored_layout(wanted)
        check_layout(layout)
        options: dict[str, Any] = {"layout": layout, "boot_order": wanted.boot_order.value}
        job = self._netboot.arm(record, wanted.nodes, options, by=who)
        self._note(
            request, "netboot cloner", f"{job.name} {job.generation}",
            job=job.job_id, nodes=list(job.nodes),
        )  # fmt: skip
        return web.json_response({"job": job.job_id, "nodes": list(job.nodes)})

    def _stored_layout(self, wanted: NetbootRequest) -> str:
        """Return the disk layout that is named, else the nodes' own, else the image's.

        Raises:
            PathMissing: there is none of that name.
            NetbootRefused: nobody says one.
        """
        own = {self._netboot.layout_of(name) for name in wanted.nodes}
        if not wanted.disklayout and len(own) > 1:
            raise NetbootRefused(
                "these nodes are said to have different disk layouts: nothing was armed",
                hint="arm those of one layout at a time, or name it: --disklayout NAME",
            )
        named = wanted.disklayout or max(own, default="")
        config = self._cloning.of_image(wanted.image, named)
        part = config.part(PartKind.DISKLAYOUT)
        if part is None and config.disklayout:
            part = self._cloning.get(PartKind.DISKLAYOUT, config.disklayout)  # says there is none
        if part is None:
            raise NetbootRefused(
                f"nobody says on which disks {wanted.image} goes: nothing was armed",
                hint="--layout FILE or --disklayout NAME (nodectl cloner new-image makes one)",
            )
        return part.text

    def _check_access(self, wanted: NetbootRequest) -> None:
        """Refuse nodes that the image is not for.

        Raises:
            NotAllowed: so it is; nothing was armed.
        """
        named = self._access.nodes(wanted.image)
        others = [] if named is None else [one for one in wanted.nodes if one not in named]
        if others:
            raise NotAllowed(
                f"{wanted.image} is not for {', '.join(others[:10])}; nothing was armed",
                hint=f"nodectl image access {wanted.image} shows whom it is for, and changes it",
            )


def check_layout(text: str) -> None:
    """Refuse a layout that a machine could not follow by itself: nobody names its disks there.

    Raises:
        LayoutInvalid: it has mistakes.
        NetbootRefused: a disk in it has no match.
    """
    layout = parse_layout(text, source="the layout")
    unnamed = [disk.id for disk in layout.used_disks if disk.match.is_empty]
    if unnamed:
        raise NetbootRefused(
            f"the layout does not say which disk is {', '.join(unnamed)}: nothing was armed",
            hint='say it by match, such as match = { serial = "S4XYNE0M" } or '
            '{ transport = "nvme", size = ">= 100GiB" }',
        )


def parse_netboot(body: bytes) -> NetbootRequest:
    """Return what a body asks for.

    Raises:
        InvalidInput: it is no such request.
    """
    fields = wire.Fields(body, where="netboot")
    state = fields.text("state")
    nodes = tuple(wire.parse_name(each) for each in fields.texts("nodes", most=_NODES_MAX))
    if not nodes:
        raise InvalidInput("netboot: no nodes are named")
    if state == LOCAL:
        fields.end()
        return NetbootRequest(nodes=nodes, state=state)
    if state != CLONER:
        raise InvalidInput(f"netboot: state is {LOCAL} or {CLONER}, not {state[:40]!r}")
    try:
        order = BootOrder(fields.text("boot_order", BootOrder.LEAVE.value))
    except ValueError as exc:
        raise InvalidInput(f"netboot: {exc}") from exc
    wanted = NetbootRequest(
        nodes=nodes,
        state=state,
        image=fields.name("image"),
        generation=fields.optional_count("generation"),
        layout=fields.text("layout", "", most=_LAYOUT_MAX),
        disklayout=_optional_name(fields.text("disklayout", "")),
        boot_order=order,
    )
    fields.end()
    return wanted


def _optional_name(text: str) -> str:
    return wire.parse_name(text) if text else ""
