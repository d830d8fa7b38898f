"""A clone is followed by its controller until what boots from it has told: real processes, no disk.

The new system is a copy of this one (an overlay), into which a root is changed: its own Python runs
what the clone left there. The whole way over a disk and a firmware is in tests/guest.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from commands import Commands
from integration.test_boot_apply import HERE, make_tree
from loop_disks import MIB, loop_disk

from nodectl.boot.first_boot import FOLDER, FirstBoot, check_first_boot, place_first_boot
from nodectl.boot.inside import entered
from nodectl.content.own_files import OWN_FILES
from nodectl.errors import BootFailed, DiskBusy
from nodectl.events import NullObserver, StepStarted
from nodectl.ids import Root
from nodectl.node.booting import BootReport, place_telling
from nodectl.node.clone import CloneReport
from nodectl.node.state import Membership, StateFolder
from nodectl.node.told_clone import ToldClone, tell_restart

pytestmark = pytest.mark.root

UUID = "12345678-1234-1234-1234-123456789abc"
MACHINE_ID = "ab" * 16
UNIT = "etc/systemd/system/nodectl-first-boot.service"
WANTED = "etc/systemd/system/multi-user.target.wants/nodectl-first-boot.service"
SYSTEMCTL = """#!/bin/sh
case "$1" in is-system-running) echo degraded;; list-units) echo bad.service loaded failed;; esac
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Lab"]:
    commands = Commands(tmp_path_factory.mktemp("first-boot"))
    try:
        yield Lab(commands)
    finally:
        commands.end()


class Lab:
    """A controller that runs, an image, and the node n1 which clones it."""

    def __init__(self, commands: Commands) -> None:
        self.commands = commands
        tree = commands.folder / "tree"
        tree.mkdir()
        (tree / "file").write_text("content")
        commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        commands.ok("c", "image", "capture", "golden", "--tree", str(tree))
        self.process, self.url = self.start("127.0.0.1:0")
        token = commands.ok("c", "token", "create").strip()
        commands.ok("n1", "join", self.url, "--token", token, "--name", "n1")
        releases = json.loads(commands.ok("c", "image", "list", "--json"))["images"]
        self.release = ("golden", 1, Root(bytes.fromhex(releases[0]["release"]["root"])))

    def start(self, listen: str) -> tuple[subprocess.Popen[str], str]:
        process, ready = self.commands.serve("c", "--controller", "--listen", listen)
        return process, ready["control_url"]

    @property
    def membership(self) -> Membership:
        return StateFolder(self.commands.folder / "n1").membership()

    def told(self) -> ToldClone:
        return ToldClone(self.membership, self, "n1", NullObserver())

    def row(self, job_id: int | None) -> dict[str, Any]:
        shown = json.loads(self.commands.ok("c", "job", "show", str(job_id), "--json"))
        (row,) = shown["nodes"]
        return {**row, "job": shown["state"]}

    def wait_for(self, job_id: int | None, right: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + 30
        while not right(row := self.row(job_id)):
            assert time.monotonic() < deadline, row
            time.sleep(0.1)


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Path]:
    """Yield a tree like this machine's, in which a few programs answer as a new system's would."""
    place, root = tmp_path / "overlay", tmp_path / "system"
    place.mkdir()
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "first-boot", place], check=True)
    try:
        for name in ("upper", "work"):
            (place / name).mkdir()
        options = f"lowerdir=/,upperdir={place}/upper,workdir={place}/work"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", root], check=True)
        programs = {"findmnt": f"#!/bin/sh\necho {UUID}\n", "systemctl": SYSTEMCTL}
        for name, text in programs.items():
            (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
            (root / "usr/local/bin" / name).write_text(text)
            (root / "usr/local/bin" / name).chmod(0o755)
        (root / "usr/lib/systemd").mkdir(parents=True, exist_ok=True)
        (root / "usr/lib/systemd/systemd").touch()
        (root / "etc/machine-id").unlink(missing_ok=True)
        (root / "etc/machine-id").write_text(MACHINE_ID + "\n")
        yield root
    finally:
        subprocess.run(["umount", "--quiet", root], check=False)
        subprocess.run(["umount", place], check=True)


def report(untold: str = "", *, boots: bool = True) -> CloneReport:
    boot = BootReport(
        firmwares=("uefi",), kernels=("6.1",), loader="GRUB", entries=(), untold=untold
    )
    return CloneReport(
        disk="/dev/sda", serial="S", size=1, fingerprint="f", node_name="n1",
        machine_id=MACHINE_ID, host_keys=(), notes=(), filesystems={"/": UUID}, entries=1,
        plain_bytes=1, boot=boot if boots else None, verified=True, seconds={"restore": 1.5},
    )  # fmt: skip


def place(root: Path, first: FirstBoot | None) -> str:
    assert first is not None
    placed = place_telling(root, HERE, "/dev/null", first, NullObserver())
    if not placed.why_not:
        check_first_boot(root, placed)
    return placed.why_not


def start_system(root: Path, hostname: str = "n1") -> "subprocess.Popen[str]":
    """Start what the unit would, in the new system."""
    command = next(
        line.removeprefix("ExecStart=") for line in (root / UNIT).read_text().splitlines()
        if line.startswith("ExecStart=")
    )  # fmt: skip
    path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    mounts = f"mount -t proc proc {root}/proc; mount --bind /dev {root}/dev"
    inside = f"hostname {hostname}; {mounts}; exec chroot {root} {command}"
    return subprocess.Popen(
        ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside],
        env={"PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run_system(root: Path, hostname: str = "n1") -> tuple[int, str]:
    process = start_system(root, hostname)
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def applied(lab: Lab, root: Path) -> int:
    """Clone as far as it goes without a disk; return the job."""
    with lab.told() as told:
        assert place(root, told.begin()) == ""
        told.applied(report())
        job_id = told.job_id
    assert job_id is not None
    return job_id


def test_the_job_is_done_when_the_new_system_has_told(lab: Lab, system: Path) -> None:
    with lab.told() as told:
        first = told.begin()
        told.on(StepStarted(step="restore"))
        lab.wait_for(told.job_id, lambda row: row["step"] == "restore")
        assert place(system, first) == ""
        told.applied(report())
    job = told.job_id
    assert job is not None
    assert (row := lab.row(job))["state"] == "applied", row
    secrets = system / FOLDER
    assert (secrets.stat().st_mode & 0o777, (secrets / "told.json").stat().st_mode & 0o777) == (
        0o700, 0o600
    )  # fmt: skip
    own = (system / OWN_FILES).read_text().splitlines()
    assert {UNIT, WANTED, f"{FOLDER}/told.json"} <= set(own)
    asyncio.run(tell_restart(lab.membership, "n1", job))
    assert lab.row(job)["state"] == "rebooting"
    assert "went down to start from its new disk" in lab.commands.ok("c", "job", "show", str(job))

    assert run_system(system) == (0, f"nodectl-first-boot: told {lab.url}\n")

    row = lab.row(job)
    assert (row["job"], row["step"], row["sentence"]) == ("ok", "booted", "")
    booted = row["receipt"]["booted"]
    assert booted["root"] == lab.release[2].hex()
    assert (booted["hostname"], booted["machine_id"], booted["root_uuid"]) == (
        "n1", MACHINE_ID, UUID
    )  # fmt: skip
    assert (booted["kernel"], booted["starts"]) == (os.uname().release, 1)
    assert booted["failed_units"] == ["bad.service"]
    assert row["receipt"]["applied"]["disk"] == "/dev/sda"
    shown = lab.commands.ok("c", "job", "watch", str(job))
    assert "booted n1 by" in shown
    assert "failed units: bad.service" in shown
    assert not [path for path in (FOLDER, UNIT, WANTED) if os.path.lexists(system / path)]
    audit = lab.commands.ok("c", "audit", "show", "--json")
    assert '"booted"' in audit


def test_another_system_is_a_failure_that_names_the_difference(lab: Lab, system: Path) -> None:
    job = applied(lab, system)
    assert run_system(system, hostname="golden")[0] == 0
    row = lab.row(job)
    assert (row["job"], row["step"]) == ("failed", "boot")
    assert "hostname golden, not n1" in row["sentence"]
    story = lab.commands.run("c", "job", "watch", str(job))
    assert story.returncode == 31
    assert "n1 at step boot: n1 has started, but not what was applied" in story.stderr


def test_it_tries_until_there_is_a_controller(tmp_path: Path, system: Path) -> None:
    commands = Commands(tmp_path / "lab")
    commands.folder.mkdir()
    try:
        comes_back(Lab(commands), system)
    finally:
        commands.end()


def comes_back(lab: Lab, system: Path) -> None:
    job = applied(lab, system)
    lab.process.terminate()
    lab.process.wait(timeout=30)
    process = start_system(system)
    try:
        assert process.stdout is not None
        assert "refused" in process.stdout.readline()
        assert (system / FOLDER / "told.json").exists()
        lab.process, _ = lab.start(f"127.0.0.1:{urlsplit(lab.url).port}")
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert lab.row(job)["state"] == "done"


def test_the_ticket_goes_to_no_other_controller_and_not_for_ever(lab: Lab, system: Path) -> None:
    """Another realm's CA: nothing is sent; after some starts nothing of it is left."""
    lab.commands.ok("x", "init", "--realm", "other", "--node", "x", "--listen", "127.0.0.1:0")
    other = StateFolder(lab.commands.folder / "x").membership()
    with lab.told() as told:
        first = told.begin()
        assert first is not None
        short = replace(first, ca_pem=other.ca_pem, try_s=0, starts=2)
        assert place(system, short) == ""
        told.applied(report())
    status, said = run_system(system)
    assert status == 1
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert (system / FOLDER / "told.json").exists()
    assert "given up after 2 starts" in run_system(system)[1]
    assert not (system / FOLDER).exists()
    assert not (system / UNIT).exists()
    assert lab.row(told.job_id)["state"] == "applied"


def test_a_ticket_that_is_refused_is_removed(lab: Lab, system: Path) -> None:
    """The node was cloned anew meanwhile, onto another disk."""
    with lab.told() as told:
        first = told.begin()
        assert place(system, first) == ""
        told.applied(report())
    (system / FOLDER / "told.json").write_text(
        (system / FOLDER / "told.json").read_text().replace('"ticket": "', '"ticket": "00')
        .replace(first.ticket.hex() if first else "", "11" * 31)
    )  # fmt: skip
    status, said = run_system(system)
    assert (status, "answers 403" in said) == (0, True)
    assert not (system / FOLDER).exists()
    assert lab.row(told.job_id)["state"] == "applied"


def test_an_image_without_python_is_not_waited_for(lab: Lab, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    with lab.told() as told:
        why_not = place(tree, told.begin())
        told.applied(report(why_not))
    assert why_not == "the image has no Python 3.6 or newer that speaks TLS 1.3"
    assert not (tree / FOLDER).exists()
    row = lab.row(told.job_id)
    assert (row["job"], row["step"]) == ("ok", "applied")
    assert row["sentence"] == f"boot not confirmed: {why_not}"
    assert row["sentence"] in lab.commands.ok("c", "job", "show", str(told.job_id))


def test_the_command_is_followed_and_data_is_not_waited_for(lab: Lab, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk.img", 96 * MIB) as disk:
        words = ("clone", "golden", "--disk", disk.path, "--yes")
        said = json.loads(lab.commands.ok("n1", *words, "--json").splitlines()[-1])
        row = lab.row(said["job"])
        assert (row["job"], row["step"]) == ("ok", "applied")
        assert row["sentence"] == "it boots nothing: it is data"
        assert row["receipt"]["applied"]["disk"] == disk.path
        shown = lab.commands.ok("c", "job", "show", str(said["job"]))
        assert "applied; it boots nothing: it is data" in shown
        alone = lab.commands.ok("n1", *words, "--no-follow", "--json").splitlines()[-1]
        assert json.loads(alone)["job"] is None
        jobs = json.loads(lab.commands.ok("c", "job", "list", "--json"))["jobs"]
        assert max(job["job_id"] for job in jobs) == said["job"]


def test_a_system_v_init_starts_it_too(lab: Lab, system: Path) -> None:
    for path in ("usr/lib/systemd/systemd", "usr/sbin/init"):
        (system / path).unlink(missing_ok=True)
    for name in ("etc/init.d", "etc/rc2.d"):
        (system / name).mkdir(parents=True, exist_ok=True)
    with lab.told() as told:
        assert place(system, told.begin()) == ""
        told.applied(report())
    link = system / "etc/rc2.d/S99nodectl-first-boot"
    assert str(link.readlink()) == "../init.d/nodectl-first-boot"
    mounts = f"mount -t proc proc {system}/proc; mount --bind /dev {system}/dev"
    inside = f"hostname n1; {mounts}; chroot {system} /etc/init.d/nodectl-first-boot start"
    subprocess.run(
        ["unshare", "--uts", "--mount", "sh", "-c", inside],
        env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}, check=True, timeout=60,
    )  # fmt: skip
    lab.wait_for(told.job_id, lambda row: row["state"] == "done")
    assert not os.path.lexists(link)


@pytest.mark.parametrize(
    ("error", "said"),
    [(DiskBusy("/dev/sda is in use"), "/dev/sda is in use"),
     (KeyboardInterrupt(), "the clone was stopped on the node")],
)  # fmt: skip
def test_what_ends_a_clone_ends_its_job(lab: Lab, error: BaseException, said: str) -> None:
    told = lab.told()

    def clone() -> None:
        with told:
            told.begin()
            told.on(StepStarted(step="restore"))
            raise error

    with pytest.raises(type(error)):
        clone()
    row = lab.row(told.job_id)
    assert (row["state"], row["step"], row["sentence"]) == ("failed", "restore", said)


KILLED = """
import os, signal, sys
from pathlib import Path
from nodectl.events import NullObserver, StepStarted
from nodectl.ids import Root
from nodectl.node.state import StateFolder
from nodectl.node.told_clone import ToldClone
class Image:
    release = ("golden", 1, Root(bytes.fromhex(sys.argv[2])))
told = ToldClone(StateFolder(Path(sys.argv[1])).membership(), Image(), "n1", NullObserver())
told.begin()
told.on(StepStarted(step="wipe"))
print(told.job_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_clone_that_is_killed_is_told_at_once(lab: Lab) -> None:
    words = [str(lab.commands.folder / "n1"), lab.release[2].hex()]
    done = subprocess.run(
        [os.sys.executable, "-c", KILLED, *words], capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(os.sys.path)},
    )  # fmt: skip
    job = int(done.stdout.split()[-1])
    lab.wait_for(job, lambda row: row["state"] == "failed")
    assert "it was killed" in lab.row(job)["sentence"]


def test_without_a_controller_the_clone_goes_on(lab: Lab) -> None:
    away = replace(lab.membership, controllers=("https://127.0.0.1:9",))
    with ToldClone(away, lab, "n1", NullObserver()) as told:
        assert told.begin() is None
        told.applied(report())
    assert told.job_id is None


def test_nobody_begins_a_clone_of_another_node(lab: Lab) -> None:
    with ToldClone(lab.membership, lab, "c", NullObserver()) as told:
        assert told.begin() is None


def test_what_reads_back_otherwise_is_noticed(system: Path) -> None:
    first = FirstBoot(
        job_id=1, node="n1", root="ab", ticket=bytes(32), controllers=("https://c",), ca_pem="x"
    )
    with entered(system, device="/dev/null", uuid=HERE.root_uuid) as inside:
        placed = place_first_boot(system, inside, first)
    check_first_boot(system, placed)
    (system / WANTED).unlink()
    with pytest.raises(BootFailed, match="multi-user"):
        check_first_boot(system, placed)
