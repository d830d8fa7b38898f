"""A fault at every step of making disks: the sentence says where, nothing is called done, and the
next run ends as an undisturbed one does.

The programs that nodectl runs stand behind small scripts that count, and do harm when it is their
turn. The disk carries an old system: one partition is mounted, another one is swap in use. What
needs md, LVM or LUKS is in tests/guest/inside/test_disk_stack.py.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, LoopDisk, loop_disk, sh

import nodectl.run
from nodectl.disk.apply import apply_plan, locked, released
from nodectl.disk.commands import step_commands
from nodectl.disk.kinds import FsType
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.survey import look_and_plan
from nodectl.disk.text import format_layout
from nodectl.errors import (
    CommandFailed,
    DiskChanged,
    DiskUnwritable,
    NodectlError,
    ReadBackFailed,
    ToolMissing,
)
from nodectl.events import NullObserver
from nodectl.node.disk_layout import apply_layout, capture_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

SIZE = 64 * MIB
OLD = layout_of(("was", FsType.EXT4, 24 * MIB, "/"), ("page", FsType.SWAP, None, ""))
NEW = layout_of(("swap", FsType.SWAP, 16 * MIB, ""), ("root", FsType.EXT4, None, "/"))
NAMES = (
    "umount", "swapoff", "partx", "wipefs", "sfdisk", "mkswap", "mkfs.ext4", "lsblk", "blkid",
    "udevadm",
)  # fmt: skip
TOOLS = {name: shutil.which(name) for name in NAMES}  # before PATH is changed
QUIET = NullObserver()
FAULT_STATUS = 9  # none of the programs means anything by it


@dataclass(frozen=True)
class Bench:
    """A disk, and programs in front of the real ones that do harm at their call number `at`."""

    disk: LoopDisk
    folder: Path

    @property
    def old(self) -> Path:
        return self.disk.backing.with_name("old.img")

    def arm(self, at: int, harm: str) -> None:
        """Do `harm` at that call; "call" in it stands for the real program with its arguments."""
        (self.folder / "log").write_text("")
        for tool, real in TOOLS.items():
            (self.folder / tool).write_text(
                "#!/bin/sh\n"
                f'call() {{ {real} "$@"; }}\n'
                f'case "$*" in *--help*) exec {real} "$@";; esac\n'
                f'echo "{tool} $*" >>{self.folder}/log\n'
                f'[ "$(wc -l <{self.folder}/log)" = {at} ] || exec {real} "$@"\n'
                f"{harm}\n"
            )
            (self.folder / tool).chmod(0o755)

    def calls(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()

    def age(self) -> None:
        """Put the old system onto the disk, and use it."""
        self.rest()
        self.vanish(back=self.old)
        sh("partx", "--update", self.disk.path)
        sh("mount", f"{self.disk.path}p1", self.folder / "mnt")
        sh("swapon", f"{self.disk.path}p2")

    def rest(self) -> None:
        """Take down what a run left in use; nothing is harmed from now on."""
        self.arm(0, "")
        for argv in (
            ["umount", str(self.folder / "mnt")],
            ["swapoff", f"{self.disk.path}p2"],
            ["partx", "--delete", self.disk.path],
        ):
            subprocess.run(argv, check=False, capture_output=True)

    def vanish(self, *, back: Path) -> None:
        """Let the disk be what stands in another file."""
        sh("cp", "--sparse=always", back, self.disk.backing)
        sh("losetup", "--set-capacity", self.disk.path)
        sh("blockdev", "--flushbufs", self.disk.path)

    def apply(self) -> DiskPlan:
        return apply_layout(
            NEW, [self.disk.path], expect="", unmount=True, confirm=lambda _plan: True,
            observer=QUIET,
        )  # fmt: skip

    def check_converges(self) -> None:
        """Run it again, undisturbed: all is as it would be without the fault."""
        self.arm(0, "")
        self.apply()
        assert look_and_plan(NEW, [self.disk.path], PlanWish(keep_equal=True)).is_empty
        layout, remarks = capture_layout([self.disk.path])
        assert format_layout(layout).splitlines()[2:] == EXPECTED.format(self.disk.path).split("\n")
        assert remarks == ()
        sh("e2fsck", "-f", "-n", f"{self.disk.path}p2")


EXPECTED = """\
[[disk]]
id = "disk1"
match = {{ path = "{}" }}
role = "data"

[[partition]]
id = "swap"
disk = "disk1"
type = "swap"
size = "16MiB"

[[partition]]
id = "root"
disk = "disk1"
type = "linux"
size = "rest"

[[filesystem]]
volume = "swap"
type = "swap"
label = "swap"

[[filesystem]]
volume = "root"
type = "ext4"
label = "root\""""


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with loop_disk(tmp_path / "disk.img", SIZE) as disk:
        bench = Bench(disk, tmp_path / "bin")
        (bench.folder / "mnt").mkdir(parents=True)
        plan = look_and_plan(OLD, [disk.path], PlanWish())
        with released(plan), locked(plan):
            apply_plan(plan, QUIET)
        sh("cp", "--sparse=always", disk.backing, bench.old)
        monkeypatch.setenv("PATH", f"{bench.folder}:{os.environ['PATH']}")
        yield bench
        bench.rest()


def test_a_program_that_fails_at_any_call(bench: Bench) -> None:
    """Looking, writing and reading back: whatever fails is named, with its last words."""
    failed = []
    for at in range(1, 100):
        bench.age()
        bench.arm(at, f"echo the medium is worn out >&2; exit {FAULT_STATUS}")
        error = error_of(bench)
        if len(bench.calls()) < at:
            break
        if error is None:  # a failure that stops nothing, such as udevadm settle
            assert look_and_plan(NEW, [bench.disk.path], PlanWish(keep_equal=True)).is_empty
            continue
        call = bench.calls()[at - 1]
        failed.append(call)
        text = str(error)
        assert isinstance(error, CommandFailed), (call, text)
        assert f"{call.split()[0]} " in text
        assert f"ended with status {FAULT_STATUS}:\n  the medium is worn out" in text
        if call.startswith(WRITES):
            assert text.startswith("could not "), text
            assert error.hint
    assert {each.split()[0] for each in failed} >= set(TOOLS) - {"udevadm", "umount"}
    bench.check_converges()


WRITES = ("wipefs --all", "sfdisk --no-reread", "mk", "umount", "swapoff")


def error_of(bench: Bench) -> NodectlError | None:
    """Return how a run failed, or None where it did not."""
    try:
        bench.apply()
    except NodectlError as error:
        return error
    return None


def writing(bench: Bench) -> list[int]:
    """Return the numbers of the calls that change something, from a run without harm."""
    bench.age()
    bench.arm(0, "")
    bench.apply()
    reads = ("lsblk", "blkid", "udevadm", "wipefs --json", "sfdisk --json")
    return [n for n, call in enumerate(bench.calls(), start=1) if not call.startswith(reads)]


@pytest.mark.parametrize("harm", ["kill -9 $PPID", 'call "$@"; kill -9 $PPID'])
def test_power_is_lost_before_or_after_any_program_that_writes(bench: Bench, harm: str) -> None:
    places = writing(bench)
    assert len(places) > 8
    for at in places:
        bench.age()
        bench.arm(at, harm)
        assert in_child(bench) == -signal.SIGKILL, bench.calls()
        assert len(bench.calls()) == at
        bench.check_converges()


def in_child(bench: Bench) -> int:
    """Apply in a process of its own; return its status, or minus the signal that ended it."""
    pid = os.fork()
    if not pid:
        try:
            bench.apply()
        except BaseException:  # noqa: BLE001 - the child must not go on as a test
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_disk_vanishes_at_any_program_that_writes(bench: Bench) -> None:
    """It has no byte any more from then on; later it is there again with what it had."""
    saved = bench.disk.backing.with_name("saved.img")
    vanish = (
        f"sync {bench.disk.path}; cp --sparse=always {bench.disk.backing} {saved}; "
        f"truncate --size=0 {bench.disk.backing}; losetup --set-capacity {bench.disk.path}; "
        'call "$@"'
    )
    for at in writing(bench):
        bench.age()
        bench.arm(at, vanish)
        with pytest.raises(NodectlError) as caught:
            bench.apply()
        assert caught.type in {CommandFailed, DiskUnwritable, ReadBackFailed, DiskChanged}
        text = str(caught.value)
        assert text.startswith("could not "), text
        assert bench.disk.path in text.splitlines()[0], text
        bench.vanish(back=saved)
        bench.rest()
        bench.check_converges()


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB, which may grow."""
    folder = tmp_path / "room"
    folder.mkdir()
    sh("mount", "--types", "tmpfs", "--options", "size=1M", "tmpfs", folder)
    yield folder
    sh("umount", "--lazy", folder)


def test_what_stands_for_the_disk_is_full(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thin volume or sparse file that cannot grow: with room again, the next run converges."""
    with loop_disk(room / "disk.img", SIZE) as disk:
        bench = Bench(disk, tmp_path / "bin")
        (bench.folder / "mnt").mkdir(parents=True)
        bench.arm(0, "")
        monkeypatch.setenv("PATH", f"{bench.folder}:{os.environ['PATH']}")
        seen = set()
        for size in (1, 20, 32, 33):
            sh("mount", "--options", f"remount,size={size}M", room)
            error = error_of(bench)
            if error:
                assert isinstance(error, CommandFailed | DiskUnwritable | ReadBackFailed)
                assert str(error).startswith("could not "), str(error)
                assert disk.path in str(error)
                seen.add(type(error))
        assert DiskUnwritable in seen
        sh("mount", "--options", "remount,size=80M", room)
        bench.check_converges()


def test_a_program_that_is_missing_is_found_before_anything_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.age()
    plan = look_and_plan(NEW, [bench.disk.path], PlanWish(unmount=True))
    tools = {argv[0] for step in plan.steps for argv in step_commands(step)}
    assert len(tools & set(TOOLS)) > 6
    for tool in tools - set(TOOLS):
        (bench.folder / tool).symlink_to(str(shutil.which(tool)))
    for tool in sorted(tools & set(TOOLS)):
        place = bench.folder / tool
        script = place.read_text()
        place.unlink()
        with monkeypatch.context() as change:  # nothing but what stands in this folder
            change.setattr(nodectl.run, "_SEARCH_PATH", str(bench.folder))
            change.setenv("PATH", str(bench.folder))
            with pytest.raises(ToolMissing, match=f"program {tool} is not installed"):
                apply_plan(plan, QUIET)
            place.write_text(script)
            place.chmod(0o644)
            with pytest.raises(ToolMissing, match=f"program {tool} may not be run: Permission"):
                apply_plan(plan, QUIET)
            place.chmod(0o755)
    assert look_and_plan(OLD, [bench.disk.path], PlanWish(keep_equal=True)).is_empty
    assert str(bench.folder / "mnt") in Path("/proc/mounts").read_text()
