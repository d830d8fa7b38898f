"""Requests of the control API as values: parsed here, with every mistake named.

The forms are described in docs/control-api.md. Unknown fields are an error.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nodectl.catalog.records import JobKind, WorkState
from nodectl.controller.first_boots import Told
from nodectl.controller.jobs import Report
from nodectl.controller.members import JoinRequest
from nodectl.controller.multicast import OPTION
from nodectl.controller.releases import Publication
from nodectl.controller.tracker import Announcement
from nodectl.errors import InvalidInput
from nodectl.ids import Root, checked_name, id_from_hex
from nodectl.trust.certificate import checked_request
from nodectl.trust.keys import KEY_BYTES
from nodectl.trust.release import checked_totals

_NODES_MAX = 20_000
_LINES_MAX = 50
_RECEIPT_MAX = 65_536
_MACS_MAX = 256
_TEXT_MAX = 4096
_PATH_MAX = 4096
_URL_MAX = 256
_SWARM_KEYS_MAX = 32
_SWARM_PEERS_MAX = 4096
_SWARM_TEXT_MAX = 64
_SEEN_MAX = 32
_SEEN_TEXT_MAX = 200
_AWAITED = {"ticket_sha256", "root", "root_uuid", "machine_id"}
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})*")
_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What an operator asks for."""

    kind: JobKind
    name: str
    generation: int | None  # None: the last one
    nodes: tuple[str, ...]
    options: dict[str, Any]


class Fields:
    """The fields of one JSON object; what is not taken at the end is an error."""

    def __init__(self, body: bytes, *, where: str) -> None:
        """Parse a request's body.

        Raises:
            InvalidInput: it is no JSON object.
        """
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise InvalidInput(f"{where}: the body is no JSON") from exc
        if not isinstance(document, dict):
            raise InvalidInput(f"{where}: the body is no JSON object")
        self._fields: dict[str, Any] = document
        self._where = where

    def take(self, name: str, kind: type[T], default: T | None = None) -> T:
        """Take a field of one type; without a default it must be there."""
        value = self._fields.pop(name, default)
        # A JSON true is an int to Python.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidInput(f"{self._where}: {name} is not of type {kind.__name__}")
        return value

    def text(self, name: str, default: str | None = None, *, most: int = _TEXT_MAX) -> str:
        """Take a text of bounded length."""
        value = self.take(name, str, default)
        if len(value) > most:
            raise InvalidInput(f"{self._where}: {name} is longer than {most} characters")
        return value

    def optional_count(self, name: str) -> int | None:
        """Take a whole number that may be null or absent."""
        if self._fields.get(name) is None:
            self._fields.pop(name, None)
            return None
        return self.count(name)

    def count(self, name: str, default: int | None = None) -> int:
        """Take a whole number that is not negative."""
        value = self.take(name, int, default)
        if value < 0:
            raise InvalidInput(f"{self._where}: {name} is negative")
        return value

    def texts(self, name: str, *, most: int) -> tuple[str, ...]:
        """Take a list of texts of bounded length."""
        values = self.take(name, list, [])
        if len(values) > most or not all(
            isinstance(value, str) and len(value) <= _TEXT_MAX for value in values
        ):
            raise InvalidInput(f"{self._where}: {name} is no list of at most {most} texts")
        return tuple(values)

    def optional_names(self, name: str, *, most: int) -> tuple[str, ...] | None:
        """Take a list of names, or null."""
        if name in self._fields and self._fields[name] is None:
            del self._fields[name]
            return None
        if name not in self._fields:
            raise InvalidInput(f"{self._where}: {name} is absent")
        try:
            return tuple(checked_name(text) for text in self.texts(name, most=most))
        except ValueError as exc:
            raise InvalidInput(f"{self._where}: {name}: {exc}") from exc

    def key(self, name: str) -> bytes:
        """Take a 32-byte key in hexadecimal digits."""
        value = self.hex(name)
        if len(value) != KEY_BYTES:
            raise InvalidInput(f"{self._where}: {name} has not {KEY_BYTES} bytes")
        return value

    def hex(self, name: str) -> bytes:
        """Take bytes in hexadecimal digits."""
        text = self.take(name, str)
        if not _HEX.fullmatch(text):  # bytes.fromhex passes over spaces
            raise InvalidInput(f"{self._where}: {name} is not hexadecimal")
        return bytes.fromhex(text)

    def name(self, name: str) -> str:
        """Take a name as `checked_name` wants it."""
        try:
            return checked_name(self.take(name, str))
        except ValueError as exc:
            raise InvalidInput(f"{self._where}: {name}: {exc}") from exc

    def root(self, name: str) -> Root:
        """Take the id of a manifest."""
        return parse_root(self.take(name, str))

    def end(self) -> None:
        """Refuse fields that nobody took."""
        if self._fields:
            raise InvalidInput(f"{self._where}: unknown field {min(self._fields)!r}")


def parse_root(text: str) -> Root:
    """Return the root that a URL or field names.

    Raises:
        InvalidInput: it is no id.
    """
    try:
        return Root(id_from_hex(text))
    except ValueError as exc:
        raise InvalidInput(f"not a root: {exc}") from exc


def parse_name(text: str) -> str:
    """Return the name that a URL names.

    Raises:
        InvalidInput: it is not usable as one.
    """
    try:
        return checked_name(text)
    except ValueError as exc:
        raise InvalidInput(str(exc)) from exc


def parse_count(query: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    """Return a whole number of a query string, between 0 and `most`.

    Raises:
        InvalidInput: it is no such number.
    """
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise InvalidInput(f"{name} is not a number between 0 and {most}")
    return int(text)


def parse_join(body: bytes, *, replaces: bool) -> JoinRequest:
    """Return the join that a body asks for."""
    fields = Fields(body, where="join")
    request = JoinRequest(
        realm_id=fields.text("realm_id"),
        token_id=fields.text("token_id"),
        token_secret=fields.key("token_secret"),
        name=fields.name("name"),
        node_secret=fields.key("node_secret"),
        macs=fields.texts("macs", most=_MACS_MAX),
        request=_request(fields),
        replaces=replaces,
    )
    fields.end()
    return request


def parse_renewal(body: bytes) -> bytes:
    """Return the request for a certificate that a body holds, PEM."""
    fields = Fields(body, where="renew")
    request = _request(fields)
    fields.end()
    return request


def _request(fields: Fields) -> bytes:
    """Take a request for a certificate; a bad one is refused before a token is spent for it."""
    try:
        request = fields.text("request").encode("ascii")
    except UnicodeEncodeError as exc:
        raise InvalidInput("the request for a certificate is damaged") from exc
    checked_request(request)
    return request


def parse_publication(body: bytes, *, origin: str) -> Publication:
    """Return the release that a body asks for."""
    fields = Fields(body, where="release")
    wanted = Publication(
        name=fields.name("name"),
        root=fields.root("root"),
        root_block=fields.hex("root_block_hex"),
        kind=fields.name("kind"),
        totals=checked_totals(fields.take("totals", dict)),
        origin=origin,
    )
    fields.end()
    return wanted


def parse_signature(body: bytes) -> str:
    """Return the armored SSH signature that a body holds."""
    fields = Fields(body, where="signature")
    text = fields.text("signature")
    fields.end()
    return text


def parse_announcement(body: bytes, *, node: str) -> Announcement:
    """Return what a node announces."""
    fields = Fields(body, where="announce")
    announcement = Announcement(
        node=node,
        url=fields.text("url", most=_URL_MAX),
        have_bytes=fields.count("have_bytes"),
        complete=fields.take("complete", bool),
    )
    fields.end()
    if not announcement.url.startswith("http://"):
        raise InvalidInput("announce: url is not of the form http://HOST:PORT")
    return announcement


def parse_access(body: bytes) -> tuple[str, ...] | None:
    """Return the nodes that an image is for; None: all."""
    fields = Fields(body, where="access")
    nodes = fields.optional_names("nodes", most=_NODES_MAX)
    fields.end()
    return nodes


def parse_job(body: bytes) -> JobRequest:
    """Return the job that a body asks for."""
    fields = Fields(body, where="job")
    try:
        kind = JobKind(fields.text("kind"))
    except ValueError as exc:
        raise InvalidInput(f"job: {exc}") from exc
    if kind is JobKind.CLONE:
        raise InvalidInput("job: a clone is asked for with /v1/netboot")
    request = JobRequest(
        kind=_ordered_kind(kind),
        name=fields.name("name"),
        generation=fields.optional_count("generation"),
        nodes=fields.texts("nodes", most=_NODES_MAX),
        options=_job_options(kind, fields.take("options", dict, {})),
    )
    fields.end()
    if not request.nodes:
        raise InvalidInput("job: no nodes are named")
    return request


def _ordered_kind(kind: JobKind) -> JobKind:
    if kind is JobKind.CLONE:
        raise InvalidInput("job: a clone is begun on the node itself: nodectl clone")
    return kind


def parse_clone(body: bytes) -> tuple[str, int]:
    """Return the image and the generation that a node has begun to clone."""
    fields = Fields(body, where="clone")
    wanted = fields.name("image"), fields.count("generation")
    fields.end()
    return wanted


def parse_booted(body: bytes) -> Told:
    """Return what a new system says of its start; the one that says it has shown nothing yet."""
    fields = Fields(body, where="booted")
    told = Told(
        job_id=fields.count("job_id"),
        node=fields.name("node"),
        ticket=fields.key("ticket"),
        seen=_seen(fields.take("seen", dict)),
    )
    fields.end()
    return told


def _seen(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was read back: short texts, counts, and lists of short texts."""
    if len(given) > _SEEN_MAX:
        raise InvalidInput(f"booted: seen has more than {_SEEN_MAX} fields")
    return {_seen_text(name): _seen_value(value) for name, value in given.items()}


def _seen_value(value: object) -> str | int | list[str]:
    if isinstance(value, str):
        return _seen_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, list) and len(value) <= _LINES_MAX:
        return [_seen_text(each) for each in value]
    raise InvalidInput("booted: seen holds other things than numbers and texts")


def _seen_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _SEEN_TEXT_MAX:
        raise InvalidInput("booted: seen holds other things than numbers and short texts")
    return _shown(value)


def _job_options(kind: JobKind, given: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, type] = {"allow_rollback": bool, OPTION: dict}
    if kind is JobKind.RESTORE:
        known |= {"path": str, "keep_extra": bool}
        path = given.get("path")
        if not isinstance(path, str) or not path.startswith("/") or len(path) > _PATH_MAX:
            raise InvalidInput("job: options.path is not the absolute path of a directory")
    for name, value in given.items():
        if name not in known or not isinstance(value, known[name]):
            raise InvalidInput(f"job: options.{name} is unknown or of a wrong type")
    return dict(given)


def _shown(text: str) -> str:
    """Return a text that may be shown on a terminal: a bad node must not steer it."""
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)


def _json_length(value: object) -> int:
    try:
        return len(json.dumps(value))
    except RecursionError:
        return _RECEIPT_MAX + 1


def parse_report(body: bytes) -> Report:
    """Return what a node says about its work."""
    fields = Fields(body, where="report")
    try:
        state = WorkState(fields.text("state"))
    except ValueError as exc:
        raise InvalidInput(f"report: {exc}") from exc
    receipt = fields.take("receipt", dict, {})
    if receipt and _json_length(receipt) > _RECEIPT_MAX:
        raise InvalidInput(f"report: receipt has more than {_RECEIPT_MAX} characters")
    report = Report(
        state=state,
        step=_shown(fields.text("step", "")),
        sentence=_shown(fields.text("sentence", "")),
        lines=tuple(_shown(line) for line in fields.texts("lines", most=_LINES_MAX)),
        receipt=receipt or None,
        done=fields.count("done", 0),
        total=fields.optional_count("total"),
        swarm=_checked_swarm(fields.take("swarm", dict, {})),
        awaits=_awaits(fields.take("awaits", dict, {})),
    )
    fields.end()
    if report.awaits is not None and state is not WorkState.APPLIED:
        raise InvalidInput(f"report: one that is {state} awaits nothing")
    return report


def _awaits(given: dict[str, Any]) -> dict[str, str] | None:
    """Return what a clone's start will be; it is compared, and shown where it differs."""
    if not given:
        return None
    right = all(isinstance(value, str) and len(value) <= _SEEN_TEXT_MAX for value in given.values())
    if given.keys() != _AWAITED or not right or not _SHA256.fullmatch(given["ticket_sha256"]):
        raise InvalidInput(f"report: awaits has not the texts {', '.join(sorted(_AWAITED))}")
    return {name: _shown(value) for name, value in given.items()}


def _checked_swarm(given: dict[str, Any]) -> dict[str, Any]:
    """Return how a fetch goes; it is shown and not acted upon, so only its form is checked."""
    for name, value in given.items():
        inner = value if isinstance(value, dict) else {}
        names_fit = all(len(text) <= _SWARM_TEXT_MAX for text in (name, *inner))
        counts = all(type(count) is int for count in inner.values())
        plain = isinstance(value, dict | int) or (
            isinstance(value, str) and len(value) <= _SWARM_TEXT_MAX
        )
        if not (names_fit and counts and plain) or len(inner) > _SWARM_PEERS_MAX:
            raise InvalidInput("report: swarm holds other things than numbers and short texts")
    right = isinstance(given.get("from", {}), dict) and isinstance(given.get("bytes_per_s", 0), int)
    if not right or len(given) > _SWARM_KEYS_MAX:
        raise InvalidInput("report: swarm is not how a fetch goes")
    return given
