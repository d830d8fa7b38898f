"""Sets of span numbers as Python integers: bit n stands for span n.

An integer of 25,000 bits (100 GB in spans of 4 MiB) is combined in about a microsecond, so the
picker can look at every span of every neighbour for each decision. On the wire a set is its
little-endian bytes in hexadecimal digits (`to_hex`). Pure.
"""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Protocol


class Rng(Protocol):
    """What the pure parts need of a random source; `random.Random` fits."""

    def random(self) -> float:
        """Return a number in [0, 1)."""
        ...


def full(count: int) -> int:
    """Return the set of the spans 0 to `count - 1`."""
    return (1 << count) - 1


def bits_of(spans: Iterable[int]) -> int:
    """Return the set of these span numbers."""
    bits = 0
    for span in spans:
        bits |= 1 << span
    return bits


def spans_of(bits: int) -> Iterator[int]:
    """Yield the numbers in a set, ascending."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def nth_span(bits: int, nth: int) -> int:
    """Return the member of `bits` that has `nth` smaller ones; `nth < bits.bit_count()`."""
    offset = 0
    while (width := bits.bit_length()) > 1:
        half = width >> 1
        low = bits & ((1 << half) - 1)
        below = low.bit_count()
        if nth < below:
            bits = low
        else:
            nth -= below
            bits >>= half
            offset += half
    return offset


def random_span(bits: int, rng: Rng) -> int:
    """Return a member of a set that is not empty, each with the same chance."""
    return nth_span(bits, int(rng.random() * bits.bit_count()))


def to_hex(bits: int) -> str:
    """Return a set for the wire: little-endian bytes, no zero bytes at the end; "" is empty."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little").hex()


def from_hex(text: str, count: int) -> int:
    """Return the set that `to_hex` wrote, of spans below `count`.

    Raises:
        ValueError: no hexadecimal digits, or a span of `count` or above.
    """
    if len(text) > 2 * ((count + 7) // 8):
        raise ValueError("more spans than there are")
    bits = int.from_bytes(bytes.fromhex(text), "little")
    if bits >> count:
        raise ValueError("more spans than there are")
    return bits


def to_bytes(bits: int, count: int) -> bytes:
    """Return a set of spans below `count` as its little-endian bytes: one bit for each span."""
    return bits.to_bytes((count + 7) // 8, "little")


def from_bytes(data: bytes | memoryview, count: int) -> int:
    """Return the set that `to_bytes` wrote.

    Raises:
        ValueError: a span of `count` or above.
    """
    bits = int.from_bytes(data, "little")
    if bits >> count:
        raise ValueError("more spans than there are")
    return bits


def to_base64(bits: int) -> str:
    """Return a set for a query: URL-safe base64 without padding of its little-endian bytes."""
    data = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def from_base64(text: str, count: int) -> int:
    """Return the set that `to_base64` wrote, of spans below `count`.

    Raises:
        ValueError: it is none.
    """
    if len(text) > (count + 7) // 8 * 4 // 3 + 2:
        raise ValueError("more spans than there are")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        return from_bytes(base64.b64decode(padded, altchars=b"-_", validate=True), count)
    except binascii.Error as exc:
        raise ValueError("not a set of spans") from exc


def to_ranges(numbers: Iterable[int]) -> str:
    """Return ascending numbers as text such as "0,3-5"; "" for none."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def from_ranges(text: str, count: int) -> list[int]:
    """Return the numbers that text such as "0,3-5" names: ascending, each below `count`.

    Raises:
        ValueError: anything else.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and len(first) <= len(str(count))):
            raise ValueError("not a list of ranges")
        if dash and not (last.isascii() and last.isdigit() and len(last) <= len(str(count))):
            raise ValueError("not a list of ranges")
        begin, end = int(first), int(last or first)
        if begin > end or end >= count or (numbers and begin <= numbers[-1]):
            raise ValueError("ranges must ascend and stay within the span")
        numbers.extend(range(begin, end + 1))
    return numbers


class Rarity:
    """How many neighbours have each span, as binary digits in sets ("bit slices").

    Adding a set, and finding the rarest of a set, cost a few integer operations for each binary
    digit of the largest count, whatever the number of spans.
    """

    __slots__ = ("_planes",)

    def __init__(self) -> None:
        """Begin with no neighbour."""
        self._planes: list[int] = []  # [k]: the spans whose count has the binary digit k set

    def add(self, bits: int) -> None:
        """Count one more for each member of `bits`."""
        planes = self._planes
        for k, plane in enumerate(planes):
            if not bits:
                return
            planes[k] = plane ^ bits
            bits &= plane
        if bits:
            planes.append(bits)

    def remove(self, bits: int) -> None:
        """Count one less for each member of `bits`; each was counted before."""
        planes = self._planes
        for k, plane in enumerate(planes):
            if not bits:
                return
            planes[k] = plane ^ bits
            bits &= ~plane

    def rarest(self, bits: int) -> int:
        """Return those members of `bits` that the fewest neighbours have."""
        for plane in reversed(self._planes):
            without = bits & ~plane
            if without:
                bits = without
        return bits

    def powers(self, digit: int) -> int:
        """Return the set of the spans whose count is 2 ** `digit` or more."""
        bits = 0
        for plane in self._planes[digit:]:
            bits |= plane
        return bits

    def count(self, span: int) -> int:
        """Return how many neighbours have `span`."""
        return sum((plane >> span & 1) << k for k, plane in enumerate(self._planes))
