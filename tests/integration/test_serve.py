"""`nodectl` as a user starts it: real processes, free ports, every one of them ended."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import WAIT_S, Commands, first_line, stop
from controlling import ROOT, ROOT_BLOCK

from nodectl.cli.releases import publish_release


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


@pytest.fixture
def realm(commands: Commands) -> Commands:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    return commands


def test_from_nothing_to_a_member_and_back(realm: Commands) -> None:
    controller, ready = realm.serve("c", "--controller")
    assert ready["ready"] is True
    assert ready["control_url"].startswith("https://127.0.0.1:")
    assert ready["peer_url"].startswith("http://127.0.0.1:")
    token = realm.ok("c", "token", "create", "--ttl", "10m").strip()
    assert "joined the realm lab as the node n1" in realm.ok(
        "n1", "join", "--token", token, "--name", "n1"
    )
    node, ready = realm.serve("n1")
    assert ready["node"] == "n1"
    nodes = json.loads(realm.ok("c", "node", "list", "--json"))["nodes"]
    assert [(n["name"], n["role"]) for n in nodes] == [("c", "operator"), ("n1", "node")]
    assert json.loads(realm.ok("n1", "status", "--json"))["controller_answers"] is True
    assert stop(node, signal.SIGTERM) == ""
    realm.ok("n1", "leave")
    assert "n1" not in realm.ok("c", "node", "list")
    assert stop(controller, signal.SIGINT) == ""


def test_each_wrong_input_has_its_sentence_and_status(realm: Commands) -> None:
    realm.fails("c", 13, "init", "--realm", "lab")
    realm.fails("x", 14, "init", "--realm", "not/a/name")
    realm.fails("x", 14, "init", "--realm", "lab", "--listen", "nonsense:port")
    realm.fails("x", 40, "serve")
    realm.fails("x", 40, "node", "list")
    realm.fails("x", 40, "token", "create")
    realm.fails("x", 41, "join", "--token", "nonsense")
    realm.fails("c", 14, "token", "create", "--ttl", "soon")
    realm.fails("c", 14, "token", "create", "--role", "king")
    realm.fails("c", 18, "leave")
    assert "no controller answers" in realm.fails("c", 42, "node", "list")
    token = realm.ok("c", "token", "create").strip()
    assert "no controller answers" in realm.fails(
        "x", 42, "join", "https://127.0.0.1:1", "--token", token, "--name", "n"
    )
    assert not (realm.folder / "x").exists()


def test_a_port_in_use(realm: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for words in (("--listen", address), ("--listen", "127.0.0.1:0", "--peer-listen", address)):
            story = realm.fails("c", 32, "serve", "--controller", *words)
            assert f"port {taken.getsockname()[1]} is in use" in story
            assert "next: " in story


def test_one_process_serves_one_state(realm: Commands) -> None:
    realm.serve("c", "--controller")
    again = ("serve", "--controller", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0")
    assert "another nodectl serve uses" in realm.fails("c", 25, *again)


def test_what_answers_is_no_controller(realm: Commands) -> None:
    """Something listens there and talks no TLS."""
    token = realm.ok("c", "token", "create").strip()
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_answer_nonsense, args=(other,), daemon=True).start()
        url = f"https://127.0.0.1:{other.getsockname()[1]}"
        assert url in realm.fails("x", 42, "join", url, "--token", token, "--name", "n")


def _answer_nonsense(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"220 mail.example ESMTP\r\n")
        connection.recv(1000)


def test_a_member_that_is_no_controller(realm: Commands) -> None:
    realm.serve("c", "--controller")
    token = realm.ok("c", "token", "create", "--role", "operator").strip()
    realm.ok("o", "join", "--token", token, "--name", "o")
    assert "no realm in" in realm.fails("o", 40, "serve", "--controller", "--listen", "127.0.0.1:0")
    assert "lab" in realm.ok("o", "status")
    assert "o     operator" in realm.ok("o", "node", "list")
    realm.fails("n", 41, "join", "--token", token, "--name", "n")


def test_a_job_that_fails_says_so_and_which_node(realm: Commands) -> None:
    realm.serve("c", "--controller")
    state = realm.folder / "c"
    publish_release(state, "golden", ROOT, ROOT_BLOCK, kind="tree", totals={"files": 1})
    realm.fails("c", 45, "swarm", "push", "golden", "--nodes", "c,n9")
    realm.fails("c", 28, "swarm", "push", "silver", "--nodes", "c")
    realm.fails("c", 46, "job", "watch", "1")
    pushed = realm.run("c", "swarm", "push", "golden", "--nodes", "c", "--json")
    assert pushed.returncode == 31
    result = json.loads(pushed.stdout)
    assert (result["ok"], result["nodes"][0]["node"]) == (False, "c")
    assert "1 of 1 nodes failed: c at step" in pushed.stderr
    assert "job 1: fetch golden generation 1: failed" in realm.ok("c", "job", "show", "1")
    assert realm.run("c", "job", "watch", "1").returncode == 31
    assert json.loads(realm.ok("c", "job", "list", "--json"))["jobs"][0]["state"] == "failed"


def test_ctrl_c_ends_the_watching_and_not_the_job(realm: Commands) -> None:
    realm.serve("c", "--controller")
    token = realm.ok("c", "token", "create").strip()
    realm.ok("n1", "join", "--token", token, "--name", "n1")  # and it does not serve
    publish_release(realm.folder / "c", "golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
    started = realm.ok("c", "swarm", "push", "golden", "--nodes", "n1", "--no-wait")
    assert started == "job 1 started; watch it: nodectl job watch 1\n"
    watch = realm.start("c", "-v", "job", "watch", "1")
    _wait_for_connection(realm, watch)
    watch.send_signal(signal.SIGINT)
    _, story = watch.communicate(timeout=WAIT_S)
    assert watch.returncode == 130
    assert "job 1 goes on; watch it again: nodectl job watch 1" in story
    assert json.loads(realm.ok("c", "job", "list", "--json"))["jobs"][0]["state"] == "running"


def _wait_for_connection(realm: Commands, watch: "subprocess.Popen[str]") -> None:
    """Wait until a process has a TCP connection: then its event loop runs."""
    deadline = time.monotonic() + WAIT_S
    sockets = Path(f"/proc/{watch.pid}/fd")
    while time.monotonic() < deadline:
        assert watch.poll() is None, watch.communicate()
        names = [str(fd.readlink()) for fd in sockets.iterdir() if fd.is_symlink()]
        if sum(name.startswith("socket:") for name in names) >= 3:  # asyncio's own pair, and ours
            return
        realm.ok("c", "status")  # takes a moment, and shows that the controller is well
    pytest.fail("the watcher does not connect")


def _tree(folder: Path) -> Path:
    tree = folder / "tree"
    for number in range(40):
        path = tree / f"d{number % 5}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(200_000))
    return tree


def _same(one: Path, other: Path) -> bool:
    done = subprocess.run(["diff", "-r", one, other], capture_output=True, check=False)
    return done.returncode == 0


def test_a_job_survives_kill_9_of_the_controller_and_of_a_node(realm: Commands) -> None:
    """The whole way with real content: what was killed goes on where it was."""
    controller, ready = realm.serve("c", "--controller")
    token = realm.ok("c", "token", "create", "--uses", "2").strip()
    for name in ("n1", "n2"):
        realm.ok(name, "join", "--token", token, "--name", name)
    node, _ = realm.serve("n1")
    tree = _tree(realm.folder)
    realm.ok("c", "image", "capture", "golden", "--tree", str(tree))
    target = realm.folder / "copy"
    target.mkdir()
    realm.ok("c", "swarm", "push", "golden", "--nodes", "n1", "--restore", str(target), "--no-wait")
    realm.ok("c", "swarm", "push", "golden", "--nodes", "n2", "--no-wait")  # n2 does not serve yet
    node.kill()
    controller.kill()
    address = ready["control_url"].removeprefix("https://")
    realm.serve("c", "--controller", "--listen", address)
    realm.serve("n1")
    realm.serve("n2")
    for job in ("1", "2"):
        realm.ok("c", "job", "watch", job)
    assert _same(tree, target)


def test_the_swarm_finishes_without_the_controller(realm: Commands) -> None:
    controller, ready = realm.serve("c", "--controller")
    realm.ok(
        "s", "join", "--name", "s",
        "--token", realm.ok("c", "token", "create", "--role", "operator").strip(),
    )  # fmt: skip
    realm.ok("n1", "join", "--name", "n1", "--token", realm.ok("c", "token", "create").strip())
    realm.serve("s")
    realm.serve("n1")
    tree = _tree(realm.folder)
    realm.ok("s", "image", "capture", "golden", "--tree", str(tree))
    realm.ok("s", "swarm", "push", "golden", "--nodes", "n1", "--no-wait")
    deadline = time.monotonic() + WAIT_S
    while "n1" not in _states_of_job(realm, "running", "done"):
        assert time.monotonic() < deadline
    controller.kill()
    realm.serve("c", "--controller", "--listen", ready["control_url"].removeprefix("https://"))
    result = json.loads(realm.ok("c", "job", "watch", "1", "--json"))
    receipt = next(row["receipt"] for row in result["nodes"] if row["node"] == "n1")
    assert receipt["from"] == {"s": receipt["fetched_bytes"]}


def _states_of_job(realm: Commands, *states: str) -> list[str]:
    rows = json.loads(realm.ok("c", "job", "show", "1", "--json"))["nodes"]
    return [row["node"] for row in rows if row["state"] in states]


@pytest.fixture
def two_hosts(commands: Commands) -> Iterator[Commands]:
    """Two network namespaces on one cable, without a default route: `c` and `n1`."""
    names = {node: f"nodectl-{os.getpid()}-{node}" for node in ("c", "n1")}
    _ip("link", "add", f"nc{os.getpid()}c", "type", "veth", "peer", "name", f"nc{os.getpid()}n1")
    try:
        for number, (node, name) in enumerate(names.items(), 1):
            _ip("netns", "add", name)
            _ip("link", "set", f"nc{os.getpid()}{node}", "netns", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", f"nc{os.getpid()}{node}")
            _ip("-n", name, "link", "set", f"nc{os.getpid()}{node}", "up")
            commands.prefix[node] = ["ip", "netns", "exec", name]
        yield commands
    finally:
        commands.end()
        for name in names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=WAIT_S)


@pytest.mark.netns
def test_two_hosts_that_listen_everywhere_find_each_other(two_hosts: Commands) -> None:
    """With the defaults a user has: every address is found out, none is given."""
    two_hosts.ok("c", "init", "--realm", "lab", "--node", "c")
    everywhere = ("serve", "--json")
    ready = json.loads(first_line(two_hosts.start("c", *everywhere, "--controller")))
    assert ready["control_url"] == "https://10.99.0.1:7443"
    assert ready["peer_url"] == "http://10.99.0.1:7444"
    token = two_hosts.ok("c", "token", "create").strip()
    two_hosts.ok("n1", "join", "--token", token, "--name", "n1")
    ready = json.loads(first_line(two_hosts.start("n1", *everywhere)))
    assert ready["peer_url"] == "http://10.99.0.2:7444"
    tree = _tree(two_hosts.folder)
    two_hosts.ok("c", "image", "capture", "golden", "--tree", str(tree))
    result = json.loads(two_hosts.ok("c", "swarm", "push", "golden", "--nodes", "n1", "--json"))
    receipt = next(row["receipt"] for row in result["nodes"] if row["node"] == "n1")
    assert receipt["from"] == {"c": receipt["fetched_bytes"]}
    nodes = json.loads(two_hosts.ok("c", "node", "list", "--json"))["nodes"]
    assert nodes[1]["address"] == "10.99.0.2"


def test_rates_are_set_at_the_start_and_while_it_serves(realm: Commands) -> None:
    assert "no nodectl serves" in realm.fails("c", 33, "swarm", "limit")
    realm.fails("c", 14, "serve", "--controller", "--upload-rate", "fast")
    controller, _ = realm.serve("c", "--controller", "--upload-rate", "3M")
    shown = json.loads(realm.ok("c", "swarm", "limit", "--json"))
    assert shown == {"upload_rate": 3 << 20, "download_rate": None}
    words = ("--upload-rate", "none", "--download-rate", "1M", "--json")
    shown = json.loads(realm.ok("c", "swarm", "limit", *words))
    assert shown == {"upload_rate": None, "download_rate": 1 << 20}
    assert "upload rate: no limit" in realm.ok("c", "swarm", "limit")
    realm.fails("c", 14, "swarm", "limit", "--upload-rate", "0")
    realm.fails("c", 28, "swarm", "peers", "nothing")
    assert json.loads(realm.ok("c", "swarm", "status", "--json")) == {"swarms": []}
    assert "no job runs" in realm.ok("c", "swarm", "status")
    assert stop(controller, signal.SIGTERM) == ""
    assert not (realm.folder / "c" / "serve.sock").exists()


def test_status_says_what_a_node_waits_for_and_a_changed_limit_frees_it(realm: Commands) -> None:
    tree = realm.folder / "tree"
    tree.mkdir()
    for number in range(16):
        (tree / str(number)).write_bytes(os.urandom(1 << 20))
    controller, _ = realm.serve("c", "--controller")
    realm.ok("c", "image", "capture", "golden", "--tree", str(tree))
    token = realm.ok("c", "token", "create").strip()
    realm.ok("n1", "join", "--token", token, "--name", "n1")
    node, _ = realm.serve("n1", "--download-rate", "200K")
    realm.ok("c", "swarm", "push", "golden", "--nodes", "n1", "--no-wait")
    told: dict[str, object] = {}
    deadline = time.monotonic() + WAIT_S
    while not told.get("from") and time.monotonic() < deadline:
        swarms = json.loads(realm.ok("c", "swarm", "status", "--json"))["swarms"]
        told = swarms[0]["nodes"][0]
    assert told["waits_for"] == "limit"
    assert list(told["from"]) == ["c"]  # type: ignore[call-overload]
    assert "limit" in realm.ok("c", "swarm", "status")
    peers = json.loads(realm.ok("n1", "swarm", "peers", "golden", "--json"))["peers"]
    assert [peer["node"] for peer in peers] == ["c"]
    assert peers[0]["came"] > 0
    realm.ok("n1", "swarm", "limit", "--download-rate", "none")
    began = time.monotonic()
    realm.ok("c", "job", "watch", "1")
    assert time.monotonic() - began < 40  # 80 s at the rate that it began with
    assert stop(node, signal.SIGTERM) == ""
    assert stop(controller, signal.SIGTERM) == ""


def test_a_paused_swarm_rests_over_a_restart_of_the_controller_until_it_is_resumed(
    realm: Commands,
) -> None:
    controller, ready = realm.serve("c", "--controller")
    realm.fails("c", 28, "swarm", "pause", "golden")
    realm.ok("c", "image", "capture", "golden", "--tree", str(_tree(realm.folder)))
    realm.fails("c", 14, "swarm", "limit", "golden", "--weight", "101")
    realm.fails("c", 14, "swarm", "limit", "--weight", "2")
    words = ("--upload-rate", "50M", "--weight", "3", "--json")
    terms = json.loads(realm.ok("c", "swarm", "limit", "golden", *words))
    assert terms == {
        "name": "golden",
        "paused": False,
        "upload_rate": 50 << 20,
        "download_rate": None,
        "weight": 3,
    }
    assert "the swarm of golden rests" in realm.ok("c", "swarm", "pause", "golden")
    realm.ok("n1", "join", "--name", "n1", "--token", realm.ok("c", "token", "create").strip())
    realm.serve("n1")
    realm.ok("c", "swarm", "push", "golden", "--nodes", "n1", "--no-wait")
    _wait_for_pause(realm)
    controller.kill()
    realm.serve("c", "--controller", "--listen", ready["control_url"].removeprefix("https://"))
    kept = json.loads(realm.ok("c", "swarm", "limit", "golden", "--json"))
    assert kept == terms | {"paused": True}
    _wait_for_pause(realm)
    assert "n1" not in _states_of_job(realm, "done")
    realm.fails("c", 14, "swarm", "resume")
    realm.fails("c", 46, "swarm", "resume", "--job", "9")
    assert "the swarm of golden runs" in realm.ok("c", "swarm", "resume", "--job", "1")
    realm.ok("c", "job", "watch", "1")
    assert "n1" in _states_of_job(realm, "done")


def _wait_for_pause(realm: Commands) -> None:
    """Wait until the only node says that it rests."""
    deadline = time.monotonic() + WAIT_S
    while True:
        (swarm,) = json.loads(realm.ok("c", "swarm", "status", "--json"))["swarms"]
        if swarm["nodes"][0].get("waits_for") == "pause":
            return
        assert time.monotonic() < deadline, swarm
