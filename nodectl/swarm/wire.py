"""The data plane's requests and answers as bytes: paths, JSON bodies, their checks.

docs/protocol.md tells the same for people. What comes from another machine is refused with
`ValueError` unless it is exactly of the form below; unknown keys are an error, too. Pure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from nodectl.ids import Root
from nodectl.swarm.bitfield import from_base64, from_hex, to_base64, to_hex
from nodectl.swarm.model import PeerInfo, Phase

PREFIX = "/v1/swarm"
BODY_MAX = 4 << 20  # bytes of a JSON body; a set of 8 million spans fits
_PEERS_MAX = 1024  # peers in one list
_RETRY_MAX_MS = 60_000
SPAN_HEADER = "X-Nodectl-Span"  # which span a peer chose that was asked for any
TOLD_MAX = 16_384  # spans of a swarm whose sets are told in queries: two of them fit into a line


def swarm_path(root: Root, phase: Phase) -> str:
    """Return the path under which one swarm is served."""
    return f"{PREFIX}/{root.hex()}/{phase}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who asks: where it serves, and what it has itself (None: it does not say)."""

    info: PeerInfo
    have: int | None = None  # set of spans

    def query(self) -> str:
        """Return the part of a query that says so."""
        words = {"at": self.info.url}
        if self.info.rack:
            words["rack"] = self.info.rack
        if self.have is not None:
            words["mine"] = to_base64(self.have)
        return urlencode(words, quote_via=quote, safe="")

    @classmethod
    def from_query(cls, name: str, query: Mapping[str, str], *, spans: int) -> "Speaker | None":
        """Return who asks in a swarm of `spans` spans; None where it does not say.

        Raises:
            ValueError: it says it wrongly.
        """
        url, mine = query.get("at"), query.get("mine")
        if url is None:
            return None
        have = None if mine is None else from_base64(mine, spans)
        return cls(info=PeerInfo(name=name, url=url, rack=query.get("rack", "")), have=have)


def have_target(base: str, *, since: str, wait_ms: int, speaker: str) -> str:
    """Return path and query that ask what a peer has; `speaker`: see `Speaker.query`."""
    mark = f"&since={quote(since, safe='')}" if since else ""
    return f"{base}/have?wait_ms={wait_ms}{mark}&{speaker}"


def span_target(base: str, span: int, *, frames: str, urgent: bool, speaker: str = "") -> str:
    """Return path and query that ask for a span, or for some `frames` of it ("0,3-5")."""
    query = [f"frames={frames}"] if frames else []
    query += ["urgent=1"] if urgent else []
    query += [speaker] if speaker else []
    return f"{base}/spans/{span}" + ("?" + "&".join(query) if query else "")


def any_target(base: str, wanted: int, *, wait_ms: int, speaker: str) -> str:
    """Return path and query that ask for any one of the spans `wanted`, whole."""
    return f"{base}/any?wait_ms={wait_ms}&wanted={to_base64(wanted)}&{speaker}"


def tail_len(spans: int) -> int:
    """Return how many bytes follow the frames of a span: what the peer has, a bit for each."""
    return (spans + 7) // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class HaveReply:
    """What a peer has now: everything (`whole`), or what is new since the question's `since`."""

    since: str  # to be given with the next question
    whole: bool
    origin: bool
    have: int  # set of spans
    peers: tuple[PeerInfo, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the body of the answer."""
        return _dump(
            {
                "since": self.since,
                "whole": self.whole,
                "origin": self.origin,
                "have": to_hex(self.have),
                "peers": _peers_document(self.peers),
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes, *, spans: int) -> "HaveReply":
        """Return what `to_bytes` wrote, for a swarm of `spans` spans.

        Raises:
            ValueError: it is not of that form.
        """
        document = _load(body, {"since": str, "whole": bool, "origin": bool, "have": str})
        return cls(
            since=document["since"][:64],
            whole=document["whole"],
            origin=document["origin"],
            have=from_hex(document["have"], spans),
            peers=_peers_from(document["peers"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Body of 429: when to ask again, and whom to ask instead.

    `elsewhere` says that only this span was refused, since one of `peers` has it from here; else
    there is no upload slot for any span.
    """

    elsewhere: bool
    retry_after_ms: int
    peers: tuple[PeerInfo, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the body of the answer."""
        return _dump(
            {
                "elsewhere": self.elsewhere,
                "retry_after_ms": self.retry_after_ms,
                "peers": _peers_document(self.peers),
            }
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> "Refusal":
        """Return what `to_bytes` wrote.

        Raises:
            ValueError: it is not of that form.
        """
        document = _load(body, {"elsewhere": bool, "retry_after_ms": int})
        return cls(
            elsewhere=document["elsewhere"],
            retry_after_ms=min(max(document["retry_after_ms"], 0), _RETRY_MAX_MS),
            peers=_peers_from(document["peers"]),
        )


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _load(body: bytes, kinds: dict[str, type]) -> dict[str, Any]:
    """Return a JSON object that has exactly `peers` and these keys, of these types."""
    if len(body) > BODY_MAX:
        raise ValueError("the answer is too long")
    try:
        document = json.loads(body)
    except RecursionError as exc:
        raise ValueError("the answer is nested too deeply") from exc
    if not isinstance(document, dict) or set(document) != {*kinds, "peers"}:
        raise ValueError("the answer has other fields than it should")
    for key, kind in kinds.items():
        if type(document[key]) is not kind:
            raise ValueError(f"{key}: not of type {kind.__name__}")
    return document


def _peers_document(peers: Sequence[PeerInfo]) -> list[dict[str, str]]:
    return [{"name": peer.name, "url": peer.url, "rack": peer.rack} for peer in peers]


def _peers_from(document: object) -> tuple[PeerInfo, ...]:
    if not isinstance(document, list) or len(document) > _PEERS_MAX:
        raise ValueError("peers: not a list of peers")
    peers = []
    for i, entry in enumerate(document):
        if (
            not isinstance(entry, dict)
            or set(entry) != {"name", "url", "rack"}
            or not all(isinstance(value, str) for value in entry.values())
        ):
            raise ValueError(f"peers[{i}]: not name, url and rack")
        peers.append(PeerInfo(**entry))
    return tuple(peers)
