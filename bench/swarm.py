"""From one host to N hosts over shaped links: nodectl, and what people use today.

    .venv/bin/python bench/swarm.py --nodes 8 --rate 200 --bytes 204M --tool curl,rsync,udpcast

Needs root: it builds network namespaces (bench/lab.py). Every tool moves the same number of bytes
to the same hosts over the same links, one tool after the other. With --bytes: a file of random
bytes, which no compression shrinks. With --tree: nodectl captures that tree, and the others
move one file as large as its sealed store (without nodectl among the tools: `tar | zstd -3` of it).

A result is one JSON line: `seconds` until the last host has everything (for
nodectl: until `swarm push` says so; `last_s` is what its last node took), `bound_s` = bytes * 8 /
rate (headers not counted: TCP over Ethernet reaches 95 % of it), `ratio`, `seeder_copies` = what
the seeding host sent over its link, in copies; `cpu_share` near 1 says that the machine's
processors and not the links were the limit. Received files are compared with the one that was
sent.
"""

import argparse
import concurrent.futures
import contextlib
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import nodectl_hosts
from measure import DEFAULT_NODECTL, REPOSITORY, Failed, command_words, emit, machine, pipeline, say

sys.path.insert(0, str(REPOSITORY))

from nodectl.units import parse_size

_HTTP_PORT = 8080
_RSYNC_PORT = 873
_END_S = 5.0


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


class Rival:
    """A program that moves one file: servers on host 0, and one command on each other host."""

    needs: Sequence[str] = ()
    port = 0  # that the server listens on; 0: nothing to wait for
    server_ends = False  # the server is the sender and ends by itself

    def server(self, case: Case) -> list[str]:
        """Return the command for host 0."""
        raise NotImplementedError

    def client(self, case: Case, host: int) -> list[str]:
        """Return the command for another host; it ends, or says "done", when it has the file."""
        raise NotImplementedError


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
TOOLS = ("nodectl", *RIVALS)


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


def row(tool: str, result: Result, case: Case, size: int) -> dict[str, Any]:
    """Return the JSON object for one tool."""
    seconds = result.seconds
    bound_s = size * 8 / (case.hosts.rate_mbit * 1e6)
    facts = machine()
    return {
        "work": "swarm",
        "tool": tool,
        "seconds": round(seconds, 3),
        "cpu_s": round(result.cpu_s, 3),
        "max_rss_bytes": result.max_rss_bytes,
        "sealed_bytes": size,
        "nodes": len(case.fetchers),
        "rate_mbit": case.hosts.rate_mbit,
        "bound_s": round(bound_s, 3),
        "ratio": round(seconds / bound_s, 3),
        "seeder_copies": round(result.seeder_bytes / size, 3),
        "first_s": round(result.finished_s[0], 3),
        "last_s": round(result.finished_s[-1], 3),
        "cpu_share": round(result.cpu_s / seconds / facts["cpus"], 3),
        **facts,
    }


def run_nodectl(case: Case, prepared: nodectl_hosts.Prepared, limit_s: float) -> Result:
    """Push the captured image to every host's store."""
    push = nodectl_hosts.push(prepared, case.hosts, limit_s)
    return Result(
        seconds=push.seconds,
        finished_s=push.finished_s,
        seeder_bytes=push.seeder_bytes,
        cpu_s=push.cpu_s,
        max_rss_bytes=push.max_rss_bytes,
    )


def _random_file(path: Path, size: int) -> None:
    rng = random.Random(size)
    with path.open("wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(rng.randbytes(min(1 << 20, size - start)))


def _tarred(tree: Path, path: Path) -> None:
    tar = ("tar", "--create", "--one-file-system", f"--directory={tree}", ".")
    pipeline((tar, ("zstd", "-3", "-T0", "--quiet", "--stdout")), stdout=path)


def lacking(tool: str, command: Sequence[str]) -> str:
    """Return which program a tool lacks, or nothing."""
    needs = RIVALS[tool].needs if tool in RIVALS else command[:1]
    absent = [program for program in needs if not shutil.which(program)]
    if not absent and tool == "libtorrent":
        probe = ["/usr/bin/python3", "-c", "import libtorrent"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            return "python3-libtorrent"
    return absent[0] if absent else ""


def measure(args: argparse.Namespace, folder: Path, hosts: lab.Lab) -> int:
    """Run tool after tool; print the results. Returns how many failed."""
    source = folder / "source"
    source.mkdir()
    file = source / "payload"
    tree = args.tree or source
    if args.tree is None:
        _random_file(file, args.bytes)
    prepared = None
    if "nodectl" in args.tool:
        try:
            prepared = nodectl_hosts.prepare(command_words(args.nodectl), tree, folder / "nodectl")
        except Failed as failed:
            emit({"work": "swarm", "tool": "nodectl", "error": str(failed)})
    if args.tree is not None and prepared:
        _random_file(file, prepared.sealed_bytes)
    elif args.tree is not None:
        _tarred(tree, file)
    size = file.stat().st_size
    limit_s = 60 + 3 * args.nodes * size * 8 / (args.rate * 1e6)
    failures = int("nodectl" in args.tool and prepared is None)
    for tool in args.tool:
        if tool == "nodectl" and prepared is None:
            continue
        failures += not _one(tool, prepared, Case(hosts=hosts, file=file, folder=folder), limit_s)
    return failures


def _one(tool: str, prepared: nodectl_hosts.Prepared | None, case: Case, limit_s: float) -> bool:
    """Measure one tool in a folder of its own; say whether it worked."""
    place = case.folder / tool
    place.mkdir(exist_ok=True)
    case = Case(hosts=case.hosts, file=case.file, folder=place)
    os.sync()
    say(f"{tool} ...")
    try:
        if tool == "nodectl" and prepared:
            size = prepared.sealed_bytes
            result = run_nodectl(case, prepared, limit_s)
        else:
            size = case.file.stat().st_size
            result = run_rival(RIVALS[tool], case, limit_s)
    except (Failed, OSError) as failed:
        say(f"{tool} failed: {failed}")
        emit({"work": "swarm", "tool": tool, "error": str(failed)})
        return False
    finally:
        shutil.rmtree(place)
    emit(row(tool, result, case, size))
    return True


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="One host to N hosts over shaped links.")
    parser.add_argument("--nodes", type=int, default=8, help="hosts that have nothing yet")
    parser.add_argument("--rate", type=float, default=200, help="Mbit/s of each link, both ways")
    parser.add_argument("--bytes", type=parse_size, default="204M", help="random bytes")
    parser.add_argument("--tree", type=Path, help="a tree instead")
    parser.add_argument("--tool", default=",".join(TOOLS), help="of these, with commas")
    parser.add_argument("--scratch", type=Path, help="where to write (default: $TMPDIR or /tmp)")
    parser.add_argument("--nodectl", default=DEFAULT_NODECTL, help="how to call nodectl")
    parser.add_argument("--json", action="store_true", help="nothing but results, not even stderr")
    args = parser.parse_args()
    args.tool = args.tool.split(",")
    if unknown := set(args.tool) - set(TOOLS):
        parser.error(f"unknown tools: {', '.join(sorted(unknown))}")
    if args.tree is not None and not args.tree.is_dir():
        parser.error(f"{args.tree} is not a folder")
    if os.geteuid():
        parser.error("needs root: it makes network namespaces")
    return args


def main() -> None:
    """Build the hosts, measure, and end with status 0 when every tool that was there worked."""
    args = arguments()
    if args.json:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - to the end
    command = command_words(args.nodectl)
    for tool in list(args.tool):
        if program := lacking(tool, command):
            emit({"work": "swarm", "tool": tool, "skipped": f"{program} is not installed"})
            args.tool.remove(tool)
    with (
        tempfile.TemporaryDirectory(prefix="nodectl-bench-", dir=args.scratch) as folder,
        lab.lab(args.nodes + 1, args.rate) as hosts,
    ):
        failed = measure(args, Path(folder), hosts)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
