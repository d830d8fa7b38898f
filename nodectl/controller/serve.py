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
from pathlib import Path

from nodectl.background import background
from nodectl.catalog.model import Catalog
from nodectl.controller.api import Clocks, ControlApi
from nodectl.controller.audit import realm_audit
from nodectl.controller.jobs import Patience
from nodectl.door import DoorLimits
from nodectl.errors import NodectlError
from nodectl.listen import Address, listening
from nodectl.trust.ca import ChangingServer, server_context
from nodectl.trust.realm import Realm, chain_files, load_realm

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


@contextlib.asynccontextmanager
async def control_server(
    catalog: Catalog,
    realm_folder: Path,
    listen: Address,
    *,
    clocks: Clocks | None = None,
    patience: Patience | None = None,
    door: DoorLimits | None = None,
) -> AsyncIterator[Address]:
    """Serve the control API while the context lasts; yields the address with its real port.

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
    ):
        yield address


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
