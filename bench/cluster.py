"""A nodectl cluster on the hosts of a laboratory: one seeds, one is the controller, N fetch.

Everything goes through the command line, as a user's would: init, token create, join, image
capture, serve, swarm push. The states of all members are kept as they were before the first push
(`Realm`), so that each run begins alike (`Cluster`). How far a node is comes from the socket in its
state folder; what it took, from its receipt.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import lab
from measure import REPOSITORY, Failed

SEEDER = 0
CONTROLLER = 999  # beside the others, so that it can die alone
_CONTROL_PORT = 7443  # that `serve --controller` takes when it is told nothing
_READY_S = 180.0  # a machine that does much else is slow
_END_S = 10.0
_ASK_S = 5.0
_TAIL = 2000
_AT_ONCE = 4  # commands started at one time
_TICKS = os.sysconf("SC_CLK_TCK")
_JOINED = "joined"  # the folder of states as they were before the first push


@dataclass(frozen=True, slots=True, kw_only=True)
class Realm:
    """One realm's members, and how nodectl is called."""

    command: Sequence[str]
    folder: Path  # the state folder of host n is host-n in it

    def state(self, host: int) -> Path:
        """Return the state folder of a host."""
        return self.folder / f"host-{host}"

    def words(self, host: int, *words: str) -> list[str]:
        """Return the nodectl command line for one host."""
        return [*self.command, *words, "--state", str(self.state(host))]

    def call(self, hosts: lab.Lab, host: int, *words: str) -> str:
        """Run a command on a host; return what it printed."""
        return _finished(_begun(hosts.inside(host, self.words(host, *words))))

    def _kept(self, host: int) -> Path:
        return self.folder / _JOINED / f"host-{host}"

    def keep(self, host: int) -> None:
        """Keep a host's state as it is now, its store apart."""
        shutil.copytree(self.state(host), self._kept(host), ignore=_no_store, dirs_exist_ok=True)

    def set_back(self, host: int) -> None:
        """Give a host the state that was kept; only the seeder has its store still."""
        if host == SEEDER:
            store = self.folder / "store"
            (self.state(host) / "store").rename(store)
        shutil.rmtree(self.state(host))
        shutil.copytree(self._kept(host), self.state(host))
        if host == SEEDER:
            store.rename(self.state(host) / "store")

    def joined(self, host: int) -> bool:
        """Say whether a host has joined in some run before."""
        return self._kept(host).exists()


def _no_store(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "store" or name.endswith(".sock")}


def node_name(host: int) -> str:
    """Return under which name a host joined."""
    return {SEEDER: "seeder", CONTROLLER: "controller"}.get(host, f"n{host}")


def make_realm(
    command: Sequence[str], hosts: lab.Lab, folder: Path, images: Mapping[str, Sequence[Path]]
) -> Realm:
    """Make the realm and capture images; not part of what is measured.

    Args:
        command: how to call nodectl.
        hosts: a laboratory that has the seeder and the controller.
        folder: for the states; it is made.
        images: name to the trees of its generations.
    """
    folder.mkdir()
    realm = Realm(command=command, folder=folder)
    realm.call(hosts, CONTROLLER, "init", "--realm", "bench", "--node", node_name(CONTROLLER))
    realm.keep(CONTROLLER)
    with Cluster(realm, hosts) as cluster:
        cluster.start([CONTROLLER])
        cluster.join([SEEDER], role="operator")
        cluster.start([SEEDER])
        for name, trees in images.items():
            for tree in trees:
                realm.call(hosts, SEEDER, "image", "capture", name, "--tree", str(tree))
    for host in (SEEDER, CONTROLLER):
        realm.keep(host)
    return realm


@dataclass(slots=True, kw_only=True)
class _Server:
    """One `nodectl serve`."""

    process: subprocess.Popen[bytes]
    log: Path
    cpu_s: float = 0.0  # that it had used before the push


@dataclass(slots=True, kw_only=True)
class Job:
    """A push under way: the command that waits for it."""

    process: subprocess.Popen[bytes]
    began: float  # monotonic
    names: str


@dataclass(slots=True)
class Cluster:
    """The processes of one run; a context manager that ends them all."""

    realm: Realm
    hosts: lab.Lab
    servers: dict[int, _Server] = field(default_factory=dict)
    dead_cpu_s: float = 0.0  # of those that were killed
    _jobs: list[Job] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._jobs:
            _kill(job.process)
        for server in self.servers.values():
            server.process.terminate()
        for server in self.servers.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(_END_S)
            _kill(server.process)

    # --- members ------------------------------------------------------------------------------

    def start(self, hosts: Iterable[int], *options: str, program: Sequence[str] = ()) -> None:
        """Serve on hosts, a few at a time, until each is ready; with another `program` if given."""
        hosts = list(hosts)
        for first in range(0, len(hosts), _AT_ONCE):
            group = hosts[first : first + _AT_ONCE]
            for host in group:
                self._start(host, options, program)
            for host in group:
                _wait_until_ready(self.servers[host])

    def _start(self, host: int, options: Sequence[str], program: Sequence[str]) -> None:
        advertise = ("--advertise", self.hosts.address(host))
        controller = ("--controller",) if host == CONTROLLER else ()
        rest = ("serve", "--json", "--no-scrub", *advertise, *controller, *options)
        words = self.realm.words(host, *rest)
        if program:
            words = [*program, *words[len(self.realm.command) :]]
        log = self.realm.folder / f"host-{host}-{time.monotonic_ns()}.log"  # one for each start
        with log.open("wb") as sink:
            process = subprocess.Popen(
                self.hosts.inside(host, words),
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self.servers[host] = _Server(process=process, log=log)

    def kill(self, host: int) -> None:
        """Pull a host's plug: SIGKILL, no good-bye."""
        server = self.servers.pop(host)
        self.dead_cpu_s += _cpu_s(server.process.pid) - server.cpu_s
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()

    def join(
        self, hosts: Sequence[int], *, role: str = "node", names: Mapping[int, str] | None = None
    ) -> None:
        """Let hosts join the realm, under their own names or others."""
        names = names or {host: node_name(host) for host in hosts}
        if not hosts:
            return
        create = ("token", "create", "--uses", str(len(hosts)), "--role", role)
        token = self.realm.call(self.hosts, CONTROLLER, *create).split()[-1]
        url = f"https://{self.hosts.address(CONTROLLER)}:{_CONTROL_PORT}"
        for first in range(0, len(hosts), _AT_ONCE):
            begun = [
                _begun(self.hosts.inside(host, self.realm.words(
                    host, "join", url, "--token", token, "--name", names[host]
                )))
                for host in hosts[first : first + _AT_ONCE]
            ]  # fmt: skip
            for process in begun:
                _finished(process)

    # --- pushes -------------------------------------------------------------------------------

    def push(self, image: str, hosts: Sequence[int], *options: str) -> Job:
        """Begin to push an image, as a user does on the controller."""
        names = ",".join(map(node_name, hosts))
        words = ("swarm", "push", image, "--nodes", names, "--json", *options)
        argv = self.hosts.inside(CONTROLLER, self.realm.words(CONTROLLER, *words))
        job = Job(process=_begun(argv), began=time.monotonic(), names=names)
        self._jobs.append(job)
        return job

    def rows(self, job_id: int) -> dict[str, dict[str, Any]]:
        """Return what the controller knows of each node's work for a job."""
        document = json.loads(
            self.realm.call(self.hosts, CONTROLLER, "job", "show", str(job_id), "--json")
        )
        return {row["node"]: row for row in document["nodes"]}

    def status(self, host: int) -> dict[str, Any]:
        """Return what a host's process says about its swarms.

        Raises:
            OSError: it does not answer.
        """
        return ask_socket(self.realm.state(host), "/v1/swarm")

    def image(self, host: int, name: str) -> dict[str, Any]:
        """Return what a host's process says about one image; nothing while it knows none."""
        with contextlib.suppress(OSError):
            for image in self.status(host)["images"]:
                if image["name"] == name:
                    return dict(image)
        return {}

    # --- what it took -------------------------------------------------------------------------

    def begin_count(self) -> None:
        """Count processor time from now on."""
        self.dead_cpu_s = 0.0
        for server in self.servers.values():
            server.cpu_s = _cpu_s(server.process.pid)

    def cpu_s(self) -> float:
        """Return the processor seconds of all servers since `begin_count`."""
        alive = sum(_cpu_s(one.process.pid) - one.cpu_s for one in self.servers.values())
        return alive + self.dead_cpu_s

    def max_rss_bytes(self) -> int:
        """Return the largest resident size that any server ever had."""
        return max(peak_bytes(server.process.pid) for server in self.servers.values())


@contextlib.contextmanager
def cluster(
    realm: Realm, hosts: lab.Lab, nodes: Sequence[int], *, late: Sequence[int] = ()
) -> Iterator[Cluster]:
    """Run the seeder, the controller and `nodes`, as they were when they had just joined.

    Nodes that never were there before join first; `late` ones are members that do not run yet.
    """
    members = (*nodes, *late)
    for host in (SEEDER, CONTROLLER, *filter(realm.joined, members)):
        realm.set_back(host)
    new = [host for host in members if not realm.joined(host)]
    if new:
        with Cluster(realm, hosts) as joining:
            joining.start([CONTROLLER])
            joining.join(new)
        for host in (CONTROLLER, *new):
            realm.keep(host)
    with Cluster(realm, hosts) as made:
        made.start([CONTROLLER])
        made.start([SEEDER, *nodes])
        yield made


def wait_for(done: Callable[[], bool], limit_s: float, what: str, *, every_s: float = 0.1) -> None:
    """Look again and again until something is so.

    Raises:
        Failed: it is not after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {limit_s:.0f} s")
        time.sleep(every_s)


def end_of(job: Job, limit_s: float) -> tuple[float, dict[str, Any]]:
    """Wait for a push; return its seconds and what its last line says.

    Raises:
        Failed: it failed, or takes too long.
    """
    try:
        stdout, stderr = job.process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as exc:
        raise Failed(f"swarm push has not ended after {limit_s:.0f} s") from exc
    seconds = time.monotonic() - job.began
    if job.process.returncode:
        story = stderr.decode("utf-8", "replace")[-_TAIL:]
        raise Failed(f"swarm push: status {job.process.returncode}\n{story}")
    document: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    return seconds, document


def ask_socket(state: Path, path: str, body: object = None) -> dict[str, Any]:
    """Ask the process that serves a state folder through its socket; with a body it is a POST."""
    fd = os.open(state, os.O_PATH | os.O_DIRECTORY)
    connection = http.client.HTTPConnection("nodectl", timeout=_ASK_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_ASK_S)
    try:
        connection.sock.connect(f"/proc/self/fd/{fd}/serve.sock")
        connection.request("GET" if body is None else "POST", path, json.dumps(body))
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as exc:
        raise OSError(f"no answer: {exc!r}") from exc
    finally:
        connection.close()
        os.close(fd)
    return answer


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def _begun(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _finished(process: subprocess.Popen[bytes]) -> str:
    stdout, stderr = process.communicate()
    if process.returncode:
        story = stderr.decode("utf-8", "replace")[-_TAIL:]
        raise Failed(f"{process.args!r}: status {process.returncode}\n{story}")
    return stdout.decode()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    with contextlib.suppress(ValueError):
        process.communicate()


def _wait_until_ready(server: _Server) -> None:
    """Wait for the line that `serve --json` prints when everything listens."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and server.process.poll() is None:
        if '"ready": true' in server.log.read_text(encoding="utf-8", errors="replace"):
            return
        time.sleep(0.05)
    said = server.log.read_text(encoding="utf-8", errors="replace")
    raise Failed(f"{server.process.args!r} is not ready after {_READY_S:g} s:\n{said[-_TAIL:]}")


def _cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(word) for word in words[11:15]) / _TICKS  # utime, stime, and the children's


def peak_bytes(pid: int) -> int:
    """Return the largest resident size that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
