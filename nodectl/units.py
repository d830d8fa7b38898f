"""Sizes, rates and durations: from text a person wrote, to text a person reads.

Multiples are binary: `K`, `M`, `G`, `T` (also `KiB`, `MiB`, ...) are powers of 1024. Pure.
"""

import re

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_FACTORS = {"": 1, "B": 1, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*", re.IGNORECASE)
_MINUTE_S = 60
_HOUR_S = 3600


def parse_size(text: str) -> int:
    """Return the bytes that `text` such as "512", "64M", "1.5 GiB" stands for.

    Raises:
        ValueError: no number, a unit nobody knows, or a fraction of a byte.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        msg = f"not a size: {text[:40]!r} (examples: 512, 64M, 1.5GiB)"
        raise ValueError(msg)
    size = float(match[1]) * _FACTORS[match[2].upper()]
    if size != int(size):
        msg = f"not a whole number of bytes: {text[:40]!r}"
        raise ValueError(msg)
    return int(match[1]) * _FACTORS[match[2].upper()] if "." not in match[1] else int(size)


def format_size(size: int) -> str:
    """Return bytes for people, three significant digits: "0 B", "1.46 GiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 999.5:  # noqa: PLR2004 - the fourth digit begins here
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 999.5 else f"{value:.0f} TiB"  # noqa: PLR2004


def format_duration(seconds: float) -> str:
    """Return a duration for people: "0.84 s", "12 s", "3:05", "2:07:09"."""
    if seconds < 10:  # noqa: PLR2004 - below ten seconds the fraction is worth reading
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}:{whole % _MINUTE_S:02}"
    return f"{whole // _HOUR_S}:{whole % _HOUR_S // _MINUTE_S:02}:{whole % _MINUTE_S:02}"
