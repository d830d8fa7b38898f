"""Runs the control API of this machine: HTTPS with the realm's certificate.

The realm's folder is looked at once a second: what a command on this machine changed there (another
CA, another realm key) counts for new connections and answers without a restart.
"""

import asyncio
import contextlib
import gc
import logging
import random
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from nodectl.background import background
from nodectl.catalog.model import Catalog
from nodectl.controller.api import Clocks, ControlApi
from nodectl.controller.audit import realm_audit
from nodectl.controller.bootserver import BootServer
from nodectl.controller.jobs import Patience
from nodectl.door import DoorLimits
from nodectl.errors import NodectlError
from nodectl.listen import Address, listening
from nodectl.trust.ca import ChangingServer, server_context
from nodectl.trust.realm import Realm, chain_files, load_realm

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootWish:
    """That machines may start from here."""

    listen: Address  # plain HTTP
    installers: Path  # the folder above those of the architectures
    host: str  # under which machines reach this one


@contextlib.asynccontextmanager
async def control_server(  # noqa: PLR0913 - each has a default but the first three
    catalog: Catalog,
    realm_folder: Path,
    listen: Address,
    *,
    clocks: Clocks | None = None,
    patience: Patience | None = None,
    door: DoorLimits | None = None,
    boot: BootWish | None = None,
) -> AsyncIterator[Address]:
    """Serve the control API while the context lasts; yields the address with its real port.

    With `boot` machines get their boot scripts and installers, too.

    Raises:
        NoRealm: this machine is no controller.
        PortInUse: the address is taken.
    """
    realm = load_realm(realm_folder)
    clocks = clocks or Clocks(rng=random.SystemRandom())
    audit = realm_audit(realm, realm_folder, catalog, clocks.now)
    api = ControlApi(catalog, realm, audit, clocks, patience=patience)
    # All that was made until now stays: it need not be looked through with each collection.
    gc.collect()
    gc.freeze()
    tls = ChangingServer(server_context(*chain_files(realm_folder), realm.trusted()))

    def use(changed: Realm) -> None:
        tls.use(server_context(*chain_files(realm_folder), changed.trusted()))
        api.use(changed)

    async with (
        listening(
            api.application(),
            listen,
            tls=tls.context,
            what="the controller",
            limits=door,
            desk=api.polls,
        ) as address,  # fmt: skip
        background(api.watch_silence(), _watch_realm(realm_folder, use)),
        _booting(api, boot, address.port, door),
    ):
        yield address


@contextlib.asynccontextmanager
async def _booting(
    api: ControlApi, boot: BootWish | None, port: int, door: DoorLimits | None
) -> AsyncIterator[None]:
    """Let machines start from here while the context lasts, if that is wished."""
    if boot is None:
        yield
        return
    at: list[Address] = []  # where it listens, with its real port
    server = BootServer(
        api.netboot,
        boot.installers,
        urls=lambda: (Address(boot.host, port).url("https"),),
        base=lambda: Address(boot.host, at[0].port).url("http"),
        audit=api.audit,
    )
    what = "the boot service"
    async with listening(server.application(), boot.listen, what=what, limits=door) as bound:
        at.append(bound)
        log.info("machines start from %s", Address(boot.host, bound.port).url("http"))
        yield


async def _watch_realm(folder: Path, use: Callable[[Realm], None]) -> None:
    """Call `use` with the realm whenever its folder has changed, for ever."""
    seen = _stamp(folder)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        try:
            now = _stamp(folder)
            if now == seen:
                continue
            use(load_realm(folder))
        except (NodectlError, OSError, ssl.SSLError) as exc:
            # A change of several files is under way, or was cut off: look again.
            log.warning("the realm's folder has changed and cannot be read yet: %s", exc)
            continue
        seen = now
        log.info("the realm's keys have changed: they count from now on")


def _stamp(folder: Path) -> frozenset[tuple[str, int, int]]:
    """Return what tells one state of a folder's files from another; each is replaced whole."""
    found = set()
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.add((path.name, status.st_ino, status.st_mtime_ns))
    return frozenset(found)
