"""What a test can leave behind on the machine: loop devices, mounts, namespaces, processes.

Only what can be told to be of this run counts (it lies below the run's folder, or carries its
process id), so that two runs on one machine do not accuse each other.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_NETNS = Path("/run/netns")
_GRACE_S = 3.0  # a process that was told to end may take this long


def leftovers(base: Path) -> frozenset[str]:
    """Return a sentence for each thing below `base` that the kernel holds."""
    return frozenset((*_loops(base), *_mounts(base), *_namespaces(), *_processes(base)))


def settled_leftovers(base: Path, *, before: frozenset[str]) -> frozenset[str]:
    """Return what is new since `before`, after what is just ending has had time to end."""
    deadline = time.monotonic() + _GRACE_S
    while (left := leftovers(base) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _loops(base: Path) -> Iterator[str]:
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # detached between the listing and the reading
            backing = path.read_text(encoding="utf-8", errors="surrogateescape").strip()
            if backing.startswith(f"{base}/"):
                yield f"loop device /dev/{path.parts[3]} on {backing}"


def _mounts(base: Path) -> Iterator[str]:
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    for line in text.splitlines():
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), line.split(" ")[4])
        if point.startswith(f"{base}/"):
            yield f"mount {point}"


def _namespaces() -> Iterator[str]:
    """Yield named network namespaces, but for those that carry the id of another live process."""
    if not _NETNS.is_dir():
        return
    for path in _NETNS.iterdir():
        others = {int(n) for n in re.findall(r"\d{2,7}", path.name)} - {os.getpid()}
        if not any(Path(f"/proc/{pid}").is_dir() for pid in others):
            yield f"network namespace {path.name}"


def _processes(base: Path) -> Iterator[str]:
    """Yield processes, not our ancestors, whose command, environment or folder lies in `base`."""
    ours = _ancestors()
    mark = os.fsencode(f"{base}/")
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in ours:
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            found = mark in command or mark in (folder / "environ").read_bytes()
            found = found or os.fsencode((folder / "cwd").readlink() / "").startswith(mark)
        except OSError:  # it ended, or is somebody else's
            continue
        if found and command:  # a zombie has no command line
            words = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
            yield f"process {folder.name}: {words[:200]}"


def _ancestors() -> set[int]:
    """Return this process and its ancestors: their command lines may name the folder."""
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1:
        found.add(pid)
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        pid = int(stat.rpartition(")")[2].split()[1])
    return found
