"""A laboratory of hosts: network namespaces on one bridge, every link shaped in both directions.

Host n has the address 10.77.x.y, an interface `eth0`, and a link of `rate` Mbit/s up and down
(token bucket filters at both ends; the bridge itself is not shaped). With racks there is a bridge
for each, and a shaped uplink from it to a bridge in the middle. The bridges stand in a namespace of
their own, so nothing of the machine's own network is touched. All names carry the process id; what
a killed predecessor left is removed at the start.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

_NETNS = Path("/run/netns")
_PREFIX = "ndb"
_LISTEN = "0A"  # net/tcp_states.h: TCP_LISTEN
_READY_S = 20.0
_MTU = 1500


def _in_space(space: str, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` in a namespace, as the same process.

    `ip netns exec` would do, but it remounts /sys, which fails where / is no mount (a chroot).
    """
    return ["nsenter", f"--net={_NETNS / space}", "--", *argv]


def _run(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _ip(*words: str, space: str = "") -> str:
    argv = ["ip", *words]
    return _run(_in_space(space, argv) if space else argv)


@dataclass(slots=True)
class Lab:
    """The hosts 0 to `hosts - 1`, and `extra` ones; host 0 is the one that seeds."""

    hosts: int
    rate_mbit: float
    extra: tuple[int, ...] = ()  # numbers of more hosts, such as the controller's
    racks: int = 1  # host n stands in rack n % racks
    uplink_mbit: float = 0.0  # of each rack to the middle, both ways; 0: as fast as it goes
    prefix: str = field(default_factory=lambda: f"{_PREFIX}{os.getpid()}-")

    def space(self, host: int) -> str:
        """Return the name of a host's namespace."""
        return f"{self.prefix}{host}"

    @staticmethod
    def address(host: int) -> str:
        """Return a host's address."""
        return f"10.77.{host // 200}.{host % 200 + 1}"

    def inside(self, host: int, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` on a host, as the same process."""
        return _in_space(self.space(host), argv)

    def rack(self, host: int) -> int:
        """Return the rack that a host stands in."""
        return host % self.racks

    def sent_bytes(self, host: int) -> int:
        """Return what a host has sent over its link so far: headers count, too."""
        return self._received_at(f"p{host}")

    def uplink_bytes(self) -> int:
        """Return what came into all racks from others so far: headers count, too."""
        racks = range(self.racks) if self.racks > 1 else ()
        return sum(self._received_at(f"up{rack}") for rack in racks)

    def _received_at(self, port: str) -> int:
        """Return what a port of the switch has received."""
        text = _ip("-statistics", "-json", "link", "show", port, space=self._switch)
        statistics: dict[str, Any] = json.loads(text)[0]["stats64"]
        return int(statistics["rx"]["bytes"])

    @property
    def _switch(self) -> str:
        return f"{self.prefix}sw"

    def build(self) -> None:
        """Make the bridges and the hosts."""
        _ip("netns", "add", self._switch)
        for rack in range(self.racks):
            self._add_bridge(f"br{rack}")
        if self.racks > 1:
            self._add_bridge("middle")
            for rack in range(self.racks):
                self._add_uplink(rack)
        for host in (*range(self.hosts), *self.extra):
            self._add_host(host)

    def _add_bridge(self, name: str) -> None:
        # No snooping: multicast goes to every port, as on a switch without IGMP querier.
        bridge = ("add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        _ip("link", *bridge, space=self._switch)
        _ip("link", "set", name, "up", space=self._switch)

    def _add_uplink(self, rack: int) -> None:
        ends = (f"up{rack}", f"down{rack}")
        _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1], space=self._switch)
        for end, bridge in zip(ends, (f"br{rack}", "middle"), strict=True):
            _ip("link", "set", end, "master", bridge, "up", space=self._switch)
            if self.uplink_mbit:
                self._shape(self._switch, end, self.uplink_mbit)

    def _add_host(self, host: int) -> None:
        space, port = self.space(host), f"p{host}"
        _ip("netns", "add", space)
        peer = ("peer", "name", port, "netns", self._switch)
        _ip("link", "add", "eth0", "netns", space, "type", "veth", *peer)
        _ip("link", "set", "lo", "up", space=space)
        # "brd +": without a broadcast address udpcast finds nobody.
        address = f"{self.address(host)}/16"
        _ip("addr", "add", address, "brd", "+", "dev", "eth0", space=space)
        _ip("link", "set", "eth0", "up", space=space)
        _ip("route", "add", "224.0.0.0/4", "dev", "eth0", space=space)
        _ip("link", "set", port, "master", f"br{self.rack(host)}", "up", space=self._switch)
        self.set_rate(host, self.rate_mbit)

    def set_rate(self, host: int, mbit: float) -> None:
        """Shape a host's link to `mbit` Mbit/s, up and down; it may be in use."""
        self._shape(self.space(host), "eth0", mbit)
        self._shape(self._switch, f"p{host}", mbit)

    def _shape(self, space: str, device: str, mbit: float) -> None:
        # 4 ms of burst, two packets at least; a queue of 50 ms, as a small switch has.
        burst = max(2 * _MTU, int(mbit * 1e6 / 8 * 0.004))
        tbf = ("tbf", "rate", f"{mbit}mbit", "burst", str(burst), "latency", "50ms")
        _run(_in_space(space, ["tc", "qdisc", "replace", "dev", device, "root", *tbf]))

    def remove(self) -> None:
        """Kill what runs on the hosts and remove them."""
        _remove(name for name in _names() if name.startswith(self.prefix))


def _names() -> list[str]:
    return [path.name for path in _NETNS.iterdir()] if _NETNS.is_dir() else []


def _remove(names: Iterator[str]) -> None:
    for name in list(names):
        with contextlib.suppress(OSError):
            for pid in _ip("netns", "pids", name).split():
                _kill(int(pid))
            _ip("netns", "del", name)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _of_the_dead(name: str) -> bool:
    match = re.fullmatch(rf"{_PREFIX}(\d+)-\w+", name)
    return match is not None and not Path(f"/proc/{match[1]}").exists()


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextlib.contextmanager
def lab(
    hosts: int,
    rate_mbit: float,
    *,
    extra: tuple[int, ...] = (),
    racks: int = 1,
    uplink_mbit: float = 0.0,
) -> Iterator[Lab]:
    """Build a laboratory; it is removed however the block ends, by a signal too."""
    _remove(name for name in _names() if _of_the_dead(name))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit)
    built = Lab(hosts, rate_mbit, extra=extra, racks=racks, uplink_mbit=uplink_mbit)
    try:
        built.build()
        yield built
    finally:
        built.remove()


def wait_for_port(pid: int, port: int) -> None:
    """Wait until somebody listens on a TCP port in the namespace of process `pid`."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if port in _listening(pid):
            return
        time.sleep(0.02)
    raise OSError(f"nobody listens on port {port} after {_READY_S:g} s")


def _listening(pid: int) -> set[int]:
    """Return the TCP ports that are listened on in the namespace of process `pid`."""
    rows: list[str] = []
    with contextlib.suppress(FileNotFoundError):
        for table in ("tcp", "tcp6"):
            rows += Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
    words = [row.split() for row in rows]
    return {int(row[1].rpartition(":")[2], 16) for row in words if row[3] == _LISTEN}
