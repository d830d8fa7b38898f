"""Times as a person writes them."""

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,6})([smhd])")


def parse_ttl(text: str) -> int:
    """Return the seconds that "90s", "30m", "1h" or "7d" stands for.

    Raises:
        InvalidInput: it is none of these, or no time at all.
    """
    from nodectl.errors import InvalidInput

    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise InvalidInput(f"not a time: {text[:40]!r}", hint="examples: 90s, 30m, 1h, 7d")
    return int(match[1]) * _UNITS[match[2]]
