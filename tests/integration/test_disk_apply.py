"""The single steps on loop devices: what goes wrong between them, and what is said then."""

import dataclasses
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, LoopDisk, loop_disk, sh

import nodectl.disk.apply
import nodectl.disk.mounts
from nodectl.disk.apply import apply_plan, locked, released
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout, default_layout
from nodectl.disk.mounts import mounted, private_folder, release_abandoned
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.steps import ShowPartitions, Step, WriteTable
from nodectl.disk.survey import look_and_plan
from nodectl.errors import CommandFailed, ReadBackFailed, ReleaseFailed, ToolMissing
from nodectl.events import NullObserver

pytestmark = pytest.mark.root

QUIET = NullObserver()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path / "disk.img", 96 * MIB) as attached:
        yield attached


def plan_for(disk: LoopDisk, layout: Layout | None = None) -> DiskPlan:
    return look_and_plan(layout or default_layout(), [disk.path], PlanWish())


def with_step(plan: DiskPlan, changed: WriteTable) -> DiskPlan:
    steps = tuple(changed if isinstance(each, WriteTable) else each for each in plan.steps)
    return dataclasses.replace(plan, steps=steps)


def test_facts_of_a_loop_device(disk: LoopDisk) -> None:
    sh("mkswap", "--label", "mine", disk.path)
    facts = plan_for(disk).disk
    assert (facts.size, facts.type, facts.uses) == (96 * MIB, "loop", ())
    assert facts.backing_file == str(disk.backing)
    assert facts.contents is not None
    assert [(each.type, each.label) for each in facts.contents.signatures] == [("swap", "mine")]


def test_a_plan_applied_is_seen_by_the_next_probe(disk: LoopDisk) -> None:
    layout = layout_of(("swap", FsType.SWAP, 16 * MIB, ""), ("root", FsType.EXT4, None, "/"))
    plan = plan_for(disk, layout)
    with released(plan), locked(plan):
        apply_plan(plan, QUIET)
    contents = plan_for(disk).disk.contents
    assert contents is not None
    assert contents.table == "gpt"
    seen = [(each.number, each.start, each.size, each.uuid) for each in contents.partitions]
    assert seen == [(each.number, each.start, each.size, each.uuid) for each in plan.partitions]
    assert [each.signatures[0].uuid for each in contents.partitions] == [
        each.uuid for each in plan.filesystems
    ]


def test_a_table_that_reads_back_differently_is_an_error(
    disk: LoopDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(disk)
    step = next(each for each in plan.steps if isinstance(each, WriteTable))
    commands = nodectl.disk.apply.table_script

    def other(each: WriteTable) -> str:
        return commands(each).replace('name="root"', 'name="toor"')

    monkeypatch.setattr(nodectl.disk.apply, "table_script", other)
    with released(plan), pytest.raises(ReadBackFailed, match=r"reads back as .*toor"):
        apply_plan(with_step(plan, step), QUIET)


def test_a_refused_table_names_the_program_and_what_it_said(disk: LoopDisk) -> None:
    plan = plan_for(disk)
    step = next(each for each in plan.steps if isinstance(each, WriteTable))
    entry = dataclasses.replace(step.entries[0], start=1 << 50)
    wrong = dataclasses.replace(step, entries=(entry,))
    with pytest.raises(CommandFailed, match=rf"(?s)sfdisk .*{disk.path} ended with status"):
        apply_plan(with_step(plan, wrong), QUIET)


def test_a_missing_program_is_found_before_the_first_write(
    disk: LoopDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sh("mkfs.ext4", "-q", "-F", disk.path)
    plan = plan_for(disk)
    before = disk.digest()
    commands = nodectl.disk.apply.step_commands

    def renamed(step: Step) -> list[list[str]]:
        return [[word.replace("ext4", "absent") for word in argv] for argv in commands(step)]

    monkeypatch.setattr(nodectl.disk.apply, "step_commands", renamed)
    with pytest.raises(ToolMissing, match=r"mkfs\.absent is not installed"):
        apply_plan(plan, QUIET)
    assert disk.digest() == before


def test_a_node_that_nobody_makes_is_made(disk: LoopDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an initramfs without devtmpfs: the kernel knows the partition, /dev does not."""
    monkeypatch.setattr(nodectl.disk.apply, "_NO_UDEV_S", 0.05)
    plan = plan_for(disk)
    node = Path(plan.partitions[0].path)
    with released(plan):
        apply_plan(plan, QUIET)
        node.unlink()
        step = next(each for each in plan.steps if isinstance(each, ShowPartitions))
        nodectl.disk.apply.wait_for_nodes(step)
        assert node.is_block_device()
    assert not node.exists()


def test_a_partition_that_somebody_looks_at_is_waited_for(disk: LoopDisk) -> None:
    plan = plan_for(disk)
    with released(plan):
        apply_plan(plan, QUIET)
        fd = os.open(plan.partitions[0].path, os.O_RDONLY)
        closing = threading.Timer(0.3, os.close, [fd])
        closing.start()
    assert disk.is_released()
    closing.join()


def test_a_partition_that_the_kernel_never_shows_is_an_error(
    disk: LoopDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodectl.disk.apply, "_NODE_WAIT_S", 0.1)
    plan = plan_for(disk)
    step = next(each for each in plan.steps if isinstance(each, ShowPartitions))
    with pytest.raises(ReadBackFailed, match="the kernel does not show"):
        nodectl.disk.apply.wait_for_nodes(step)


def test_a_busy_mount_is_named_and_never_hidden(
    disk: LoopDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodectl.disk.mounts, "_UNMOUNT_TRIES", 2)
    plan = plan_for(disk)
    with released(plan):
        apply_plan(plan, QUIET)
        target = tmp_path / "target"
        target.mkdir()
        with pytest.raises(ReleaseFailed, match="held by cat"), mounted(plan.mounts, target):
            holder = subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=target)
        assert str(target) not in Path("/proc/mounts").read_text()
        holder.communicate(timeout=10)


def test_a_mount_that_fails_releases_those_before_it(disk: LoopDisk, tmp_path: Path) -> None:
    layout = layout_of(("home", FsType.EXT4, 16 * MIB, "/home"), ("root", FsType.EXT4, None, "/"))
    plan = plan_for(disk, layout)
    with released(plan):
        apply_plan(plan, QUIET)
        sh("wipefs", "--all", plan.partitions[0].path)
        with pytest.raises(CommandFailed, match="mount "), mounted(plan.mounts, tmp_path):
            pass
        assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_a_folder_of_a_living_clone_is_left_alone_and_a_dead_ones_is_released(
    disk: LoopDisk, tmp_path: Path
) -> None:
    sh("mkfs.ext4", "-q", "-F", disk.path)
    dead = tmp_path / "clone-dead"
    dead.mkdir()
    sh("mount", disk.path, dead)
    with private_folder(tmp_path) as alive:
        assert release_abandoned(tmp_path) == (dead,)
        assert alive.is_dir()
    assert disk.is_released()
    assert list(tmp_path.glob("clone-*")) == []
