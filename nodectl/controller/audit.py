"""The audit log: who did what to whom, when and from where; append-only, each line sealed.

One JSON object a line: `{"seq", "at" (seconds since 1970), "who", "from", "what", "whom",
"details", "seal"}`. The seal is BLAKE3, keyed with a key derived from the realm key, over the seal
of the line before (32 zero bytes for the first) and the canonical JSON of the other fields. Who has
not the realm key can neither change a line nor take one out of the middle; that none is missing at
the end is said by the catalog, which holds the number and seal of the last (`audit/head`).

Several processes write (`serve --controller`, `token create`): a lock on the file orders them. A
line is on the disk before the answer leaves. Refusals are written once a minute for each asker and
at most `_REFUSALS_MAX` in a minute, with how many were left out, so that a stranger cannot fill
the disk.
"""

import fcntl
import hmac
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from nodectl.catalog.model import ABSENT, Catalog
from nodectl.errors import AuditBroken, WriteConflict
from nodectl.trust.realm import Realm

log = logging.getLogger(__name__)

HEAD_KEY = "audit/head"
_FIRST = bytes(32)
_FIELDS = {"seq", "at", "who", "from", "what", "whom", "details", "seal"}
_SEAL = re.compile("[0-9a-f]{64}")
_DETAILS_MAX = 8192  # bytes of JSON; longer ones are named by their hash
_LINE_MAX = 65536
_HEAD_TRIES = 100
_AGAIN_S = 60.0
_REFUSALS_MAX = 60
_ASKERS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The last line: its number (0: there is none) and its seal."""

    seq: int
    seal: bytes


class Audit:
    """The log of one controller."""

    def __init__(self, path: Path, key: bytes, catalog: Catalog, now: Callable[[], float]) -> None:
        """Append to the file at `path`; `now` is the controller's clock."""
        self._path = path
        self._key = key
        self._catalog = catalog
        self._now = now
        self._refused_at: dict[tuple[str, str], float] = {}
        self._left_out = 0

    def note(
        self,
        what: str,
        whom: str,
        *,
        who: str,
        address: str = "",
        details: Mapping[str, object] | None = None,
    ) -> None:
        """Write one line; durable when it returns."""
        fields = {
            "at": int(self._now()),
            "who": who,
            "from": address,
            "what": what,
            "whom": whom,
            "details": _bounded(dict(details or {})),
        }
        head = self._append(fields)
        self._move_head(head)

    def refused(self, why: str, *, path: str, address: str, who: str = "") -> None:
        """Write that somebody was refused; not each time when it happens often."""
        now = self._now()
        fresh = {key: at for key, at in self._refused_at.items() if abs(now - at) < _AGAIN_S}
        self._refused_at = fresh
        asker = (who or address, path if who else "")
        if asker in fresh or len(fresh) >= min(_REFUSALS_MAX, _ASKERS_MAX):
            self._left_out += 1
            return
        fresh[asker] = now
        details = {"why": why[:500], "left_out": self._left_out}
        self._left_out = 0
        self.note("refused", path[:200], who=who, address=address, details=details)

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield every line, oldest first, each checked against the one before it.

        Raises:
            AuditBroken: a line was changed, taken out, put in or cut off.
        """
        before, seal = 0, _FIRST
        for number, line in enumerate(self._lines(), 1):
            entry = _parsed(line, number)
            if entry["seq"] != before + 1:
                raise AuditBroken(
                    f"line {number} of the audit log has the number {entry['seq']}, "
                    f"not {before + 1}: lines were taken out or put in",
                    hint=_WHAT_NOW,
                )
            if not hmac.compare_digest(self._seal(seal, entry), entry["seal"]):
                raise AuditBroken(f"line {number} of the audit log was changed", hint=_WHAT_NOW)
            before, seal = before + 1, bytes.fromhex(entry["seal"])
            yield entry

    def verify(self) -> Head:
        """Check the whole log, and its end against the catalog; return its last line's place.

        Raises:
            AuditBroken: something was changed or is missing.
        """
        known = self.known_head()
        last = Head(seq=0, seal=_FIRST)
        for entry in self.entries():
            last = Head(seq=entry["seq"], seal=bytes.fromhex(entry["seal"]))
            if last.seq == known.seq and last.seal != known.seal:
                raise AuditBroken(
                    f"line {last.seq} of the audit log is not the one that the catalog knows",
                    hint=_WHAT_NOW,
                )
        if last.seq < known.seq:
            raise AuditBroken(
                f"the audit log ends at line {last.seq}, and the catalog knows {known.seq}: "
                "its end was cut off",
                hint=_WHAT_NOW,
            )
        return last

    def known_head(self) -> Head:
        """Return the last line that the catalog knows."""
        document = self._catalog.get(HEAD_KEY)
        if document is None:
            return Head(seq=0, seal=_FIRST)
        return Head(seq=document.value["seq"], seal=bytes.fromhex(document.value["seal"]))

    # --- inside ------------------------------------------------------------------------------

    def _lines(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            # A last line without an end was cut off by a crash.
            yield from (line for line in file if line.endswith(b"\n"))

    def _append(self, fields: dict[str, Any]) -> Head:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "r+b", buffering=0) as file:
            fcntl.flock(fd, fcntl.LOCK_EX)
            end, last = _last_line(file.fileno())
            entry = {**fields, "seq": 1 if last is None else last["seq"] + 1}
            seal = self._seal(_FIRST if last is None else bytes.fromhex(last["seal"]), entry)
            line = json.dumps({**entry, "seal": seal}, sort_keys=True).encode() + b"\n"
            os.ftruncate(fd, end)
            os.pwrite(fd, line, end)
            os.fdatasync(fd)
        return Head(seq=entry["seq"], seal=bytes.fromhex(seal))

    def _seal(self, before: bytes, entry: Mapping[str, Any]) -> str:
        inner = {name: value for name, value in entry.items() if name != "seal"}
        text = json.dumps(inner, sort_keys=True, separators=(",", ":"))
        return blake3(before + text.encode(), key=self._key).hexdigest()

    def _move_head(self, head: Head) -> None:
        """Tell the catalog where the log ends; another process may have told it more already."""
        for _ in range(_HEAD_TRIES):
            document = self._catalog.get(HEAD_KEY)
            if document is not None and document.value["seq"] >= head.seq:
                return
            expected = ABSENT if document is None else document.revision
            value = {"seq": head.seq, "seal": head.seal.hex()}
            try:
                self._catalog.put(HEAD_KEY, value, expected=expected)
            except WriteConflict:
                continue
            return


_WHAT_NOW = "somebody wrote to it who should not: compare with a copy that was kept elsewhere"


def realm_audit(
    realm: Realm, realm_folder: Path, catalog: Catalog, now: Callable[[], float]
) -> Audit:
    """Return the log of the realm whose folder this is; it stands beside that folder."""
    return Audit(realm_folder.parent / "audit.log", realm.audit_key(), catalog, now)


def _bounded(details: dict[str, object]) -> dict[str, object]:
    text = json.dumps(details, sort_keys=True)
    if len(text) <= _DETAILS_MAX:
        return details
    return {"bytes": len(text), "blake3": blake3(text.encode()).hexdigest()}


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    try:
        entry: object = json.loads(line)
    except ValueError as exc:
        raise AuditBroken(f"line {number} of the audit log is no JSON", hint=_WHAT_NOW) from exc
    if isinstance(entry, dict) and set(entry) == _FIELDS:
        seq, seal = entry["seq"], entry["seal"]
        if isinstance(seq, int) and isinstance(seal, str) and _SEAL.fullmatch(seal):
            return entry
    raise AuditBroken(f"line {number} of the audit log has other fields", hint=_WHAT_NOW)


def _last_line(fd: int) -> tuple[int, dict[str, Any] | None]:
    """Return where the last whole line ends, and that line; a cut-off rest is not counted."""
    size = os.fstat(fd).st_size
    begin = max(0, size - 2 * _LINE_MAX)
    tail = os.pread(fd, size - begin, begin)
    end = tail.rfind(b"\n") + 1
    if end == 0:
        if begin:
            raise AuditBroken("the end of the audit log is no line", hint=_WHAT_NOW)
        return 0, None
    line = tail[tail.rfind(b"\n", 0, end - 1) + 1 : end]
    return begin + end, _parsed(line, 0)
