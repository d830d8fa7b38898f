"""Who may call what: one table. What does not stand in it nobody may call.

What each path takes and answers stands in `operations.py`, for the same table.

A member that may not call something gets 403, and that is logged and audited. A machine without a
certificate of the realm and the right MAC gets 401 for every path but the join and the telling of
a first start, whether the path exists or not.

`Scope.OWN` is for what concerns the asking member: itself (`{name}`, `{node}`), a job that has
work for it (`{job_id}`), or an image that is for it (`{root}`, `/v1/releases/{name}`).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from nodectl.trust.token import Role

JOIN = ("POST", "/v1/join")  # needs a token in place of membership
BOOTED = ("POST", "/v1/booted")  # needs the ticket that a clone carries


class Scope(StrEnum):
    """How far a right goes."""

    NONE = "none"
    OWN = "own"
    ALL = "all"


class Rights(NamedTuple):
    """What each role may do with one path."""

    operator: Scope
    node: Scope
    installer: Scope

    def of(self, role: Role) -> Scope:
        """Return how far the right of a role goes."""
        match role:
            case Role.OPERATOR:
                return self.operator
            case Role.NODE:
                return self.node
            case Role.INSTALLER:
                return self.installer


_ALL, _OWN, _NONE = Scope.ALL, Scope.OWN, Scope.NONE

POLICY: Mapping[tuple[str, str], Rights] = {
    # method, path                                operator  node   installer
    ("POST", "/v1/renew"): Rights(_ALL, _ALL, _ALL),  # its own certificate, by its own name
    ("GET", "/v1/openapi.json"): Rights(_ALL, _ALL, _ALL),
    ("GET", "/v1/nodes"): Rights(_ALL, _NONE, _NONE),
    ("DELETE", "/v1/nodes/{name}"): Rights(_ALL, _OWN, _OWN),
    ("POST", "/v1/nodes/{name}/clones"): Rights(_ALL, _OWN, _OWN),  # of images that are for it
    ("GET", "/v1/inventory"): Rights(_ALL, _NONE, _NONE),
    ("POST", "/v1/inventory"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/inventory/{name}"): Rights(_ALL, _OWN, _OWN),
    ("DELETE", "/v1/inventory/{name}"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/files"): Rights(_ALL, _NONE, _NONE),  # without content
    ("POST", "/v1/files"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/files/{file}"): Rights(_ALL, _NONE, _NONE),  # of a template; never of a secret
    ("DELETE", "/v1/files/{file}"): Rights(_ALL, _NONE, _NONE),
    # Secrets go to the nodes of their group and to nobody else, operators included.
    ("GET", "/v1/nodes/{name}/files"): Rights(_OWN, _OWN, _OWN),
    ("GET", "/v1/cloning"): Rights(_ALL, _NONE, _NONE),  # without content
    ("GET", "/v1/cloning/{part}/{name}"): Rights(_ALL, _NONE, _NONE),
    ("PUT", "/v1/cloning/{part}/{name}"): Rights(_ALL, _NONE, _NONE),
    ("DELETE", "/v1/cloning/{part}/{name}"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/nodes/{name}/cloning"): Rights(_ALL, _OWN, _OWN),
    ("GET", "/v1/releases"): Rights(_ALL, _ALL, _NONE),  # of the images that are for it
    ("POST", "/v1/releases"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/releases/{name}"): Rights(_ALL, _OWN, _OWN),
    ("GET", "/v1/releases/{name}/access"): Rights(_ALL, _NONE, _NONE),
    ("PUT", "/v1/releases/{name}/access"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/releases/{name}/swarm"): Rights(_ALL, _NONE, _NONE),
    ("PUT", "/v1/releases/{name}/swarm"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/releases/{name}/{generation}"): Rights(_ALL, _OWN, _OWN),
    ("POST", "/v1/releases/{name}/{generation}/signature"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/publishers"): Rights(_ALL, _ALL, _ALL),
    ("GET", "/v1/swarm/{root}/ticket"): Rights(_ALL, _OWN, _OWN),
    ("POST", "/v1/swarm/{root}/announce"): Rights(_ALL, _OWN, _OWN),
    ("GET", "/v1/jobs"): Rights(_ALL, _NONE, _NONE),
    ("POST", "/v1/jobs"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/jobs/{job_id}"): Rights(_ALL, _OWN, _OWN),
    ("GET", "/v1/jobs/{job_id}/events"): Rights(_ALL, _OWN, _OWN),
    ("POST", "/v1/jobs/{job_id}/nodes/{node}"): Rights(_ALL, _OWN, _OWN),
    ("GET", "/v1/netboot"): Rights(_ALL, _NONE, _NONE),
    ("POST", "/v1/netboot"): Rights(_ALL, _NONE, _NONE),
    ("GET", "/v1/work"): Rights(_ALL, _ALL, _ALL),  # its own, by its own name
}

NOBODY = Rights(_NONE, _NONE, _NONE)


def rights(method: str, path: str) -> Rights:
    """Return who may call a path, as the router writes it (`/v1/nodes/{name}`)."""
    return POLICY.get((method, path), NOBODY)
