"""Clones onto loop devices by the real tools, checked with other tools."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, FolderImage, LoopDisk, described, loop_disk, make_tree, sh

import nodectl.disk.apply
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout, default_layout
from nodectl.disk.mounts import RUN_FOLDER
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.probe import probe_disks
from nodectl.disk.survey import look_and_plan
from nodectl.disk.text import format_layout
from nodectl.errors import (
    CommandFailed,
    DiskBusy,
    DiskChanged,
    DiskMissing,
    DiskTooSmall,
    NodectlError,
    NotConfirmed,
    UnsafePath,
    VerifyFailed,
)
from nodectl.events import NullObserver, Observer
from nodectl.identity.derived import derive_machine_id
from nodectl.node.clone import CloneReport, CloneWish, FillResult, clone_onto_disk

pytestmark = pytest.mark.root

TESTS = Path(__file__).parent.parent
EXT4_SWAP = layout_of(("swap", FsType.SWAP, 16 * MIB, ""), ("root", FsType.EXT4, None, "/"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("image") / "root")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path / "disk.img", 96 * MIB) as attached:
        yield attached


def clone(
    disk: str, tree: Path, layout: Layout | None = None, *, image: FolderImage | None = None
) -> CloneReport:
    wish = CloneWish(disks=(disk,), layout=layout or default_layout(), node_name="node07")
    return clone_onto_disk(
        wish, image or FolderImage(tree), confirm=lambda _plan: True, observer=NullObserver()
    )


def no_folders_left() -> bool:
    """Say whether no clone that ended left its folder; clones of others may be at work."""
    return not any(_is_abandoned(folder) for folder in RUN_FOLDER.glob("clone-*/"))


def _is_abandoned(folder: Path) -> bool:
    try:
        with folder.with_name(folder.name + ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return False  # its clone lives, or has just removed it
    return folder.exists()


def test_ext4_and_swap(disk: LoopDisk, tree: Path, tmp_path: Path) -> None:
    report = clone(disk.path, tree, EXT4_SWAP)
    assert disk.is_released()
    assert "No errors detected" in sh("sfdisk", "--verify", disk.path)
    with disk.mounted(2, tmp_path / "mnt") as root:
        assert (
            sh("blkid", "-s", "UUID", "-o", "value", f"{disk.path}p1").strip()
            == (report.filesystems["swap"])
        )
        header = sh("dumpe2fs", "-h", f"{disk.path}p2")
        assert report.filesystems["/"] in header
        assert "Filesystem volume name:   root" in header
        assert (root / "etc/fstab").read_text().splitlines()[0] == "nas:/x /mnt nfs rw 0 0"
        swap, slash = (root / "etc/fstab").read_text().splitlines()[-2:]
        assert swap == f"UUID={report.filesystems['swap']} none swap sw 0 0"
        assert slash == f"UUID={report.filesystems['/']} / ext4 defaults 0 1"
        assert (root / "etc/hostname").read_text() == "node07\n"
        assert (root / "etc/machine-id").read_text().strip() == report.machine_id
        assert report.machine_id == derive_machine_id("realm", "node07")
        assert "127.0.1.1\tnode07" in (root / "etc/hosts").read_text()
        found, wanted = described(root), described(tree)
        ours = {"etc/fstab", "etc/hostname", "etc/machine-id", "etc/hosts", "lost+found"}
        ours |= {"etc/nodectl", "etc/nodectl/own-files"}
        assert found.keys() - wanted.keys() <= ours
        for path in wanted.keys() - ours:
            assert found[path] == wanted[path], path
    assert report.verified
    assert set(report.seconds) >= {"restore", "read back", f"partition {disk.path}"}


@pytest.mark.parametrize(
    ("kind", "checker"),
    [(FsType.XFS, ("xfs_db", "-r", "-c", "uuid")), (FsType.BTRFS, ("btrfs", "fi", "show"))],
)
def test_xfs_and_btrfs_with_a_filesystem_beneath(
    kind: FsType, checker: tuple[str, ...], tree: Path, tmp_path: Path
) -> None:
    layout = layout_of(("home", FsType.EXT4, 32 * MIB, "/home/user"), ("root", kind, None, "/"))
    with loop_disk(tmp_path / "disk.img", 400 * MIB) as disk:
        report = clone(disk.path, tree, layout)
        assert disk.is_released()
        with disk.mounted(2, tmp_path / "mnt") as root:
            assert list((root / "home/user").iterdir()) == []  # it is the other filesystem's
            assert (root / "home/fifo").is_fifo()
        with disk.partitions():
            assert report.filesystems["/"] in sh(*checker, f"{disk.path}p2")
        with disk.mounted(1, tmp_path / "mnt") as home:
            assert (home / "data").stat().st_size == 3 * MIB
            assert home.stat().st_mtime_ns == 1_600_000_000_123_456_789


def test_sectors_of_4096_bytes(tree: Path, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "disk.img", 96 * MIB, "--sector-size", "4096") as disk:
        clone(disk.path, tree, EXT4_SWAP)
        table = json.loads(sh("sfdisk", "--json", disk.path))["partitiontable"]
        assert table["sectorsize"] == 4096
        assert [each["start"] * 4096 // MIB for each in table["partitions"]] == [1, 17]


def test_vfat_is_formatted(tree: Path, tmp_path: Path) -> None:
    """Nothing is mounted from it: the kernel of a test host may lack vfat."""
    layout = layout_of(("efi", FsType.VFAT, 40 * MIB, ""), ("root", FsType.EXT4, None, "/"))
    with loop_disk(tmp_path / "disk.img", 96 * MIB) as disk:
        report = clone(disk.path, tree, layout)
        with disk.partitions():
            found = sh("blkid", "-p", "-s", "UUID", "-o", "value", f"{disk.path}p1").strip()
        assert found == report.filesystems["vfat"]


def test_what_stood_on_the_disk_does_not_come_back(
    disk: LoopDisk, tree: Path, tmp_path: Path
) -> None:
    """The same geometry again, left raw: the old filesystem's magic is gone from it."""
    first = layout_of(("a", FsType.EXT4, 40 * MIB, "/srv"), ("root", FsType.EXT4, None, "/"))
    clone(disk.path, tree, first)
    clone(disk.path, tree, layout_of(("a", None, 40 * MIB, ""), ("root", FsType.EXT4, None, "/")))
    with disk.partitions():
        assert sh("wipefs", "--noheadings", f"{disk.path}p1") == ""
    with disk.mounted(2, tmp_path / "mnt") as root:
        assert (root / "home/user/data").exists()


MBR = "label: dos\nsize=20M,type=83\nsize=40M,type=5\nsize=8M,type=82\nsize=8M,type=83\n"


def leave_mbr_with_logical_partitions(disk: LoopDisk) -> None:
    subprocess.run(["sfdisk", "--quiet", disk.path], input=MBR, text=True, check=True)


def leave_gpt_with_a_broken_start(disk: LoopDisk) -> None:
    table = "label: gpt\nsize=20M\nsize=20M\n"
    subprocess.run(["sfdisk", "--quiet", disk.path], input=table, text=True, check=True)
    sh("dd", "if=/dev/urandom", f"of={disk.path}", "bs=512", "count=34", "conv=fsync")


def leave_two_filesystems_in_one_place(disk: LoopDisk) -> None:
    """Two magic numbers, so that blkid refuses to choose."""
    sh("mkfs.ext4", "-q", "-F", disk.path)
    magic = b"SWAPSPACE2"  # mkswap(8): the last bytes of the first page
    with Path(disk.path).open("r+b") as file:
        file.seek(4096 - len(magic))
        file.write(magic)


def leave_noise(disk: LoopDisk) -> None:
    sh("dd", "if=/dev/urandom", f"of={disk.path}", "bs=1M", "count=96", "conv=fsync")


@pytest.mark.parametrize(
    "leave",
    [
        leave_mbr_with_logical_partitions,
        leave_gpt_with_a_broken_start,
        leave_two_filesystems_in_one_place,
        leave_noise,
    ],
)
def test_whatever_stood_there_before(
    leave: Callable[[LoopDisk], None], disk: LoopDisk, tree: Path
) -> None:
    leave(disk)
    clone(disk.path, tree, EXT4_SWAP)
    found = json.loads(sh("wipefs", "--json", disk.path))["signatures"]
    assert {each["type"] for each in found} == {"gpt", "PMBR"}
    assert "No errors detected" in sh("sfdisk", "--verify", disk.path)
    with disk.partitions():
        sh("fsck.ext4", "-n", "-f", f"{disk.path}p2")


# ---- refused: nothing is written -----------------------------------------------------------


@pytest.fixture
def untouched(disk: LoopDisk) -> Iterator[None]:
    """Give the disk a filesystem to lose, and check that every byte of it is still there."""
    sh("mkfs.ext4", "-q", "-F", disk.path)
    before = disk.digest()
    yield
    assert disk.digest() == before
    assert no_folders_left()


@pytest.mark.usefixtures("untouched")
class TestRefused:
    def refused(
        self, error: type[NodectlError], match: str, disk: str, tree: Path, **more: Layout
    ) -> None:
        with pytest.raises(error, match=match):
            clone(disk, tree, **more)

    def test_too_small_for_the_layout(self, disk: LoopDisk, tree: Path) -> None:
        layout = layout_of(("root", FsType.EXT4, 200 * MIB, "/"))
        self.refused(DiskTooSmall, "the layout needs 200 MiB", disk.path, tree, layout=layout)

    def test_too_small_for_the_image(self, disk: LoopDisk, tree: Path) -> None:
        with pytest.raises(DiskTooSmall, match="the image holds 2 GiB"):
            clone(disk.path, tree, image=FolderImage(tree, plain_bytes=2 << 30))

    def test_no_such_serial(self, tree: Path) -> None:
        self.refused(DiskMissing, "no disk has serial NOSUCH", "NOSUCH", tree)

    def test_a_file_that_is_not_attached(self, disk: LoopDisk, tree: Path) -> None:
        self.refused(DiskMissing, "is a file, not a disk", str(disk.backing), tree)

    def test_the_systems_own_disk(self, tree: Path) -> None:
        own = [
            disk.path
            for disk in probe_disks()
            if any(use.words().endswith("of the running system") for use in disk.uses)
        ]
        if not own:
            pytest.skip("the system does not run from a disk")
        self.refused(DiskBusy, "carries / of the running system", own[0], tree)

    def test_not_confirmed(self, disk: LoopDisk, tree: Path) -> None:
        wish = CloneWish(disks=(disk.path,), layout=default_layout(), node_name="n")
        with pytest.raises(NotConfirmed):
            clone_onto_disk(
                wish, FolderImage(tree), confirm=lambda _plan: False, observer=NullObserver()
            )

    def test_held_exclusively_by_somebody(self, disk: LoopDisk, tree: Path) -> None:
        fd = os.open(disk.path, os.O_RDONLY | os.O_EXCL)
        try:
            self.refused(DiskBusy, "is held by another program", disk.path, tree)
        finally:
            os.close(fd)

    def test_locked_by_another_clone(
        self, disk: LoopDisk, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nodectl.disk.apply, "_LOCK_WAIT_S", 0.1)
        plan = look_and_plan(default_layout(), [disk.path], PlanWish())
        with nodectl.disk.apply.locked(plan):
            self.refused(DiskBusy, "is locked by another program", disk.path, tree)

    def test_changed_between_plan_and_apply(self, disk: LoopDisk, tree: Path) -> None:
        """Somebody detaches the disk while the question waits and attaches another one there."""

        def swap_disks(_plan: DiskPlan) -> bool:
            sh("losetup", "--detach", disk.path)
            sh("losetup", disk.path, other)
            return True

        other = disk.backing.with_name("other.img")
        with other.open("wb") as file:
            file.truncate(96 * MIB)
        wish = CloneWish(disks=(disk.path,), layout=default_layout(), node_name="n")
        with pytest.raises(DiskChanged, match=r"sequence|backing_file"):
            clone_onto_disk(wish, FolderImage(tree), confirm=swap_disks, observer=NullObserver())
        assert not other.read_bytes().strip(b"\0")

    def test_mounted_between_plan_and_apply(
        self, disk: LoopDisk, tree: Path, tmp_path: Path
    ) -> None:
        def mount(_plan: DiskPlan) -> bool:
            sh("mount", "--options", "ro,noload", disk.path, tmp_path)
            return True

        wish = CloneWish(disks=(disk.path,), layout=default_layout(), node_name="n")
        with pytest.raises(DiskBusy, match="came into use since the plan"):
            clone_onto_disk(wish, FolderImage(tree), confirm=mount, observer=NullObserver())
        sh("umount", tmp_path)

    def test_dry_run_writes_nothing(self, disk: LoopDisk, tree: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from loop_disks import FolderImage;"
            "from nodectl.cli.clone import print_plan; from nodectl.node.clone import CloneWish;"
            "from nodectl.disk.model import default_layout as d;"
            "print_plan(CloneWish(disks=(sys.argv[1],), layout=d(), node_name='n'),"
            "FolderImage(Path(sys.argv[2])), as_json=False)"
        )
        said = python("-c", program, disk.path, str(tree))
        assert said.returncode == 0, said.stderr
        assert f"{disk.path}: ext4" in said.stdout
        assert "It becomes:" in said.stdout


def test_a_mounted_partition_is_refused(disk: LoopDisk, tree: Path, tmp_path: Path) -> None:
    clone(disk.path, tree, EXT4_SWAP)
    with disk.mounted(2, tmp_path / "mnt"):
        before = disk.digest()
        with pytest.raises(DiskBusy, match=rf"{disk.path}p2 is mounted at {tmp_path}/mnt"):
            clone(disk.path, tree)
        assert disk.digest() == before
    with disk.partitions(), pytest.raises(DiskMissing, match=f"the whole disk: {disk.path}|is a"):
        clone(f"{disk.path}p2", tree)


def test_swap_in_use_is_refused(disk: LoopDisk, tree: Path) -> None:
    clone(disk.path, tree, EXT4_SWAP)
    with disk.partitions():
        sh("swapon", f"{disk.path}p1")
        try:
            with pytest.raises(DiskBusy, match=f"{disk.path}p1 is in use as swap"):
                clone(disk.path, tree)
        finally:
            sh("swapoff", f"{disk.path}p1")


def test_a_read_only_disk_is_refused(tree: Path, tmp_path: Path) -> None:
    with (
        loop_disk(tmp_path / "disk.img", 96 * MIB, "--read-only") as disk,
        pytest.raises(DiskBusy, match="is read-only"),
    ):
        clone(disk.path, tree)


# ---- failures on the way: everything is released, and it is said ---------------------------


class BadImage(FolderImage):
    def restore(self, target: Path, observer: Observer) -> FillResult:
        result = super().restore(target, observer)
        (target / "home/user/data").write_bytes(b"rotten")
        return result


class FailingImage(FolderImage):
    def restore(self, target: Path, observer: Observer) -> FillResult:
        super().restore(target, observer)
        raise CommandFailed("the swarm is gone")


def test_a_wrong_copy_is_never_called_done(disk: LoopDisk, tree: Path) -> None:
    with pytest.raises(VerifyFailed, match="differs: home/user/data"):
        clone(disk.path, tree, image=BadImage(tree))
    assert disk.is_released()


def test_a_failing_restore_releases_everything(disk: LoopDisk, tree: Path) -> None:
    with pytest.raises(CommandFailed, match="the swarm is gone"):
        clone(disk.path, tree, image=FailingImage(tree))
    assert disk.is_released()
    assert no_folders_left()


def test_an_image_whose_etc_leads_out_is_refused(disk: LoopDisk, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "image/etc").symlink_to(tmp_path / "victim")
    with pytest.raises(UnsafePath):
        clone(disk.path, tmp_path / "image")
    assert list((tmp_path / "victim").iterdir()) == []
    assert disk.is_released()


def test_a_full_target_is_released(disk: LoopDisk, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/big").write_bytes(os.urandom(100 * MIB))
    with pytest.raises(AssertionError, match="No space left"):
        clone(disk.path, tmp_path / "image")
    assert disk.is_released()


# ---- killed, stopped, repeated --------------------------------------------------------------


def python(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        check=False,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}


def stopped_clone(disk: LoopDisk, tree: Path, tmp_path: Path, stop: str) -> subprocess.Popen[str]:
    """Start a clone in a process and return it when it stands at the event that has `stop`."""
    layout = tmp_path / "layout.toml"
    layout.write_text(format_layout(EXT4_SWAP))
    process = subprocess.Popen(
        [sys.executable, TESTS / "clone_process.py", disk.path, tree, layout, stop],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "STOPPED\n":
            return process
    process.kill()
    raise AssertionError(f"never came to {stop}, status {process.wait()}")


STOPS = ("StepFinished(step='wipe", "StepFinished(step='partition", "StepFinished(step='format")


@pytest.mark.parametrize("stop", [*STOPS, "restored", "StepStarted(step='read back'"])
def test_killed_anywhere_and_run_again_converges(
    stop: str, disk: LoopDisk, tree: Path, tmp_path: Path
) -> None:
    process = stopped_clone(disk, tree, tmp_path, stop)
    process.kill()
    process.communicate(timeout=30)
    report = clone(disk.path, tree, EXT4_SWAP)
    assert report.verified
    assert disk.is_released()
    assert no_folders_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stop", ["StepFinished(step='format", "restored"])
def test_stopped_by_a_signal_releases_everything(
    number: signal.Signals, stop: str, disk: LoopDisk, tree: Path, tmp_path: Path
) -> None:
    process = stopped_clone(disk, tree, tmp_path, stop)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert disk.is_released()
    assert no_folders_left()


def test_two_clones_onto_one_disk_do_not_meet(disk: LoopDisk, tree: Path, tmp_path: Path) -> None:
    """The second is refused while the first restores; the first ends well or as told."""
    process = stopped_clone(disk, tree, tmp_path, "restored")
    try:
        with pytest.raises(DiskBusy, match="is mounted at /run/nodectl/clone-"):
            clone(disk.path, tree)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_a_plain_user_is_told_to_be_root(disk: LoopDisk, tree: Path) -> None:
    program = (
        "import os, sys; from nodectl.node.clone import CloneWish, plan_clone;"
        "from nodectl.disk.model import default_layout as d\n"
        "from nodectl.errors import NeedsRoot\n"
        "os.setuid(65534)\n"
        "try: plan_clone(CloneWish(disks=(sys.argv[1],), layout=d(), node_name='n'), 0)\n"
        "except NeedsRoot as error: print(error)"
    )
    assert "needs root" in python("-c", program, disk.path).stdout
    assert tree.exists()
