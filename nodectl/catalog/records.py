"""The documents that the catalog holds: nodes, releases, jobs, and what each node does for a job.

Keys: `nodes/NAME`, `tokens/ID`, `releases/NAME/GENERATION` (ten digits), `roots/ROOT`,
`jobs/ID` (ten digits), `work/NODE/ID`. Here are the records and their JSON; what may happen to them
is decided in `controller/`. A node reads the same records in the controller's answers.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

from nodectl.ids import Root, id_from_hex
from nodectl.trust.certificate import Issued
from nodectl.trust.release import SignedRelease, parse_release
from nodectl.trust.token import Role


class JobKind(StrEnum):
    """What a job asks of its nodes."""

    FETCH = "fetch"  # have every frame of the root in the store
    RESTORE = "restore"  # fetch, then make a directory equal to it
    CLONE = "clone"  # put it onto disks of the node, and start from them


class Task(StrEnum):
    """What one node does for a job."""

    FETCH = "fetch"
    RESTORE = "restore"
    CLONE = "clone"
    SEED = "seed"  # give the frames to the others; never decides whether the job is ok


class WorkState(StrEnum):
    """How far one node is with one job."""

    WAITING = "waiting"  # the node has not taken it
    RUNNING = "running"
    APPLIED = "applied"  # a clone is on its disk and was read back; the node has not restarted
    REBOOTING = "rebooting"  # the node went down in order to start from it
    DONE = "done"
    FAILED = "failed"


class JobState(StrEnum):
    """How far a job is: it is ok only when every node is."""

    RUNNING = "running"
    OK = "ok"
    FAILED = "failed"


BEGUN_BY_NODE = "begun_by_node"
"""Option of a clone that nobody ordered: a command on the node began it, and only tells of it."""

FINAL = frozenset({WorkState.DONE, WorkState.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A member of the realm."""

    name: str
    role: Role
    secret: bytes = field(repr=False)  # keys the MAC of its requests, 32 bytes
    joined: int  # seconds since 1970
    token_id: str = ""  # the token it joined with; empty for the machine that made the realm
    certificates: tuple[Issued, ...] = ()  # the newest first; one before it for a while

    def to_json(self) -> dict[str, Any]:
        """Return the catalog document; it holds the secret."""
        return {
            **self.public(),
            "secret": self.secret.hex(),
            "token_id": self.token_id,
            "certificates": [one.to_json() for one in self.certificates],
        }

    def public(self) -> dict[str, Any]:
        """Return what others may see."""
        return {"name": self.name, "role": self.role.value, "joined": self.joined}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote."""
        return cls(
            name=document["name"],
            role=Role(document["role"]),
            secret=bytes.fromhex(document["secret"]),
            joined=document["joined"],
            token_id=document["token_id"],
            certificates=tuple(Issued(**one) for one in document.get("certificates", ())),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """A signed release and the node that published it (and so holds all of its frames)."""

    signed: SignedRelease
    origin: str

    def to_json(self) -> dict[str, Any]:
        """Return the catalog document, which is also what the API sends."""
        return {**self.signed.to_json(), "origin": self.origin}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote; the signature is not checked.

        Raises:
            ContentInvalid: it is no release.
        """
        inner = {name: value for name, value in document.items() if name != "origin"}
        return cls(signed=parse_release(inner), origin=str(document.get("origin", "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing asked of some nodes."""

    job_id: int  # from 1
    kind: JobKind
    name: str  # of the release
    generation: int
    root: Root
    nodes: tuple[str, ...]
    options: Mapping[str, Any]  # restore: path, keep_extra; clone: BEGUN_BY_NODE, or layout and
    # boot_order; all the others: allow_rollback, multicast
    created: int  # seconds since 1970
    created_by: str

    def to_json(self) -> dict[str, Any]:
        """Return the catalog document, which is also what the API sends."""
        return {
            "job_id": self.job_id,
            "kind": self.kind.value,
            "name": self.name,
            "generation": self.generation,
            "root": self.root.hex(),
            "nodes": list(self.nodes),
            "options": dict(self.options),
            "created": self.created,
            "created_by": self.created_by,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote."""
        return cls(
            **{
                **document,
                "kind": JobKind(document["kind"]),
                "root": Root(id_from_hex(document["root"])),
                "nodes": tuple(document["nodes"]),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """The first start of a clone, which is still to come."""

    ticket_sha256: str  # 64 hexadecimal digits: of what the new system will show
    until: int  # seconds since 1970: then the ticket is good for nothing
    expected: Mapping[str, str]  # root, root_uuid, machine_id: what it must be

    def to_json(self) -> dict[str, Any]:
        """Return the part of a work's document; it holds no secret."""
        return {**asdict(self), "expected": dict(self.expected)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one node does for one job, and how far it is."""

    job_id: int
    node: str
    task: Task
    state: WorkState = WorkState.WAITING
    step: str = ""  # what it is at, or where it failed
    sentence: str = ""  # why it failed
    lines: tuple[str, ...] = ()  # the last lines of output of a program that failed
    receipt: Mapping[str, Any] = field(default_factory=dict)
    by_controller: bool = False  # the failure is the controller's conclusion from silence
    awaits: Awaited | None = None  # of a clone that was applied

    def to_json(self) -> dict[str, Any]:
        """Return the catalog document, which is also what the API sends."""
        return {
            **asdict(self),
            "task": self.task.value,
            "state": self.state.value,
            "lines": list(self.lines),
            "receipt": dict(self.receipt),
            "awaits": None if self.awaits is None else self.awaits.to_json(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record that `to_json` wrote."""
        awaits = document.get("awaits")
        return cls(
            **{
                **document,
                "task": Task(document["task"]),
                "state": WorkState(document["state"]),
                "lines": tuple(document["lines"]),
                "awaits": None if awaits is None else Awaited(**awaits),
            }
        )


def node_key(name: str) -> str:
    """Return the key of a node."""
    return f"nodes/{name}"


def token_key(token_id: str) -> str:
    """Return the key of a join token."""
    return f"tokens/{token_id}"


def release_key(name: str, generation: int) -> str:
    """Return the key of a release; keys of one name sort by generation."""
    return f"releases/{name}/{generation:010}"


def root_key(root: Root) -> str:
    """Return the key of what is known about a root."""
    return f"roots/{root.hex()}"


def job_key(job_id: int) -> str:
    """Return the key of a job; keys sort by id."""
    return f"jobs/{job_id:010}"


def work_key(node: str, job_id: int) -> str:
    """Return the key of a node's work for a job."""
    return f"work/{node}/{job_id:010}"
