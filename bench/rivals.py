"""What people use today to put one file on N hosts: curl, rsync, udpcast, BitTorrent.

Each is a command for host 0 and one for every other host; `run_rival` starts them, waits, and
compares what arrived with what was sent.
"""

import concurrent.futures
import contextlib
import filecmp
import os
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
from measure import REPOSITORY, Failed, pipeline

_HTTP_PORT = 8080
_RSYNC_PORT = 873


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What every tool gets: the hosts, the file, and a folder for each host."""

    hosts: lab.Lab
    file: Path
    folder: Path  # empty; one tool's own

    @property
    def fetchers(self) -> range:
        """The hosts that have nothing yet."""
        return range(1, self.hosts.hosts)

    def place(self, host: int) -> Path:
        """Return a host's own folder; it exists."""
        place = self.folder / f"host-{host}"
        place.mkdir(exist_ok=True)
        return place

    def received(self, host: int) -> Path:
        """Return where a host puts the file."""
        return self.place(host) / self.file.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one tool took."""

    seconds: float  # until the last host has everything and the caller knows
    finished_s: tuple[float, ...]  # of each host, the first to finish first
    seeder_bytes: int
    cpu_s: float
    max_rss_bytes: int


class Rival(ABC):
    """A program that moves one file: servers on host 0, and one command on each other host."""

    needs: Sequence[str] = ()
    port = 0  # that the server listens on; 0: nothing to wait for
    server_ends = False  # the server is the sender and ends by itself

    @abstractmethod
    def server(self, case: Case) -> list[str]:
        """Return the command for host 0."""

    @abstractmethod
    def client(self, case: Case, host: int) -> list[str]:
        """Return the command for another host; it ends, or says "done", when it has the file."""


class Curl(Rival):
    """Each host fetches from one HTTP server."""

    needs = ("curl",)
    port = _HTTP_PORT

    def server(self, case: Case) -> list[str]:
        words = ("-m", "http.server", str(_HTTP_PORT), f"--directory={case.file.parent}")
        return [sys.executable, *words]

    def client(self, case: Case, host: int) -> list[str]:
        url = f"http://{case.hosts.address(0)}:{_HTTP_PORT}/{case.file.name}"
        return ["curl", "--silent", "--fail", "--output", str(case.received(host)), url]


class Rsync(Rival):
    """Each host fetches from one rsync daemon; whole files, as over a network."""

    needs = ("rsync",)
    port = _RSYNC_PORT

    def server(self, case: Case) -> list[str]:
        config = case.folder / "rsyncd.conf"
        config.write_text(
            f"use chroot = no\nuid = 0\ngid = 0\npid file = {case.folder}/rsyncd.pid\n"
            f"[bench]\npath = {case.file.parent}\nread only = yes\n",
            encoding="utf-8",
        )
        return ["rsync", "--daemon", "--no-detach", f"--config={config}"]

    def client(self, case: Case, host: int) -> list[str]:
        source = f"rsync://{case.hosts.address(0)}/bench/{case.file.name}"
        return ["rsync", "--quiet", source, str(case.received(host))]


class Udpcast(Rival):
    """One multicast to all; the sender starts when every receiver is there."""

    needs = ("udp-sender", "udp-receiver")
    server_ends = True

    def server(self, case: Case) -> list[str]:
        receivers = f"--min-receivers={len(case.fetchers)}"
        # Above what the link carries, its queue overflows and slices are sent again and again.
        rate = f"--max-bitrate={int(case.hosts.rate_mbit * 950)}k"
        options = ("--nokbd", "--interface=eth0", rate, receivers)
        return ["udp-sender", f"--file={case.file}", *options]

    def client(self, case: Case, host: int) -> list[str]:
        file = f"--file={case.received(host)}"
        return ["udp-receiver", file, "--nokbd", "--interface=eth0"]


class Libtorrent(Rival):
    """A BitTorrent swarm; every peer is told of every other at the start."""

    needs = ("/usr/bin/python3",)

    def _peer(self, case: Case, role: str, host: int) -> list[str]:
        torrent = case.folder / "bench.torrent"
        if not torrent.exists():
            make = (
                "import libtorrent as lt, sys\n"
                "storage = lt.file_storage()\n"
                "lt.add_files(storage, sys.argv[1])\n"
                "torrent = lt.create_torrent(storage, piece_size=1 << 20)\n"
                "lt.set_piece_hashes(torrent, sys.argv[2])\n"
                "open(sys.argv[3], 'wb').write(lt.bencode(torrent.generate()))\n"
            )
            words = (str(case.file), str(case.file.parent), str(torrent))
            pipeline((("/usr/bin/python3", "-c", make, *words),))
        folder = case.file.parent if role == "seed" else case.place(host)
        peers = [case.hosts.address(n) for n in range(case.hosts.hosts) if n != host]
        program = REPOSITORY / "bench" / "torrent_peer.py"
        words = (role, str(torrent), str(folder), case.hosts.address(host), *peers)
        return ["/usr/bin/python3", str(program), *words]

    def server(self, case: Case) -> list[str]:
        return self._peer(case, "seed", 0)

    def client(self, case: Case, host: int) -> list[str]:
        return self._peer(case, "fetch", host)


RIVALS: dict[str, Rival] = {
    "curl": Curl(),
    "rsync": Rsync(),
    "udpcast": Udpcast(),
    "libtorrent": Libtorrent(),
}


@contextlib.contextmanager
def _started(argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        if process.returncode is None:
            process.kill()
            process.wait()


def _until_done(process: subprocess.Popen[bytes], began: float) -> float:
    """Wait until a process says "done" or ends; return the seconds since `began`."""
    assert process.stdout
    while (line := process.stdout.readline()) and line.strip() != b"done":
        pass
    return time.monotonic() - began


def _end(process: subprocess.Popen[bytes], *, by_signal: bool) -> Any:  # noqa: ANN401 - rusage
    """End a process and return its resource usage.

    Raises:
        Failed: it ended badly by itself.
    """
    if by_signal:
        process.send_signal(signal.SIGTERM)
    elif process.stdin:
        process.stdin.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not by_signal:
        raise Failed(f"{process.args!r} ended with {process.returncode}")
    return usage


def run_rival(rival: Rival, case: Case, limit_s: float) -> Result:
    """Move the file once; check what arrived."""
    with contextlib.ExitStack() as stack:
        start = lambda host, argv: stack.enter_context(_started(case.hosts.inside(host, argv)))  # noqa: E731
        server_argv = rival.server(case)
        client_argv = {host: rival.client(case, host) for host in case.fetchers}
        clients: list[subprocess.Popen[bytes]] = []
        if not rival.server_ends:
            server = start(0, server_argv)
            if rival.port:
                lab.wait_for_port(server.pid, rival.port)
        sent = case.hosts.sent_bytes(0)
        began = time.monotonic()
        clients = [start(host, argv) for host, argv in client_argv.items()]
        if rival.server_ends:
            server = start(0, server_argv)
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(len(clients)))
        waits = [pool.submit(_until_done, process, began) for process in clients]
        late = concurrent.futures.wait(waits, timeout=limit_s).not_done
        for process in [*clients, server] if late else ():
            process.kill()
        sent = case.hosts.sent_bytes(0) - sent
        if late:
            raise Failed(f"{len(late)} hosts have not finished after {limit_s:.0f} s")
        usages = [_end(process, by_signal=False) for process in clients]
        usages.append(_end(server, by_signal=not rival.server_ends))
    for host in case.fetchers:
        if not filecmp.cmp(case.file, case.received(host), shallow=False):
            raise Failed(f"host {host} received something else")
    finished_s = tuple(sorted(wait.result() for wait in waits))
    return Result(
        seconds=finished_s[-1],
        finished_s=finished_s,
        seeder_bytes=sent,
        cpu_s=sum(usage.ru_utime + usage.ru_stime for usage in usages),
        max_rss_bytes=max(usage.ru_maxrss for usage in usages) * 1024,
    )


UNICAST = ("curl", "rsync")  # one copy after the other over the seeder's link


def absent(programs: Sequence[str]) -> str:
    """Return the first program that is not installed, or nothing."""
    return next((program for program in programs if not shutil.which(program)), "")


def lacking(tool: str) -> str:
    """Return which program a rival lacks, or nothing."""
    program = absent(RIVALS[tool].needs)
    if not program and tool == "libtorrent":
        probe = ["/usr/bin/python3", "-c", "import libtorrent"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            return "python3-libtorrent"
    return program
