"""Puts into a restored tree what will tell the controller of its first start, and reads it back.

What tells is `tell_booted.py`, run by the tree's own Python and started by the tree's own init. It
carries a ticket that is good for one telling of one node for one job and for nothing else; both are
removed when it has told. None of it is ever part of an image (`content/excludes.py`).
"""

import json
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nodectl.boot.inside import Inside
from nodectl.errors import BootFailed, CommandFailed, UnsafePath
from nodectl.fsio import folder_beneath, link_beneath, read_beneath, write_beneath
from nodectl.identity.apply import is_labelled
from nodectl.identity.labels import selinux_label

FOLDER = "etc/nodectl/first-boot"
_TOLD = f"{FOLDER}/told.json"
_PROGRAM = f"{FOLDER}/tell_booted.py"
_UNIT = "etc/systemd/system/nodectl-first-boot.service"
_WANTED = "etc/systemd/system/multi-user.target.wants/nodectl-first-boot.service"
_SCRIPT = "etc/init.d/nodectl-first-boot"
_RUN_LEVELS = tuple(f"etc/rc{level}.d/S99nodectl-first-boot" for level in (2, 3, 4, 5))

_PYTHONS = ("python3", "/usr/libexec/platform-python")  # RHEL 8 has the second one always
_PYTHON_CHECK = (
    "import sys, ssl, http.client, json, pathlib, subprocess; "
    "sys.version_info < (3, 6) and sys.exit(1); "
    "ssl.OP_NO_TLSv1_3 or sys.exit(1); print(sys.executable)"
)
_PYTHON_TIMEOUT_S = 60.0
_LIMIT = 1 << 20
_PRIVATE, _PRIVATE_FOLDER, _PROGRAM_MODE, _PLAIN = 0o600, 0o700, 0o755, 0o644

# Not "oneshot": until that ended the system would count as starting, half an hour if need be. It
# asks for no network: that could make a unit fail which otherwise nobody starts.
_UNIT_TEXT = """\
[Unit]
Description=Tell the controller that this node has started from its new disk
After=multi-user.target network.target
ConditionPathExists=/{folder}/told.json

[Service]
Type=simple
ExecStart={python} /{folder}/tell_booted.py /{folder}
WorkingDirectory=/

[Install]
WantedBy=multi-user.target
"""
_SCRIPT_TEXT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          nodectl-first-boot
# Required-Start:    $remote_fs $network
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: tell the controller that this node has started from its new disk
### END INIT INFO
case "$1" in
start) [ ! -e /{folder}/told.json ] ||
  {python} /{folder}/tell_booted.py /{folder} </dev/null >/dev/null 2>&1 & ;;
esac
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBoot:
    """What a clone must know in order to tell of its first start."""

    job_id: int
    node: str
    root: str  # of the image, in hexadecimal digits
    ticket: bytes = field(repr=False)  # 32 bytes
    controllers: tuple[str, ...]  # URLs
    ca_pem: str
    try_s: int = 1800  # at each start
    starts: int = 5  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    path: str
    data: bytes = field(repr=False)
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What was put into a tree."""

    files: tuple[_File, ...] = ()
    links: tuple[tuple[str, str], ...] = ()  # path, target
    why_not: str = ""  # a clause; empty: the first start will be told of

    @property
    def paths(self) -> frozenset[str]:
        """Return all of it, without leading "/"."""
        return frozenset({each.path for each in self.files} | {path for path, _ in self.links})


def place_first_boot(root: Path, inside: Inside, first: FirstBoot) -> Placed:
    """Put everything there, or say why this tree cannot tell.

    Raises:
        UnsafePath: a folder of the tree is a link; nothing was written through it.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        python, starter = _python(inside), _starter(root_fd)
        if not python:
            return Placed(why_not="the image has no Python 3.6 or newer that speaks TLS 1.3")
        if not starter:
            return Placed(why_not="the image is started neither by systemd nor by System V's init")
        placed = _placed(first, python, starter)
        _write(root_fd, placed)
    finally:
        os.close(root_fd)
    return placed


def check_first_boot(root: Path, placed: Placed) -> None:
    """Read all of it back.

    Raises:
        BootFailed: something is not what was written.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for each in placed.files:
            if read_beneath(root_fd, each.path, limit=_LIMIT) != each.data:
                raise BootFailed(f"/{each.path} on the disk is not what was written")
        for path, target in placed.links:
            if _link(root_fd, path) != target:
                raise BootFailed(f"/{path} on the disk does not lead to {target}")
    finally:
        os.close(root_fd)


def _python(inside: Inside) -> str:
    """Return the path of a Python of the tree that can run the program; empty: there is none."""
    for name in _PYTHONS:
        try:
            done = inside.run((name, "-c", _PYTHON_CHECK), timeout=_PYTHON_TIMEOUT_S)
        except CommandFailed:
            continue
        path = done.stdout.decode("utf-8", "replace").strip()
        if path.startswith("/"):
            return path
    return ""


def _starter(root_fd: int) -> str:
    """Return what starts the tree's programs: systemd, sysv, or nothing that is known here."""
    for path in ("usr/sbin/init", "sbin/init", "usr/lib/systemd/systemd"):
        if "systemd" in (path + _link(root_fd, path)) and _there(root_fd, path):
            return "systemd"
    return "sysv" if _there(root_fd, "etc/init.d") and _there(root_fd, "etc/rc2.d") else ""


def _link(root_fd: int, path: str) -> str:
    parent, _, name = path.rpartition("/")
    try:
        with folder_beneath(root_fd, parent) as folder:
            return os.readlink(name, dir_fd=folder)
    except (OSError, UnsafePath):
        return ""


def _there(root_fd: int, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    try:
        with folder_beneath(root_fd, parent) as folder:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (OSError, UnsafePath):
        return False
    return True


def _placed(first: FirstBoot, python: str, starter: str) -> Placed:
    program = pkgutil.get_data("nodectl.boot", "tell_booted.py")
    if program is None:
        raise RuntimeError("nodectl was installed without tell_booted.py")
    words = {"folder": FOLDER, "python": python}
    if starter == "systemd":
        start = _File(path=_UNIT, data=_UNIT_TEXT.format(**words).encode(), mode=_PLAIN)
        links = [(_WANTED, "../nodectl-first-boot.service")]
    else:
        start = _File(path=_SCRIPT, data=_SCRIPT_TEXT.format(**words).encode(), mode=_PROGRAM_MODE)
        links = [(path, "../init.d/nodectl-first-boot") for path in _RUN_LEVELS]
    starts = [path for path, _ in links] + [start.path]
    document = {
        "job_id": first.job_id,
        "node": first.node,
        "root": first.root,
        "ticket": first.ticket.hex(),
        "controllers": list(first.controllers),
        "ca_pem": first.ca_pem,
        "try_s": first.try_s,
        "starts": first.starts,
        "remove": [f"/{path}" for path in starts],
    }
    told = json.dumps(document, indent=1).encode() + b"\n"
    return Placed(
        files=(
            _File(path=_PROGRAM, data=program, mode=_PLAIN),
            start,
            _File(path=_TOLD, data=told, mode=_PRIVATE),
        ),
        links=tuple(links),
    )


def _write(root_fd: int, placed: Placed) -> None:
    """Write everything, the file that it does not start without last."""
    labelled = is_labelled(root_fd)
    with folder_beneath(root_fd, FOLDER, make=True) as folder:
        os.fchmod(folder, _PRIVATE_FOLDER)
    for path in _folders(placed):
        with folder_beneath(root_fd, path, make=True):
            pass
    for path, target in placed.links:
        link_beneath(root_fd, path, target)
    for each in placed.files:
        label = selinux_label(each.path) if labelled else b""
        write_beneath(root_fd, each.path, each.data, mode=each.mode, label=label)


def _folders(placed: Placed) -> Iterator[str]:
    for path in sorted(placed.paths):
        if not path.startswith(FOLDER):
            yield path.rpartition("/")[0]
