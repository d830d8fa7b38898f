"""The main job, told as loudly as it can be; then every secret of it is searched for."""

import base64
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import Commands

from nodectl.node.state import StateFolder
from nodectl.trust.realm import load_realm
from nodectl.trust.token import parse_token

KEPT = {"node.json", "roots.json", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"}


class Watch(threading.Thread):
    """Remembers the command line of every process on this machine."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


def _serve(commands: Commands, node: str, *words: str) -> None:
    """Start a server that tells everything, into a file."""
    log = commands.folder / f"{node}.log"
    environment = {**os.environ, "NODECTL_STATE": str(commands.folder / node)}
    argv = [*commands._argv(node, "-vv", "serve", "--peer-listen", "127.0.0.1:0", "--json"), *words]
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv, env=environment, stdout=subprocess.PIPE, stderr=file, text=True
        )
    commands._started.append(process)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"]


def _secrets(commands: Commands, token: str) -> dict[str, bytes]:
    """Return every secret of the realm and its members, raw."""
    realm = load_realm(commands.folder / "c" / "realm")
    content = realm.key.content_keys()
    former = [key.content_keys() for key in realm.old_keys]
    found = {
        **{f"realm key {i} before": key.secret for i, key in enumerate(realm.old_keys)},
        **{f"seal key {i} before": keys.seal for i, keys in enumerate(former)},
        "kept audit key": realm.audit_key(),
        "realm key": realm.key.secret,
        "audit key": realm.key.audit_key(),
        "chunk id key": content.chunk_id,
        "seal key": content.seal,
        "nonce key": content.nonce,
        "publisher key": realm.publisher.private_bytes_raw(),
        "job key": realm.job_key.private_bytes_raw(),
        "CA key": _der(realm.authority.key),
        "controller's key": _der(realm.controller.key),
        "token": parse_token(token).secret,
    }
    for node in ("c", "n1"):
        state = StateFolder(commands.folder / node)
        found[f"secret of {node}"] = state.membership().secret
        found[f"key of {node}"] = _der(state.membership().identity.key)
        found |= {f"swarm key {i} of {node}": h.swarm_key for i, h in enumerate(state.held_roots())}
    return found


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def _forms(secret: bytes) -> list[bytes]:
    coded = base64.b64encode(secret)
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        coded.rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        coded[:64],  # the first line of a PEM file
    ]


def test_no_secret_is_in_a_log_an_output_a_command_line_or_a_store(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, said = Watch(), []
    watch.start()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(3_000_000))
    init = ("init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    said.append(commands.ok("c", "-vv", *init))
    _serve(commands, "c", "--controller")
    token = commands.ok("c", "token", "create").strip()
    monkeypatch.setenv("NODECTL_TOKEN", token)
    steps = [
        ("n1", "join", "--name", "n1"),
        ("n1", "join", "--name", "n1"),  # a member already
        ("n2", "join", "--name", "n2"),  # used
    ]
    for node, *words in steps:
        done = commands.run(node, "-vv", *words)
        said += [done.stdout, done.stderr]
    monkeypatch.delenv("NODECTL_TOKEN")
    _serve(commands, "n1")
    for node, *words in [
        ("c", "image", "capture", "golden", "--tree", str(tree)),
        ("c", "swarm", "push", "golden", "--nodes", "n1", "--json"),
        ("c", "swarm", "push", "golden", "--nodes", "n1", "--restore", str(tmp_path / "out")),
        ("n1", "image", "verify", "golden", str(tree)),
        ("c", "realm", "rotate-key"),
        ("c", "image", "reseal", "golden", "--json"),
        ("n1", "node", "remove", "c"),
        ("c", "token", "list"),
        ("c", "publisher", "list", "--json"),
        ("c", "realm", "show"),
        ("c", "audit", "show", "--json"),
        ("c", "node", "remove", "n1"),
        ("n1", "status"),
    ]:
        done = commands.run(node, "-vv", *words)
        assert "Traceback" not in done.stderr
        said += [done.stdout, done.stderr]
    commands.end()
    watch.done.set()
    watch.join(10)
    assert any(b"nodectl" in line for line in watch.seen)
    places = {"what was said": "\n".join(said).encode(), "command lines": b"\n".join(watch.seen)}
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name not in KEPT and path.parent.name != "realm":
            places[str(path.relative_to(tmp_path))] = path.read_bytes()
    assert any(name.startswith("n1/store/") for name in places)
    # The search finds what is there: the secret of n1 in its own file.
    kept = (tmp_path / "n1" / "node.json").read_bytes()
    secret = _secrets(commands, token)["secret of n1"]
    assert any(form in kept for form in _forms(secret))
    found = [
        (name, place)
        for name, secret in _secrets(commands, token).items()
        for place, data in places.items()
        if any(form in data for form in _forms(secret))
    ]
    assert found == []


def test_what_holds_secrets_is_for_its_owner_alone(commands: Commands) -> None:
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "token", "create")
    for path in [commands.folder / "c", *(commands.folder / "c").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
