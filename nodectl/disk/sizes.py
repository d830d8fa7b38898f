"""How large a partition or volume is meant to be, and how several of them share a room. Pure.

The written forms: "20GiB" (exact), "30%" (of the room), "rest" (what the others leave), or a table
such as { min = "10GiB", max = "100GiB", weight = 2 } and { percent = 30, min = "4GiB" }.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodectl.units import GIB, MIB, format_size, parse_size

REST = "rest"
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*")
_WHOLE = 10_000  # hundredths of a percent
MAX_WEIGHT = 1000
EXAMPLES = '"20GiB", "30%", "rest" or { min = "10GiB", max = "1TiB", weight = 2 }'


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A wish: exact bytes, a share of the whole room, or a weight in what is left."""

    exact: int | None = None  # bytes
    share: int | None = None  # hundredths of a percent of the room
    weight: int = 1  # of what is left, where neither of the others is set
    least: int = 0  # bytes; no limit to an exact size
    most: int | None = None  # bytes

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        text = size_mistake(self)
        if text:
            raise ValueError(text)

    @property
    def is_flexible(self) -> bool:
        """Say whether it takes a part of what the others leave."""
        return self.exact is None and self.share is None

    @property
    def is_whole_rest(self) -> bool:
        """Say whether it takes all that is left, without a limit."""
        return self.is_flexible and self.most is None

    @property
    def smallest(self) -> int:
        """The bytes that it needs at least."""
        return self.exact if self.exact is not None else self.least

    @property
    def largest(self) -> int | None:
        """The bytes that it takes at most, where that is known without the room."""
        return self.exact if self.exact is not None else self.most


def size_mistake(size: Size) -> str:
    """Return what is wrong with a size; empty: nothing."""
    if size.exact is not None and size.exact <= 0:
        return "a size is more than 0"
    if size.exact is not None and (size.share is not None or size.least or size.most is not None):
        return "an exact size has no percent, min or max"
    if size.share is not None and not 0 < size.share <= _WHOLE:
        return "a percentage is more than 0 and at most 100"
    if not 1 <= size.weight <= MAX_WEIGHT:
        return f"a weight is 1 to {MAX_WEIGHT}"
    if size.most is not None and size.most < max(size.least, 1):
        return "max is less than min"
    return ""


REST_SIZE = Size()


def read_size(value: object) -> Size:
    """Return the size that a value of a layout file means.

    Raises:
        ValueError: it is none; the text says why.
    """
    if isinstance(value, str):
        return _read_text(value)
    if isinstance(value, Mapping):
        return _read_table(value)
    msg = f"must be {EXAMPLES}, is {value!r}"
    raise ValueError(msg)


def _read_text(text: str) -> Size:
    if text == REST:
        return REST_SIZE
    if found := _PERCENT.fullmatch(text):
        return Size(share=_hundredths(float(found[1])))
    try:
        return Size(exact=parse_size(text))
    except ValueError as exc:
        msg = f'{exc}, or "30%", or "{REST}"'
        raise ValueError(msg) from exc


def _read_table(table: Mapping[str, object]) -> Size:
    unknown = sorted(set(table) - {"min", "max", "weight", "percent"})
    if unknown:
        msg = f"unknown key {unknown[0]!r} (known: min, max, weight, percent)"
        raise ValueError(msg)
    weight = table.get("weight", 1)
    if not isinstance(weight, int) or isinstance(weight, bool):
        msg = f"weight must be a whole number, is {weight!r}"
        raise ValueError(msg)  # noqa: TRY004 - a wrong file, not a wrong call
    percent = table.get("percent")
    if percent is not None and (isinstance(percent, bool) or not isinstance(percent, int | float)):
        msg = f"percent must be a number, is {percent!r}"
        raise ValueError(msg)
    if percent is not None and "weight" in table:
        msg = "a size has a percent or a weight, not both"
        raise ValueError(msg)
    return Size(
        share=None if percent is None else _hundredths(percent),
        weight=weight,
        least=_limit(table, "min") or 0,
        most=_limit(table, "max"),
    )


def _hundredths(percent: float) -> int:
    hundredths = percent * 100
    if not -1 < hundredths <= _WHOLE or round(hundredths) != round(hundredths, 6):
        msg = "a percentage is 0.01 to 100 with at most two digits after the point"
        raise ValueError(msg)
    return round(hundredths)


def _limit(table: Mapping[str, object], key: str) -> int | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        msg = f'{key} must be a size such as "10GiB", is {value!r}'
        raise ValueError(msg)  # noqa: TRY004 - see above
    return parse_size(value)


def write_size(size: Size) -> str | dict[str, object]:
    """Return the value for a layout file: `read_size` makes the same size of it."""
    if size.exact is not None:
        return exact_text(size.exact)
    plain = not size.least and size.most is None
    if size.share is not None and plain:
        return f"{size.share / 100:g}%"
    if plain and size.weight == 1:
        return REST
    table: dict[str, object] = {}
    if size.least:
        table["min"] = exact_text(size.least)
    if size.most is not None:
        table["max"] = exact_text(size.most)
    if size.share is not None:
        table["percent"] = size.share / 100 if size.share % 100 else size.share // 100
    elif size.weight != 1:
        table["weight"] = size.weight
    return table


def exact_text(size: int) -> str:
    """Return bytes in the largest unit that states them exactly."""
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def size_words(size: int) -> str:
    """Return bytes for an error: rounded for the eye, and exactly."""
    return f"{format_size(size)} ({size} bytes)"


class TooLittleRoom(ValueError):
    """The sizes need more than there is."""

    def __init__(self, needed: int) -> None:
        """Keep the bytes that are needed at least."""
        super().__init__(f"{needed} bytes are needed")
        self.needed = needed


def share_out(room: int, sizes: Sequence[Size], grain: int) -> tuple[int, ...]:
    """Return bytes for each size, multiples of `grain`, together at most `room` (one, too).

    Exact sizes and minima are rounded up, percentages and maxima down. What is left goes to the
    flexible ones by weight, within their limits; without one it stays free.

    Raises:
        TooLittleRoom: exact sizes, percentages and minima are more than the room.
    """
    got = [max(_first_part(size, room, grain), grain) for size in sizes]
    if sum(got) > room:
        raise TooLittleRoom(sum(got))
    growing = [index for index, size in enumerate(sizes) if size.is_flexible]
    pool = room - sum(size for index, size in enumerate(got) if index not in growing)

    def at_level(level: int) -> dict[int, int]:
        """Return what each gets when a weight of 1 is worth `level` bytes, within its limits."""
        wanted = {index: level * sizes[index].weight // grain * grain for index in growing}
        return {
            index: max(got[index], min(size, _most(sizes[index], grain)))
            for index, size in wanted.items()
        }

    low, high = 0, pool
    while low < high:  # the highest level that still fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(at_level(middle).values()) <= pool else (low, middle - 1)
    for index, size in at_level(low).items():
        got[index] = size
    left = room - sum(got)
    for index in growing:  # what the rounding left, a grain to each from the first
        if left >= grain and got[index] + grain <= _most(sizes[index], grain):
            got[index] += grain
            left -= grain
    return tuple(got)


def _most(size: Size, grain: int) -> int:
    return 1 << 62 if size.most is None else max(size.most // grain, 1) * grain


def _first_part(size: Size, room: int, grain: int) -> int:
    if size.exact is not None:
        return round_up(size.exact, grain)
    least = round_up(size.least, grain)
    if size.share is None:
        return least
    wanted = room * size.share // _WHOLE // grain * grain
    return max(least, min(wanted, _most(size, grain)))


def round_up(size: int, grain: int) -> int:
    """Return the next multiple of `grain`."""
    return -(-size // grain) * grain
