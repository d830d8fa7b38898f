"""A controller that burns down, and is made again from its recovery file."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

from controlling import ROOT, ROOT_BLOCK, new_controller, run_async, running

from nodectl.node.client import ControlClient
from nodectl.node.state import StateFolder

SECRET_WORDS = "correct horse battery staple"


def _nodectl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nodectl", *words], capture_output=True, text=True, check=False
    )


def test_a_lost_controller_comes_back_and_its_nodes_notice_nothing(tmp_path: Path) -> None:
    state = new_controller(tmp_path / "c")
    phrase, file = tmp_path / "phrase", tmp_path / "recovery"
    phrase.write_text(SECRET_WORDS + "\n")

    async def before() -> None:
        async with running(state) as controller:
            await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})

    run_async(before())
    word = ["--passphrase-file", str(phrase)]
    done = _nodectl("realm", "export-recovery", str(file), *word, "--state", str(state.folder))
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    secret = state.membership().secret.hex()
    assert secret.encode() not in file.read_bytes()
    shutil.rmtree(state.folder)

    other = tmp_path / "other"
    other.write_text("another passphrase\n")
    place = ["--state", str(tmp_path / "new")]
    assert (
        _nodectl("realm", "recover", str(file), "--passphrase-file", str(other), *place).returncode
        == 82
    )
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert not (tmp_path / "new").exists()
    damaged = _nodectl("realm", "recover", str(file), *word, *place)
    assert (damaged.returncode, "damaged" in damaged.stderr) == (82, True)


def test_the_members_of_before_are_members_after(tmp_path: Path) -> None:
    state = new_controller(tmp_path / "c")
    phrase, file = tmp_path / "phrase", tmp_path / "recovery"
    phrase.write_text(SECRET_WORDS)

    async def before() -> None:
        async with running(state) as controller:
            await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})

    run_async(before())
    word = ["--passphrase-file", str(phrase)]
    done = _nodectl("realm", "export-recovery", str(file), *word, "--state", str(state.folder))
    assert done.returncode == 0, done.stderr
    shutil.rmtree(state.folder)
    done = _nodectl("realm", "recover", str(file), *word, "--state", str(state.folder))
    assert done.returncode == 0, done.stderr
    shown = _nodectl("realm", "show", "--json", "--state", str(state.folder))
    assert json.loads(shown.stdout)["members"] == 2

    async def after() -> None:
        async with running(state) as controller:
            node = StateFolder(tmp_path / "n1").membership()
            there = dataclasses.replace(node, controllers=(controller.url,))
            async with ControlClient(there) as client:
                assert (await client.ticket(ROOT)).root_block == ROOT_BLOCK
            async with controller.operator() as operator:
                assert [one["name"] for one in await operator.nodes()] == ["c", "n1"]

    run_async(after())
