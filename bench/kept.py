"""Results kept in a file of JSON lines, so that a long measurement that broke off goes on."""

import json
from pathlib import Path
from typing import Any

from measure import machine

_KEY = ("tool", "scenario", "nodes", "rate_mbit", "runs", "asked_bytes", "commit")


class Kept:
    """The results in one file; without a file nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; a last line that was cut off does not count."""
        self._path = path
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self._rows[_key(row)] = row

    def get(self, **asked: Any) -> dict[str, Any] | None:  # noqa: ANN401 - JSON values
        """Return the result that was asked for and measured with this very commit."""
        return self._rows.get(_key({**asked, "commit": machine()["commit"]}))

    def put(self, row: dict[str, Any]) -> None:
        """Keep a result that is no failure."""
        if self._path is not None and "seconds" in row:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in _KEY)
