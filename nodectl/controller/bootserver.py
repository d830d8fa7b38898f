"""What machines fetch that have no membership yet: their iPXE script, kernel and first root.

Plain HTTP on a port of its own, since firmware speaks no other: nothing here is secret but the boot
tickets, and those are for machines that an operator armed. Files are served with ranges.

    GET /ipxe/MAC?arch=x86_64      the script of the machine with this network card
    GET /installer/ARCH/vmlinuz    and initrd.img
"""

import logging
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from nodectl.controller.audit import Audit
from nodectl.controller.netboot import Armed, Netboot
from nodectl.errors import InvalidInput, NodectlError
from nodectl.netboot.scripts import ARCHITECTURES, Start, cloner_script, local_script
from nodectl.trust.token import checked_mac

log = logging.getLogger(__name__)

FILES = ("vmlinuz", "initrd.img")
_ARCHITECTURE = "x86_64"


class BootServer:
    """The handlers."""

    def __init__(
        self,
        netboot: Netboot,
        installers: Path,
        urls: Callable[[], tuple[str, ...]],
        base: Callable[[], str],
        audit: Audit,
    ) -> None:
        """Serve the installers that stand beneath a folder, each in one for its architecture.

        `urls` are those of the controller, for tickets; `base` is this service's own.
        """
        self._netboot = netboot
        self._installers = installers
        self._urls = urls
        self._base = base
        self._audit = audit

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=1024)
        app.router.add_get("/ipxe/{mac}", self._script)
        app.router.add_get("/installer/{machine}/{file}", self._file)
        return app

    async def _script(self, request: web.Request) -> web.Response:
        try:
            text = self._script_for(request)
        except NodectlError as exc:
            log.warning("netboot of %s from %s: %s", request.path, request.remote, exc)
            text = local_script(str(exc))
        return web.Response(text=text, headers={"Cache-Control": "no-store"})

    def _script_for(self, request: web.Request) -> str:
        mac = checked_mac(request.match_info["mac"])
        machine = ARCHITECTURES.get(request.query.get("arch", _ARCHITECTURE), "")
        node = self._netboot.node_of(mac)
        if node is None:
            log.warning("netboot: nobody knows the machine %s at %s", mac, request.remote)
            return local_script(f"nobody knows {mac}")
        armed = self._netboot.armed(node.name)
        if armed is None:
            log.info("netboot: %s (%s) starts from its own disk", node.name, mac)
            return local_script(f"{node.name} starts from its own disk")
        if not (self._installers / machine / FILES[0]).is_file() or not machine:
            raise InvalidInput(f"there is no installer for {machine or 'this machine'}")
        return self._cloner(armed, mac, machine, request.remote or "")

    def _cloner(self, armed: Armed, mac: str, machine: str, address: str) -> str:
        token = self._netboot.ticket(armed, mac, self._urls())
        log.info("netboot: %s (%s) at %s starts an installer", armed.node, mac, address)
        details = {"job": armed.job.job_id, "mac": mac, "token": token.token_id}
        self._audit.note("boot ticket", armed.node, who="netboot", address=address, details=details)
        start = Start(
            node=armed.node,
            what=f"{armed.job.name} generation {armed.job.generation}",
            base=self._base(),
            machine=machine,
            ticket=token.text(),
            arguments=armed.arguments,
        )
        return cloner_script(start)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        machine, file = request.match_info["machine"], request.match_info["file"]
        path = self._installers / machine / file
        if machine not in ARCHITECTURES.values() or file not in FILES or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)
