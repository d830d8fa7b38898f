"""Mount points, read from the kernel: what a restore must not reach into."""

import os
import re
from pathlib import Path

_MOUNTINFO = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_MOUNT_POINT = 4  # field of /proc/self/mountinfo, proc(5)


def mount_points_below(root: Path, path: bytes) -> list[str]:
    """Return the mount points at or below `root`/`path`; links in `root` are resolved."""
    base = os.fsencode(root.resolve()).rstrip(b"/")  # of "/" nothing is left
    place = base + b"/" + path if path else base
    found = []
    for line in _MOUNTINFO.read_bytes().splitlines():
        point = _ESCAPE.sub(lambda m: bytes([int(m[1], 8)]), line.split(b" ")[_MOUNT_POINT])
        if point == (place or b"/") or point.startswith(place + b"/"):
            found.append(os.fsdecode(point))
    return found
