"""Machines switched through a simulated BMC, a Redfish service and a site's own program."""

import datetime as dt
import ipaddress
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Commands
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD = "a-word-of-BMCs"

SIM = """\
name "node1"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  chassis_control "{chassis}"
  user 2 true "admin" "{password}" admin 10 none md2 md5 straight
"""
BMC = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
mc_enable 0x20
"""
CHASSIS = """\
#!/bin/sh
echo "$*" >>{folder}/asked
case "$1 $2" in
"get power") echo "power:$(cat {folder}/power)" ;;
"set power") echo "$3" >{folder}/power ;;
esac
"""
HOOK = """\
#!/bin/sh
echo "$*" >>{folder}/asked
case $1 in
status) cat {folder}/$2 ;;
broken) exit 7 ;;
*) [ "$2" != stuck ] || exit 0; echo "$1" | sed 's/reset/on/; s/cycle/on/' >{folder}/$2 ;;
esac
"""


class Room:
    """A controller, and machines to switch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = Commands(folder)
        self.config = folder / "power.toml"
        self.password = folder / "bmc"
        self._started: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        self.commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        self.commands.serve("c", "--controller")
        self.password.touch(mode=0o600)
        self.password.write_text(PASSWORD + "\n")

    def start(self, *argv: str | Path) -> None:
        self._started.append(
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.wait()
        self.commands.end()

    def script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text.format(folder=self.folder))
        path.chmod(0o755)
        return path

    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def power(self, action: str, nodes: str, *words: str) -> dict[str, tuple[bool, bool]]:
        done = self.commands.run("c", *self.words(action, nodes, *words), "--json")
        assert done.returncode in {0, 94}, done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        rows = json.loads(done.stdout)["nodes"]
        assert (done.returncode == 94) is not all(row["ok"] for row in rows)
        return {row["node"]: (row["ok"], row["on"]) for row in rows}

    def words(self, action: str, nodes: str, *more: str) -> list[str]:
        return ["power", action, "--nodes", nodes, "--config", str(self.config), *more]


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], bool]) -> None:
    """Wait until a service that was started answers."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    try:
        made.begin()
        yield made
    finally:
        made.end()


def test_a_machine_is_switched_by_ipmi(room: Room) -> None:
    chassis = room.script("chassis", CHASSIS)
    (room.folder / "power").write_text("0\n")
    port = free_port(socket.SOCK_DGRAM)
    (room.folder / "lan.conf").write_text(SIM.format(port=port, chassis=chassis, password=PASSWORD))
    (room.folder / "bmc.emu").write_text(BMC)
    room.start(
        "ipmi_sim", "-n", "-c", room.folder / "lan.conf", "-f", room.folder / "bmc.emu",
        "-s", room.folder,
    )  # fmt: skip
    room.config.write_text(f"""
[[bmc]]
nodes = "n1"
kind = "ipmi"
user = "admin"
password_file = "{room.password}"
port = {port}
cipher = 3
""")
    room.commands.ok("c", "node", "add", "n1", "--bmc", "127.0.0.1")
    until(lambda: room.power("status", "n1") == {"n1": (True, False)})
    assert room.power("on", "n1") == {"n1": (True, True)}
    assert room.power("reset", "n1") == {"n1": (True, True)}
    assert "set reset 1" in room.asked()
    assert room.power("off", "n1") == {"n1": (True, False)}
    # What is off is switched on by a reset, and off again is no work.
    assert room.power("reset", "n1") == {"n1": (True, True)}
    assert room.power("status", "n1") == {"n1": (True, True)}
    room.password.write_text("another word\n")
    done = room.commands.run("c", *room.words("off", "n1"))
    assert (done.returncode, done.stdout) == (94, "")
    assert "1 of 1 machines failed: n1" in done.stderr


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bmc")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "bmc.pem", folder / "bmc.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    return certificate, secret


def test_a_machine_is_switched_by_redfish(room: Room) -> None:
    certificate, key = _certificate(room.folder)
    port = free_port(socket.SOCK_STREAM)
    emulator = room.folder / "emulator.conf"
    emulator.write_text(f"""
SUSHY_EMULATOR_FAKE_DRIVER = True
SUSHY_EMULATOR_STATE_DIR = {str(room.folder)!r}
SUSHY_EMULATOR_FAKE_SYSTEMS = [
    {{"uuid": "8cb6b5a2-0c5b-4f4a-9f65-5f8f4f7fd3a1", "name": "n2",
      "power_state": "Off", "nics": []}}
]
""")
    room.start(
        Path(sys.executable).parent / "sushy-emulator", "--config", emulator, "-i", "127.0.0.1",
        "-p", str(port), "--fake", "--ssl-certificate", certificate, "--ssl-key", key,
    )  # fmt: skip
    entry = f"""
[[bmc]]
nodes = "n2"
kind = "redfish"
user = "admin"
password_file = "{room.password}"
url = "https://{{bmc}}:{port}"
"""
    room.config.write_text(f'{entry}ca_file = "{certificate}"\n')
    room.commands.ok("c", "node", "add", "n2", "--bmc", "127.0.0.1")
    until(lambda: room.power("status", "n2") == {"n2": (True, False)})
    assert room.power("on", "n2") == {"n2": (True, True)}
    assert room.power("reset", "n2") == {"n2": (True, True)}
    assert room.power("off", "n2") == {"n2": (True, False)}
    assert room.power("on", "n2") == {"n2": (True, True)}
    # Another authority signed what answers there: the password is not sent.
    room.config.write_text(entry)
    done = room.commands.run("c", *room.words("status", "n2"))
    assert (done.returncode, done.stdout) == (94, "")
    assert "certificate verify failed" in done.stderr


def test_a_room_is_switched_by_a_program_and_one_that_hangs_holds_up_nobody(room: Room) -> None:
    hook = room.script("pdu", HOOK)
    names = ["n1", "n2", "n3", "stuck"]
    for name in names:
        (room.folder / name).write_text("off\n")
    room.config.write_text(f"""
[[bmc]]
nodes = "all"
kind = "hook"
command = ["{hook}", "{{action}}", "{{node}}"]
""")
    room.commands.ok("c", "node", "add", ",".join(names))
    found = room.power("on", "n[1-3],stuck", "--fan-out", "2", "--pause", "0", "--timeout", "5",
                       "--settle", "2")  # fmt: skip
    assert found == {
        "n1": (True, True), "n2": (True, True), "n3": (True, True), "stuck": (False, None),
    }  # fmt: skip
    assert room.power("cycle", "n1", "--pause", "0") == {"n1": (True, True)}
    assert "cycle n1" in room.asked()
    (room.folder / "n1").write_text("perhaps\n")
    done = room.commands.run("c", *room.words("status", "n1,n2"))
    assert done.returncode == 94
    assert "n2: on" in done.stdout
    assert "n1: " in done.stderr
    assert "neither on nor off" in done.stderr


def _write(text: str) -> Callable[[Room], None]:
    def change(room: Room) -> None:
        room.config.write_text(text.format(password=room.password))

    return change


def _open_password(room: Room) -> None:
    _write(IPMI)(room)
    room.password.chmod(0o644)


IPMI = '[[bmc]]\nnodes="n1"\nkind="ipmi"\nuser="a"\npassword_file="{password}"\n'


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    made = Room(tmp_path_factory.mktemp("refusing"))
    try:
        made.begin()
        made.commands.ok("c", "node", "add", "n[1-2]")
        yield made
    finally:
        made.end()


@pytest.mark.parametrize(
    ("change", "nodes", "status", "sentence"),
    [
        (lambda _room: None, "n1", 10, "there is no"),
        (_write("[[bmc]]\nnodes = 3\nkind='ipmi'\ncolour=1\n"), "n1", 14, "2 mistakes"),
        (_write("[[bmc]]\nkind='hook'\n"), "n1", 14, "bmc[0].nodes: is needed"),
        (_write("[[bmc]]\nnodes='n1'\nkind='ipmi'\n"), "n1", 14, "user: is needed for ipmi"),
        (_write("[bmc\n"), "n1", 14, "is no TOML"),
        (_write(IPMI), "n2", 14, "names n2"),
        (_write(IPMI), "n1", 90, "where the management controller of n1 is"),
        (_write(IPMI), "n9[", 14, "n9["),
        (_open_password, "n1", 11, "chmod 600"),
    ],
)
def test_nothing_is_switched_when_something_is_wrong(
    refusing: Room, change: Callable[[Room], None], nodes: str, status: int, sentence: str
) -> None:
    refusing.password.chmod(0o600)
    refusing.config.unlink(missing_ok=True)
    change(refusing)
    assert sentence in refusing.commands.fails("c", status, *refusing.words("reset", nodes))
