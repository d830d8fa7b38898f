"""nodectl as a service of systemd: the unit, and putting it and the program in their places.

One unit serves: what `nodectl serve` is told (`--controller`, limits, addresses) stands in
/etc/default/nodectl, which an upgrade leaves as it is. The program is a copy of its own, so that
the file from which it was installed may go.

What the unit takes away is what no job needs. It leaves what restoring a system into a tree or onto
a disk needs: set-user-id bits, device nodes and devices, mounts, writing anywhere. (ProtectClock=
and PrivateDevices= would take the disks away: systemd.exec(5).)
"""

import os
from dataclasses import dataclass
from pathlib import Path

from nodectl.errors import NeedsRoot, PathMissing
from nodectl.fsio import fsync_folder, write_atomic
from nodectl.run import run

PROGRAM = Path("usr/local/lib/nodectl/nodectl.pyz")
COMMAND = Path("usr/local/bin/nodectl")
UNIT = Path("etc/systemd/system/nodectl.service")
OPTIONS = Path("etc/default/nodectl")
_ENABLED = Path("etc/systemd/system/multi-user.target.wants/nodectl.service")
_START_TIMEOUT_S = 90.0

_UNIT_TEXT = """\
[Unit]
Description=nodectl: images for the nodes of this cluster
Documentation=file:///etc/default/nodectl
Wants=network-online.target
After=network-online.target time-sync.target
ConditionPathExists=/var/lib/nodectl/node.json

[Service]
Type=exec
EnvironmentFile=-/etc/default/nodectl
ExecStart={python} -I /{program} serve $NODECTL_SERVE
Restart=always
RestartSec=5
TimeoutStopSec=60
LimitNOFILE=65536
OOMScoreAdjust=-200

NoNewPrivileges=yes
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYSLOG CAP_SYS_PTRACE
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
KeyringMode=private
UMask=0077

[Install]
WantedBy=multi-user.target
"""
_OPTIONS_TEXT = """\
# What nodectl serve is told by its service; `nodectl serve --help` lists all.
NODECTL_SERVE="{options}"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What was put where."""

    files: tuple[str, ...]  # written now, absolute in the system
    kept: tuple[str, ...]  # were there, and are as they were
    started: bool


def install_service(
    program: Path, python: str, *, root: Path, options: str, start: bool
) -> Installed:
    """Install a copy of nodectl.pyz and its unit, and enable it.

    Args:
        program: the nodectl.pyz to copy.
        python: absolute path of the Python that runs it, in the system below `root`.
        root: "/", or the top of a tree whose system gets it at its next start.
        options: for `nodectl serve`; empty: what is there already, else none.
        start: also start it now, or start it anew; only where `root` is "/".

    Raises:
        NeedsRoot: only root may.
        PathMissing: the system below `root` is not started by systemd.
        ToolMissing, CommandFailed: systemctl is not there, or failed.
    """
    if os.geteuid() != 0:
        raise NeedsRoot("installing a service needs root")
    if not (root / UNIT.parent).is_dir():
        raise PathMissing(
            f"the system in {root} has no {UNIT.parent}: it is not started by systemd",
            hint="start `nodectl serve` there in another way",
        )
    if not (root / python.lstrip("/")).exists():
        raise PathMissing(f"the system in {root} has no {python}", hint="install Python 3.11 there")
    written, kept = [], []
    _place(root / PROGRAM, program.read_bytes(), 0o755)
    written.append(PROGRAM)
    if _linked(root / COMMAND, f"/{PROGRAM}"):
        written.append(COMMAND)
    else:
        kept.append(COMMAND)
    if options or not (root / OPTIONS).exists():
        _place(root / OPTIONS, _OPTIONS_TEXT.format(options=options).encode(), 0o644)
        written.append(OPTIONS)
    else:
        kept.append(OPTIONS)
    _place(root / UNIT, unit_text(python).encode(), 0o644)
    written.append(UNIT)
    _linked(root / _ENABLED, f"/{UNIT}")
    if start:
        run(["systemctl", "daemon-reload"], timeout=_START_TIMEOUT_S)
        run(["systemctl", "restart", UNIT.name], timeout=_START_TIMEOUT_S)
    return Installed(
        files=tuple(f"/{path}" for path in written),
        kept=tuple(f"/{path}" for path in kept),
        started=start,
    )


def unit_text(python: str) -> str:
    """Return the unit."""
    return _UNIT_TEXT.format(python=python, program=PROGRAM)


def _place(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data, mode=mode)


def _linked(path: Path, target: str) -> bool:
    """Make a link unless something else has that name; say whether the link is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.symlink_to(target)
    except FileExistsError:
        return path.is_symlink() and str(path.readlink()) == target
    fsync_folder(path.parent)
    return True
