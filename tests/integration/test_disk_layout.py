"""`nodectl disklayout` on loop devices, by the real programs: apply, again, capture, failures."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_disks import MIB, LoopDisk, loop_disk, sh

from nodectl.disk.facts import DiskFacts
from nodectl.disk.probe import probe_contents, probe_disks

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.root

LAYOUT = """\
schema = 2

[[disk]]
id = "one"
role = "data"

[[partition]]
id = "swap"
disk = "one"
type = "swap"
size = "16MiB"

[[partition]]
id = "data"
disk = "one"
type = "linux"
size = "rest"

[[filesystem]]
volume = "swap"
type = "swap"

[[filesystem]]
volume = "data"
type = "ext4"
label = "data"
"""


def nodectl(*words: str | Path, path: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if path:
        environment["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", "nodectl", "disklayout", *words],
        env=environment, cwd="/", capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def ok(*words: str | Path) -> str:
    done = nodectl(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(status: int, *words: str | Path, path: str = "") -> str:
    done = nodectl(*words, path=path)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path / "disk.img", 128 * MIB) as attached:
        yield attached


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    file = tmp_path / "layout.toml"
    file.write_text(LAYOUT)
    return file


def test_a_second_run_finds_everything_done(disk: LoopDisk, layout: Path, tmp_path: Path) -> None:
    plan = json.loads(ok("plan", layout, "--disk", disk.path, "--json"))
    assert not plan["is_empty"]
    said = ok("apply", layout, "--disk", disk.path, "--yes", "--expect", plan["fingerprint"])
    assert "as the layout says, read back" in said
    before = disk.digest()
    assert json.loads(ok("plan", layout, "--disk", disk.path, "--json"))["is_empty"]
    assert "nothing was written" in ok("apply", layout, "--disk", disk.path)
    assert disk.digest() == before
    with disk.mounted(2, tmp_path / "mnt") as folder:
        assert (folder / "lost+found").is_dir()


def test_what_is_captured_makes_the_same_on_an_empty_disk(
    disk: LoopDisk, layout: Path, tmp_path: Path
) -> None:
    ok("apply", layout, "--disk", disk.path, "--yes")
    first = tmp_path / "first.toml"
    ok("capture", "--disk", disk.path, "--output", first)
    assert "is there already" in fails(13, "capture", "--disk", disk.path, "--output", first)
    sh("partx", "--delete", disk.path)
    sh("blkdiscard", "--zeroout", disk.path)
    assert ok("validate", first)
    ok("apply", first, "--yes")
    again = ok("capture", "--disk", disk.path)
    assert again == first.read_text()
    assert "rest" in again
    assert ok("diff", first, first) == ""
    assert ok("diff", first, "--disk", disk.path) == ""
    assert "not all three" in fails(14, "diff", first, first, "--disk", disk.path)
    changed = tmp_path / "changed.toml"
    changed.write_text(again.replace("16MiB", "17MiB"))
    done = nodectl("diff", first, changed)
    assert (done.returncode, done.stdout) == (
        3, 'partition disk1-1 size: "16MiB" -> "17MiB"\n'
    )  # fmt: skip


def test_an_mbr_with_logical_partitions_on_sectors_of_4096_bytes(tmp_path: Path) -> None:
    file = tmp_path / "mbr.toml"
    text = LAYOUT.replace('role = "data"', 'role = "data"\ntable = "mbr"\nsector = 4096')
    file.write_text(text.replace('size = "16MiB"', 'size = "16MiB"\nlogical = true'))
    with loop_disk(tmp_path / "disk.img", 128 * MIB, "--sector-size", "4096") as disk:
        ok("apply", file, "--disk", disk.path, "--yes")
        table = json.loads(sh("sfdisk", "--json", disk.path))["partitiontable"]
        assert (table["label"], table["sectorsize"]) == ("dos", 4096)
        seen = [(each["node"][-1], each["start"] * 4096 // MIB) for each in table["partitions"]]
        assert seen == [("1", 1), ("2", 18), ("5", 2)] or len(seen) == 3
        assert json.loads(ok("plan", file, "--disk", disk.path, "--json"))["is_empty"]
    with loop_disk(tmp_path / "other.img", 128 * MIB) as disk:
        before = disk.digest()
        assert "has sectors of 512 bytes" in fails(57, "apply", file, "--disk", disk.path, "--yes")
        assert disk.digest() == before


def test_with_an_ambiguous_match_no_write_reaches_any_disk(layout: Path, tmp_path: Path) -> None:
    text = 'id = "one"\nmatch = { size = "= 99876864", path = "/dev/loop*" }'
    layout.write_text(LAYOUT.replace('id = "one"', text))
    with (
        loop_disk(tmp_path / "a.img", 99876864) as one,
        loop_disk(tmp_path / "b.img", 99876864) as two,
    ):
        disks = (one, two)
        for each in disks:
            sh("mkfs.ext4", "-q", "-F", each.path)
        before = [(each.digest(), _writes(each)) for each in disks]
        story = fails(50, "apply", layout, "--yes")
        assert " disks have path" in story
        assert one.path in story
        assert two.path in story
        assert "no disk has" in fails(50, "apply", layout, "--yes", "--disk", "one=NOSUCH")
        assert [(each.digest(), _writes(each)) for each in disks] == before


def _writes(disk: LoopDisk) -> str:
    """Return how many writes the kernel has sent to a disk."""
    return Path(f"/sys/block/{disk.name}/stat").read_text().split()[4]


@pytest.mark.parametrize("tool", ["sfdisk", "mkfs.ext4", "mkswap"])
def test_a_program_that_fails_is_named_and_a_second_run_converges(
    tool: str, disk: LoopDisk, layout: Path, tmp_path: Path
) -> None:
    """The tool is there and says --help; the second time it is called for work, it fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    real = sh("which", tool).strip()
    fake = folder / tool
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *--help*|*--json*) exec {real} "$@";; esac\n'
        "echo the medium is worn out >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    story = fails(16, "apply", layout, "--disk", disk.path, "--yes", path=path)
    assert tool in story
    assert "the medium is worn out" in story
    assert "as the layout says, read back" in ok("apply", layout, "--disk", disk.path, "--yes")


def test_what_was_written_through_a_partition_is_seen_while_another_is_held(
    disk: LoopDisk, layout: Path
) -> None:
    """Disk and partitions are cached apart: a held disk would show what was there before."""
    ok("apply", layout, "--disk", disk.path, "--yes")
    with disk.partitions():
        held = os.open(f"{disk.path}p2", os.O_RDONLY)  # as LVM and md do
        try:
            (facts,) = [each for each in probe_disks() if each.path == disk.path]
            assert kinds(facts) == ["swap", "ext4"]
            sh("mkfs.ext4", "-q", "-F", "-L", "new", f"{disk.path}p1")
            assert kinds(facts) == ["ext4", "ext4"]
        finally:
            os.close(held)


def kinds(disk: DiskFacts) -> list[str]:
    contents = probe_contents(disk).contents
    assert contents is not None
    return [found.type for part in contents.partitions for found in part.signatures]


STEPS = ("wipe /dev/loop", "partition", "show", "format", "mark")


@pytest.mark.parametrize("stop", STEPS)
def test_killed_after_a_step_and_run_again_converges(
    stop: str, disk: LoopDisk, layout: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "nodectl", "disklayout", "apply", layout, "--disk", disk.path,
         "--yes", "--json"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, cwd="/",
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if f'"{stop}' in line:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    ok("apply", layout, "--disk", disk.path, "--yes")
    assert json.loads(ok("plan", layout, "--disk", disk.path, "--json"))["is_empty"]
    sh("e2fsck", "-f", "-n", f"{disk.path}p2")


def test_a_plan_that_is_not_the_expected_one_is_not_done(disk: LoopDisk, layout: Path) -> None:
    plan = json.loads(ok("plan", layout, "--disk", disk.path, "--json"))
    sh("mkfs.ext4", "-q", "-F", disk.path)
    before = disk.digest()
    words = ("--disk", disk.path, "--yes", "--expect", plan["fingerprint"])
    assert "nothing was written" in fails(54, "apply", layout, *words)
    assert "not confirmed" in fails(18, "apply", layout, "--disk", disk.path)
    assert disk.digest() == before


def test_a_disk_in_use_is_released_only_when_that_was_said(
    disk: LoopDisk, layout: Path, tmp_path: Path
) -> None:
    ok("apply", layout, "--disk", disk.path, "--yes")
    target = tmp_path / "mnt"
    target.mkdir()
    sh("mount", f"{disk.path}p2", target)
    other = LAYOUT.replace('"16MiB"', '"24MiB"')
    layout.write_text(other)
    assert "is mounted at" in fails(51, "apply", layout, "--disk", disk.path, "--yes")
    ok("apply", layout, "--disk", disk.path, "--yes", "--unmount")
    assert str(target) not in Path("/proc/mounts").read_text()
    assert json.loads(ok("plan", layout, "--disk", disk.path, "--json"))["is_empty"]


def test_scratch_data_survives_a_new_layout_around_it(
    disk: LoopDisk, layout: Path, tmp_path: Path
) -> None:
    ok("apply", layout, "--disk", disk.path, "--yes")
    (tmp_path / "mnt").mkdir()
    sh("mount", f"{disk.path}p2", tmp_path / "mnt")
    (tmp_path / "mnt/precious").write_text("years of work")
    sh("umount", tmp_path / "mnt")
    keep = LAYOUT.replace('size = "rest"', 'size = "rest"\npreserve = "keep"')
    keep = keep.replace('label = "data"', 'label = "data"\npreserve = "keep"')
    layout.write_text(
        keep.replace('id = "swap"', 'id = "paging"').replace('volume = "swap"', 'volume = "paging"')
    )
    text = ok("plan", layout, "--disk", disk.path)
    assert f"stays  {disk.path}p2" in text
    assert f"LOST  {disk.path}p1" in text
    ok("apply", layout, "--disk", disk.path, "--yes")
    with disk.mounted(2, tmp_path / "mnt") as folder:
        assert (folder / "precious").read_text() == "years of work"
    names = [
        p["name"]
        for p in json.loads(sh("sfdisk", "--json", disk.path))["partitiontable"]["partitions"]
    ]
    assert names == ["paging", "data"]


def test_what_a_captured_system_uses_must_fit(disk: LoopDisk, layout: Path, tmp_path: Path) -> None:
    ok("apply", layout, "--disk", disk.path, "--yes")
    (tmp_path / "mnt").mkdir()
    sh("mount", f"{disk.path}p2", tmp_path / "mnt")
    (tmp_path / "mnt/data").write_bytes(os.urandom(40 * MIB))
    sh("sync", "--file-system", tmp_path / "mnt")
    text = ok("capture", "--disk", disk.path)
    sh("umount", tmp_path / "mnt")
    assert 40 <= int(text.partition('min_used = "')[2].partition("MiB")[0]) < 48
    captured = tmp_path / "captured.toml"
    captured.write_text(text.replace(disk.path, "/dev/loop*"))
    for size, status in ((57 * MIB, 52), (72 * MIB, 0)):
        with loop_disk(tmp_path / f"{size}.img", size) as other:
            done = nodectl("plan", captured, "--disk", other.path)
            assert done.returncode == status, done.stderr
            if status:
                assert "its content needs" in done.stderr
                assert "nothing was written" in done.stderr


def test_bad_layouts_and_the_schema_on_the_command_line(layout: Path) -> None:
    layout.write_text(LAYOUT.replace('"16MiB"', '"16 parsecs"').replace('"ext4"', '"ext5"'))
    story = fails(53, "validate", layout)
    assert "line 11, partition[0].size" in story
    assert "line 25, filesystem[1].type" in story
    assert json.loads(ok("schema"))["title"] == "nodectl disk layout"
