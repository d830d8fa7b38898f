"""Runs the control API of this machine: HTTPS with the realm's certificate."""

import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

from nodectl.background import background
from nodectl.catalog.model import Catalog
from nodectl.controller.api import Clocks, ControlApi
from nodectl.controller.audit import realm_audit
from nodectl.controller.jobs import Patience
from nodectl.listen import Address, listening
from nodectl.trust.ca import server_context
from nodectl.trust.realm import chain_files, load_realm


@contextlib.asynccontextmanager
async def control_server(
    catalog: Catalog,
    realm_folder: Path,
    listen: Address,
    *,
    clocks: Clocks | None = None,
    patience: Patience | None = None,
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
    tls = server_context(*chain_files(realm_folder), realm.trusted())
    async with (
        listening(api.application(), listen, tls=tls, what="the controller") as address,
        background(api.watch_silence()),
    ):
        yield address
