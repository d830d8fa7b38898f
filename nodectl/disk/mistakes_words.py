"""What a mistake of a layout is, and the forms of its words. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LABEL = re.compile(r"[A-Za-z0-9@][A-Za-z0-9 @._:+-]*")
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is wrong, at a field such as `partition[1].size`."""

    field: str
    text: str


def is_id(text: str) -> bool:
    """Say whether `text` can name a part of a layout."""
    return _ID.fullmatch(text) is not None


def bad_id(text: str) -> str:
    """Return the sentence for a text that cannot."""
    return f"{text!r} is no usable id (a letter, then up to 31 letters, digits, '_' or '-')"


def wrong_ones(*checks: tuple[bool, str, str]) -> Iterator[tuple[str, str]]:
    """Yield field and text of each check (is it wrong, field, text) that found something."""
    return ((field, text) for is_wrong, field, text in checks if is_wrong)


def repeated(values: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield index and value of each value that stood before; empty ones do not count."""
    for index, value in enumerate(values):
        if value and value in values[:index]:
            yield index, value
