"""docs/disk-layouts.md as a stranger reads it: what it says to type does what it says."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loop_disks import sh

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/disk-layouts.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the page's first layout; the loop device of its commands goes at the end."""
    (tmp_path / "node.toml").write_text(blocks("toml")[0])
    yield tmp_path
    for line in sh("losetup", "--associated", tmp_path / "disk.img").splitlines():
        loop = line.partition(":")[0]
        subprocess.run(["partx", "--delete", loop], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", loop], check=False)


def typed(folder: Path, script: str) -> "subprocess.CompletedProcess[str]":
    command = folder / "nodectl"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m nodectl "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{folder}:{os.environ['PATH']}",
    }
    return subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_the_commands_of_the_page(folder: Path) -> None:
    (script,) = blocks("sh")
    done = typed(folder, script)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.sub(r"/dev/loop\d+", "/dev/loop0", done.stdout)
    assert said.startswith("node.toml: valid, 1 disk, 1 partition, 1 filesystem\n")
    plan = blocks("text")[0].splitlines()
    shown = said.splitlines()[1 : 1 + len(plan)]
    variable = ("fingerprint:", "backing file:")  # the folder's name, and what follows from it
    for told, seen in zip(plan, shown, strict=True):
        if not told.startswith(variable):
            assert " ".join(told.split()) == " ".join(seen.split())
    rest = said.splitlines()[1 + len(plan) :]
    assert "/dev/loop0: as the layout says, read back" in rest
    assert "  looks as the layout says: nothing is written to it" in rest
    assert (folder / "captured.toml").read_text().startswith("schema = 2\n")
    assert rest[-1].startswith("  stays /dev/loop0p1")  # the comparison at the end found nothing


def test_the_mistakes_of_the_page(folder: Path) -> None:
    text = (folder / "node.toml").read_text()
    (folder / "node.toml").write_text(text.replace("type =", "typ =", 1))
    done = typed(folder, "nodectl disklayout validate node.toml")
    assert (done.returncode, done.stderr) == (53, blocks("text")[1])
