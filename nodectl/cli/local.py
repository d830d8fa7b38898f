"""What commands on the controller's own machine share: its realm, its catalog, its audit log.

They work whether or not the controller runs; only who can read the state folder can use them.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nodectl.cli.membership import open_state

if TYPE_CHECKING:
    from nodectl.catalog.model import Catalog
    from nodectl.controller.audit import Audit
    from nodectl.node.state import StateFolder
    from nodectl.trust.realm import Realm


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """The controller that this machine is."""

    folder: "StateFolder"
    realm: "Realm"
    catalog: "Catalog"
    audit: "Audit"

    def note(self, what: str, whom: str, **details: object) -> None:
        """Write down what the user of this machine did."""
        self.audit.note(what, whom, who=local_user(), address="local", details=details)


@contextlib.contextmanager
def local_controller(state: Path | None) -> Iterator[Local]:
    """Open what the controller of this machine keeps.

    Raises:
        NoRealm: this machine is no controller.
    """
    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.audit import realm_audit
    from nodectl.trust.realm import load_realm

    folder = open_state(state)
    realm = load_realm(folder.realm)
    with SqliteCatalog(folder.catalog) as catalog:
        audit = realm_audit(realm, folder.realm, catalog, time.time)
        yield Local(folder=folder, realm=realm, catalog=catalog, audit=audit)


def local_user() -> str:
    """Return who runs this command, as far as the machine knows: the caller of sudo, or the uid."""
    return f"local:{os.environ.get('SUDO_USER') or f'uid {os.getuid()}'}"[:100]
