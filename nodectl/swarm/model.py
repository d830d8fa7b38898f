"""The words of the swarm: peers, phases, what a core is told and what it asks for. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from nodectl.ids import checked_name

_URL_MAX = 256


class Phase(StrEnum):
    """Which frames of a manifest travel: its own parts, or the content they name."""

    META = "meta"
    DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """Where a node serves its part of the swarm."""

    name: str  # of the node, unique in the realm
    url: str  # "http://host:port", no path
    rack: str = ""  # "": not known
    seeds: bool = field(default=False, compare=False)  # the tracker says that it has everything

    def __post_init__(self) -> None:
        """Refuse what could not be a peer: names and addresses come from other machines."""
        checked_name(self.name)
        if self.rack:
            checked_name(self.rack)
        scheme, separator, place = self.url.partition("://")
        if scheme != "http" or not separator or len(self.url) > _URL_MAX:
            raise ValueError(f"not a peer's address: {self.url[:80]!r}")
        host, colon, port = place.rpartition(":")
        if not (host and colon and port.isascii() and port.isdigit()) or set(host) & set("/?#@ "):
            raise ValueError(f"not a peer's address: {self.url[:80]!r}")


class PeerSource(Protocol):
    """Who knows peers: normally the controller's tracker."""

    async def peers(self) -> Sequence[PeerInfo]:
        """Return some peers of this swarm.

        Raises:
            NodectlError, OSError: it does not answer; the swarm goes on without it.
        """
        ...


class Failure(StrEnum):
    """Why a span did not come."""

    BUSY = "busy"  # no upload slot: all of the peer waits
    REFUSED = "refused"  # a seeder sent this span to somebody else, who has it
    MISSING = "missing"  # announced, and not there
    TIMEOUT = "timeout"  # no connection, or no byte for too long
    GONE = "gone"  # the connection broke
    BAD = "bad"  # bytes that are not the frames that the manifest names


# --- what a core is told ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeersSeen:
    """Peers that exist: from the tracker, from other peers, from their own requests."""

    peers: tuple[PeerInfo, ...]
    alive: bool = False  # each of them was heard itself just now


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A neighbour does not answer when it is asked what it has."""

    peer: str


@dataclass(frozen=True, slots=True)
class PeerHave:
    """What a neighbour has, as a difference or as a whole: it answered a `Poll`."""

    peer: str
    have: int  # set of spans (`bitfield`)
    replaces: bool = False  # the whole set, not what is new
    origin: bool = False  # it had everything when it began to serve


@dataclass(frozen=True, slots=True)
class PeerNews:
    """What is new at a neighbour, as told beside the answer to a request for a span."""

    peer: str
    have: int  # set of spans
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class PeerSpoke:
    """A peer asked this node for something, and told what it has itself."""

    peer: PeerInfo
    have: int | None  # set of spans: all of them, or what is new; None: it did not say


@dataclass(frozen=True, slots=True)
class SpanChosen:
    """A peer answers an `AskAny`: it begins to send this span."""

    peer: str
    span: int


@dataclass(frozen=True, slots=True)
class NothingChosen:
    """A peer answered an `AskAny` without a span: it has none, or no free slot."""

    peer: str
    retry_after: float = 0.0  # seconds
    none: bool = False  # it has none of them, or gave each to somebody; else it is busy


@dataclass(frozen=True, slots=True)
class SpanArrived:
    """A span is complete here, and each of its frames is what the manifest says."""

    peer: str
    span: int


@dataclass(frozen=True, slots=True)
class SpanFailed:
    """A request for a span ended without it."""

    peer: str
    span: int
    failure: Failure
    retry_after: float = 0.0  # seconds
    alternatives: tuple[PeerInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """What a feed, such as multicast, is about to bring: peers are not asked for it meanwhile."""

    spans: int  # the whole set; one that is taken out without having arrived is to be asked for


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; `Core.wake_at` says when this is wanted."""


Event = (
    PeersSeen
    | PeerGone
    | PeerHave
    | PeerNews
    | PeerSpoke
    | SpanChosen
    | NothingChosen
    | SpanArrived
    | SpanFailed
    | Expected
    | Tick
)


# --- what a core asks for --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask a neighbour what it has, once; it may answer when there is something new."""

    peer: PeerInfo


@dataclass(frozen=True, slots=True)
class Unfollow:
    """Have no more to do with a neighbour; give up the question what it has, if there is one."""

    peer: str


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a peer for what is missing of a span."""

    peer: PeerInfo
    span: int
    urgent: bool = False  # nobody else can give it: a seeder must not send us elsewhere


@dataclass(frozen=True, slots=True)
class AskAny:
    """Ask a neighbour for any one of these spans; it may answer when it has one."""

    peer: PeerInfo
    wanted: int  # set of spans


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give up a request: the span came from somebody else."""

    peer: str
    span: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Have nothing more to do with a peer in this job, and tell people."""

    peer: PeerInfo
    reason: str


@dataclass(frozen=True, slots=True)
class AskForPeers:
    """Ask the tracker, if it lives, for more peers."""


@dataclass(frozen=True, slots=True)
class Finished:
    """Every span is here."""


Action = Poll | AskAny | Unfollow | Request | Cancel | Drop | AskForPeers | Finished
