"""The line of every field of a TOML text. Pure.

`tomllib` says what a text means and not where. This walks a text that `tomllib` has accepted, so it
needs to know how values end and not what they are (TOML 1.0.0).
"""

import re
from bisect import bisect_right

_KEY = re.compile(r"""[ \t]*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([A-Za-z0-9_-]+))[ \t]*""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL
)
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")


def field_lines(text: str) -> dict[str, int]:
    """Return the line (from 1) of each field: "disk[0].match.size" -> 7; tables too."""
    walker = _Walker(text)
    walker.walk()
    return walker.lines


class _Walker:
    def __init__(self, text: str) -> None:
        self.lines: dict[str, int] = {}
        self._text = text
        self._at = 0
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._counts: dict[str, int] = {}  # path of a list of tables -> how many there are

    def walk(self) -> None:
        """Go through the whole text."""
        place = ""
        while True:
            self._skip_blank()
            if self._at >= len(self._text):
                return
            place = self._header() if self._text[self._at] == "[" else self._pair(place)

    def _note(self, path: str) -> None:
        self.lines.setdefault(path, bisect_right(self._starts, self._at))

    def _skip_blank(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _keys(self) -> list[str]:
        """Read a dotted key."""
        keys = []
        while found := _KEY.match(self._text, self._at):
            self._at = found.end()
            keys.append(next(part for part in found.groups() if part is not None))
            if self._text[self._at : self._at + 1] != ".":
                break
            self._at += 1
        return keys

    def _header(self) -> str:
        repeated = self._text.startswith("[[", self._at)
        begin = self._at
        self._at += 2 if repeated else 1
        keys = self._keys()
        end, self._at = self._at + (2 if repeated else 1), begin
        place = ""
        for index, key in enumerate(keys):
            place = f"{place}.{key}" if place else key
            if repeated and index == len(keys) - 1:
                self._note(place)
                self._counts[place] = self._counts.get(place, -1) + 1
            if place in self._counts:
                place = f"{place}[{self._counts[place]}]"
        self._note(place)
        self._at = end
        return place

    def _pair(self, place: str) -> str:
        """Read `key = value`; return the place, which does not change."""
        self._skip_blank()
        begin = self._at
        keys = self._keys()
        end, self._at = self._at, begin
        path = place
        for key in keys:
            path = f"{path}.{key}" if path else key
            self._note(path)
        self._at = end + 1  # the "="
        self._value(path)
        # What cannot be walked may not hold up the walk: tomllib has accepted the text.
        self._at = max(self._at, begin + 1)
        return place

    def _value(self, path: str) -> None:
        self._skip_spaces()
        letter = self._text[self._at : self._at + 1]
        if letter == "[":
            self._list(path)
        elif letter == "{":
            self._table(path)
        elif found := _STRING.match(self._text, self._at) or _SCALAR.match(self._text, self._at):
            self._at = found.end()

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1] in {" ", "\t"}:
            self._at += 1

    def _list(self, path: str) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip_blank()
            if self._text[self._at : self._at + 1] in {"]", ""}:
                break
            before = self._at
            self._note(f"{path}[{index}]")
            self._value(f"{path}[{index}]")
            self._skip_blank()
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
            elif self._at == before:
                break
            index += 1
        self._at += 1

    def _table(self, path: str) -> None:
        self._at += 1
        while True:
            self._skip_blank()
            if self._text[self._at : self._at + 1] in {"}", ""}:
                break
            self._pair(path)
            self._skip_blank()
            if self._text[self._at : self._at + 1] == ",":
                self._at += 1
        self._at += 1
