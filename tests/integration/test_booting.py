"""Machines that start: their scripts, their tickets, and an installer's work, over real sockets."""

import asyncio
import contextlib
import logging
import re
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from blake3 import blake3
from controlling import ROOT, ROOT_BLOCK, Controller, Recorder, new_controller, run_async, running

from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.records import Job, JobState, Task
from nodectl.controller.serve import BootWish
from nodectl.errors import (
    NetbootRefused,
    NotAllowed,
    PathMissing,
    RestoreFailed,
    TokenRefused,
    UnknownImage,
)
from nodectl.events import StepProgress
from nodectl.ids import Root
from nodectl.installer.cmdline import BootWords, parse_words
from nodectl.installer.inside import CloneArgv, Installing, Patience
from nodectl.listen import Address
from nodectl.node import join as joining
from nodectl.node.client import ControlClient
from nodectl.node.inventory import write_inventories
from nodectl.node.state import StateFolder
from nodectl.trust.token import Role

MAC = "52:54:00:77:00:01"
LAYOUT = """schema = 2
[[disk]]
id = "system"
match = { serial = "S1" }
[[partition]]
id = "root"
disk = "system"
type = "linux"
size = "rest"
[[filesystem]]
volume = "root"
type = "ext4"
mount = "/"
"""
AWAITS = {"ticket_sha256": "ab" * 32, "root": "cd" * 32, "root_uuid": "u", "machine_id": "ef" * 16}
CLONED = {"disk": "/dev/x", "entries": 3}
# What `nodectl clone --json` would say.
GOOD = """
import sys
print('{"event": "StepProgress", "step": "restore", "done": 5, "total": 9}', file=sys.stderr)
print('{"disk": "/dev/x", "entries": 3}')
"""
BAD = """
import sys
print("nodectl: no disk matches", file=sys.stderr)
print("  next: look", file=sys.stderr)
sys.exit(50)
"""
COMES_LATE = """
import pathlib, sys
seen = pathlib.Path(sys.argv[1])
if not seen.exists():
    seen.touch()
    print("nodectl: no controller answers", file=sys.stderr)
    sys.exit(42)
print('{"disk": "/dev/x", "entries": 3}')
"""


@pytest.fixture(autouse=True)
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "mac_addresses", lambda: [MAC])


class Lab:
    """A controller with one machine in its inventory, and its boot service."""

    def __init__(self, controller: Controller, base: str) -> None:
        self.controller = controller
        self.base = base

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(self.base + path, headers=headers) as response,
        ):
            return response.status, await response.text()

    async def arm(self, client: ControlClient, state: str = "cloner") -> int:
        wanted = {"image": "golden", "layout": LAYOUT} if state == "cloner" else {}
        body = {"state": state, "nodes": ["n1"], **wanted}
        return int((await client.ask("POST", "/v1/netboot", body))["job"] or 0)

    async def words(self) -> BootWords:
        """Return what the machine's kernel would be told."""
        _, script = await self.get(f"/ipxe/{MAC.replace(':', '-')}?arch=x86_64")
        line = next(line for line in script.splitlines() if line.startswith("kernel "))
        return parse_words(line.replace("${netX/mac:hexhyp}", MAC.replace(":", "-")))


@contextlib.asynccontextmanager
async def lab_in(folder: Path) -> AsyncIterator[tuple[Lab, ControlClient]]:
    state = new_controller(folder / "c")
    machine = state.installers / "x86_64"
    machine.mkdir(parents=True)
    (machine / "vmlinuz").write_bytes(bytes(range(256)) * 16)
    (machine / "initrd.img").write_bytes(b"initrd")
    (machine / "installer.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    boot = BootWish(
        listen=Address("127.0.0.1", port), installers=state.installers, host="127.0.0.1"
    )
    async with running(state, boot=boot) as controller, controller.operator() as client:
        await client.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={"files": 1})
        await write_inventories(client, [(NodeInventory(name="n1", macs=(MAC,)), 0)])
        yield Lab(controller, f"http://127.0.0.1:{port}"), client


def child(code: str, *words: str) -> CloneArgv:
    def argv(_job: Job, _state: StateFolder, layout: Path) -> Sequence[str]:
        assert layout.read_text() == LAYOUT
        return [sys.executable, "-c", code, *words]

    return argv


QUICK = Patience(tries=3, first_s=0.01)


def test_machines_that_nobody_armed_or_knows_start_from_their_disk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, _):
            for mac in (MAC, "52:54:00:99:99:99", "nonsense", "../../etc/passwd"):
                status, script = await lab.get(f"/ipxe/{mac}")
                assert status in {200, 404}
                assert "ticket" not in script
                assert "kernel" not in script
            status, script = await lab.get(f"/ipxe/{MAC}")
            assert (status, script.splitlines()[0]) == (200, "#!ipxe")

    with caplog.at_level(logging.WARNING):
        run_async(main())
    assert "nobody knows the machine 52:54:00:99:99:99" in caplog.text


def test_kernel_and_first_root_come_whole_or_in_ranges_and_nothing_else_does(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, _):
            assert await lab.get("/installer/x86_64/initrd.img") == (200, "initrd")
            part = await lab.get("/installer/x86_64/initrd.img", Range="bytes=2-3")
            assert part == (206, "it")
            for path in (
                "/", "/installer/x86_64/installer.json", "/installer/x86_64/..%2f..%2fnode.json",
                "/installer/../node.json", "/installer/aarch64/vmlinuz", "/installer/x86_64/",
                "/v1/work", "/realm/realm.key",
            ):  # fmt: skip
                assert (await lab.get(path))[0] == 404, path

    run_async(main())


def test_an_installer_does_what_was_ordered_and_becomes_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            job = await lab.arm(client)
            words = await lab.words()
            assert (words.name, words.mac) == ("n1", MAC)
            seen = Recorder()
            state = StateFolder(tmp_path / "n1")
            receipt = await Installing(words, state, child(GOOD), seen, QUICK).run()
            assert receipt == CLONED
            assert [e.done for e in seen.events if isinstance(e, StepProgress)] == [5]
            assert (await client.job(job)).state is JobState.RUNNING
            # As the child does, which is `nodectl clone --job`.
            async with ControlClient(state.membership()) as installer:
                await installer.report(
                    job, {"state": "applied", "step": "applied", "awaits": AWAITS}
                )
            assert "kernel" not in (await lab.get(f"/ipxe/{MAC}"))[1]
            nodes = {one["name"]: one["role"] for one in await client.nodes()}
            assert nodes["n1"] == Role.NODE
            # The installer's membership is the node's from now on.
            async with ControlClient(state.membership()) as node:
                assert await node.work(since=0, wait_s=0) == []
                await node.publishers()

    run_async(main())


def test_a_clone_that_fails_is_reported_and_the_machine_is_local_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            before = await lab.controller.member(tmp_path / "before", "n1")
            job = await lab.arm(client)
            words = await lab.words()
            with pytest.raises(RestoreFailed, match="no disk matches"):
                await Installing(
                    words, StateFolder(tmp_path / "n1"), child(BAD), Recorder(), QUICK
                ).run()
            view = await client.job(job)
            assert view.state is JobState.FAILED
            row = next(row for row in view.rows if row.work.task is Task.CLONE)
            assert (row.work.step, row.work.sentence) == ("clone", "no disk matches")
            assert row.work.lines[-1] == "  next: look"
            assert "kernel" not in (await lab.get(f"/ipxe/{MAC}"))[1]
            async with ControlClient(before) as node:  # what stands on its disk is a member again
                await node.publishers()

    run_async(main())


def test_a_controller_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            await lab.arm(client)
            words = await lab.words()
            argv = child(COMES_LATE, str(tmp_path / "seen"))
            state = StateFolder(tmp_path / "n1")
            assert await Installing(words, state, argv, Recorder(), QUICK).run() == CLONED

    run_async(main())


def test_a_ticket_that_somebody_else_used_is_refused_and_written_down(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            await lab.arm(client)
            words = await lab.words()
            thief = Installing(words, StateFolder(tmp_path / "t"), child(BAD), Recorder(), QUICK)
            await thief._join()
            real = Installing(words, StateFolder(tmp_path / "n1"), child(GOOD), Recorder(), QUICK)
            with pytest.raises(TokenRefused, match="used already"):
                await real.run()

    run_async(main())
    log = next((tmp_path / "c").rglob("audit*")).read_text()
    assert "boot ticket" in log
    assert "used already" in log
    assert not re.search(r"nodectl1\.[A-Za-z0-9]", log)  # no ticket in it


def test_a_node_that_runs_is_not_handed_a_clone(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            member = await lab.controller.member(tmp_path / "before", "n1")
            await lab.arm(client)
            async with ControlClient(member) as node:
                assert await node.work(since=0, wait_s=0) == []
            with pytest.raises(NetbootRefused, match="no node absent"):
                await client.ask("POST", "/v1/netboot", {
                    "state": "cloner", "nodes": ["n1", "absent"], "image": "golden",
                    "layout": LAYOUT,
                })  # fmt: skip
            await lab.arm(client, "local")
            assert (await client.ask("GET", "/v1/netboot"))["nodes"] == []

    run_async(main())


def test_many_machines_ask_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            await lab.arm(client)
            scripts = await asyncio.gather(*(lab.get(f"/ipxe/{MAC}") for _ in range(40)))
            assert len(set(scripts)) == 1  # one ticket, however often it is asked for

    run_async(main())


def test_what_cannot_be_cloned_arms_no_machine(tmp_path: Path) -> None:
    """An image of a disk, one that is not for the node, none at all, and no layout."""

    async def main() -> None:
        async with lab_in(tmp_path) as (lab, client):
            block = b"a root block of a disk"
            root = Root(blake3(block).digest())
            await client.publish("disk", root, block, kind="block", totals={"bytes": 1})
            body = {"state": "cloner", "nodes": ["n1"], "image": "disk", "layout": LAYOUT}
            with pytest.raises(NetbootRefused, match="no tree"):
                await client.ask("POST", "/v1/netboot", body)
            with pytest.raises(UnknownImage):
                await client.ask("POST", "/v1/netboot", {**body, "image": "absent"})
            with pytest.raises(NetbootRefused, match="on which disks"):
                await client.ask("POST", "/v1/netboot", {**body, "image": "golden", "layout": ""})
            with pytest.raises(PathMissing, match="disklayout"):
                await client.ask(
                    "POST", "/v1/netboot",
                    {**body, "image": "golden", "layout": "", "disklayout": "absent"},
                )  # fmt: skip
            await lab.controller.member(tmp_path / "other", "other")
            await client.set_access("golden", ["other"])
            with pytest.raises(NotAllowed, match="not for n1"):
                await client.ask("POST", "/v1/netboot", {**body, "image": "golden"})
            assert (await client.ask("GET", "/v1/netboot"))["nodes"] == []

    run_async(main())
