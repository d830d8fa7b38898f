"""An image that is not for everybody."""

import dataclasses
import json
import shutil
from collections.abc import Awaitable
from pathlib import Path

import pytest
from blake3 import blake3
from commands import Commands
from controlling import LIMITS, ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running

from nodectl.catalog.records import JobKind
from nodectl.errors import NotAllowed, UnknownImage, UnknownNode
from nodectl.ids import Root
from nodectl.node.client import ControlClient
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.token import Role


async def _refused(asking: Awaitable[object]) -> None:
    with pytest.raises(NotAllowed, match="is not for"):
        await asking


def _announced(client: ControlClient) -> Awaitable[object]:
    return client.announce(ROOT, url="http://127.0.0.1:1", have_bytes=1, complete=True)


def _client(member: Membership, controller: Controller) -> ControlClient:
    there = dataclasses.replace(member, controllers=(controller.url,))
    return ControlClient(there, limits=LIMITS)


async def _has(client: ControlClient) -> None:
    await client.release("payroll")
    await client.release("payroll", 1)
    assert "payroll" in [one.signed.release.name for one in await client.releases()]
    await client.ticket(ROOT)
    await _announced(client)


async def _has_not(client: ControlClient) -> None:
    for asking in (
        client.release("payroll"),
        client.release("payroll", 1),
        client.ticket(ROOT),
        _announced(client),
    ):
        await _refused(asking)
    assert "payroll" not in [one.signed.release.name for one in await client.releases()]
    assert await client.releases("payroll") == []


async def _may_not_say(client: ControlClient) -> None:
    for asking in (client.access("payroll"), client.set_access("payroll", None)):
        with pytest.raises(NotAllowed):
            await asking


def test_an_image_for_some_is_for_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            n1 = await controller.member(tmp_path / "n1", "n1")
            n2 = await controller.member(tmp_path / "n2", "n2")
            other = await controller.member(tmp_path / "o1", "o1", role=Role.OPERATOR)
            async with (
                controller.operator() as operator,
                _client(n1, controller) as one,
                _client(n2, controller) as two,
                _client(other, controller) as three,
            ):
                await operator.publish("payroll", ROOT, ROOT_BLOCK, kind="tree", totals={})
                assert await operator.access("payroll") is None
                await _has(one)
                await _has(two)
                key = (await two.ticket(ROOT)).swarm_key
                await operator.set_access("payroll", ["n1"])
                assert await operator.access("payroll") == ["n1"]
                await _has(one)
                await _has_not(two)
                await _has(three)  # an operator
                assert (await one.ticket(ROOT)).swarm_key != key  # what n2 knows opens nothing
                with pytest.raises(NotAllowed, match="payroll is not for n2; no job was made"):
                    await operator.create_job(JobKind.FETCH, "payroll", ["n1", "n2"])
                assert await operator.jobs() == []
                await _may_not_say(one)
                with pytest.raises(UnknownNode, match="nothing was changed"):
                    await operator.set_access("payroll", ["n1", "nobody"])
                with pytest.raises(UnknownImage):
                    await operator.set_access("golden", [])
                await operator.set_access("payroll", [])
                await _has_not(one)
                await operator.set_access("payroll", None)
                await _has(two)

    run_async(main())


def test_the_same_root_under_an_open_name_is_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            n1 = await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator, _client(n1, controller) as one:
                await operator.publish("open", ROOT, ROOT_BLOCK, kind="tree", totals={})
                await operator.publish("payroll", ROOT, ROOT_BLOCK, kind="tree", totals={})
                await operator.set_access("payroll", [])
                await one.ticket(ROOT)
                await _refused(one.release("payroll"))
                await operator.set_access("open", [])
                await _refused(one.ticket(ROOT))

    run_async(main())


def test_an_installer_gets_what_a_job_names_it_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            i1 = await controller.member(tmp_path / "i1", "i1", role=Role.INSTALLER)
            async with controller.operator() as operator, _client(i1, controller) as installer:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
                block = b"another"
                root = Root(blake3(block).digest())
                await operator.publish("other", root, block, kind="tree", totals={})
                await _refused(installer.ticket(ROOT))
                await operator.create_job(JobKind.FETCH, "golden", ["i1"])
                await installer.ticket(ROOT)
                await installer.release("golden")
                await _refused(installer.ticket(root))
                await _refused(installer.release("other"))

    run_async(main())


def test_who_has_the_name_of_a_removed_node_has_not_its_images(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator:
                await operator.publish("payroll", ROOT, ROOT_BLOCK, kind="tree", totals={})
                await operator.set_access("payroll", ["n1"])
                await operator.remove_node("n1")
                again = await controller.member(tmp_path / "again", "n1")
                async with _client(again, controller) as one:
                    await _refused(one.ticket(ROOT))

    run_async(main())


def test_a_catalog_that_was_set_back_does_not_open_an_image(tmp_path: Path) -> None:
    async def main() -> None:
        state, kept = new_controller(tmp_path / "c"), tmp_path / "kept.sqlite"
        n1 = StateFolder(tmp_path / "n1")
        async with running(state) as controller:
            await controller.member(n1.folder, "n1")
            async with controller.operator() as operator:
                await operator.publish("payroll", ROOT, ROOT_BLOCK, kind="tree", totals={})
        shutil.copy(state.catalog, kept)
        async with running(state) as controller, controller.operator() as operator:
            await operator.set_access("payroll", [])
        for path in state.folder.glob("catalog.sqlite*"):
            path.unlink()
        shutil.copy(kept, state.catalog)
        async with running(state) as controller, _client(n1.membership(), controller) as one:
            await _refused(one.ticket(ROOT))

    run_async(main())


def test_the_command_shows_and_says_whom_an_image_is_for(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    try:
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "a").touch()
        commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
        commands.ok("c", "image", "capture", "g", "--tree", str(tmp_path / "tree"))
        commands.serve("c", "--controller")
        assert commands.ok("c", "image", "access", "g") == "g is for every node of the realm\n"
        assert commands.ok("c", "image", "access", "g", "--nodes", "c") == "g is for operators, c\n"
        commands.fails("c", 45, "image", "access", "g", "--nodes", "nobody")
        commands.fails("c", 14, "image", "access", "g", "--nodes", "c", "--all")
        commands.fails("c", 28, "image", "access", "golden")
        said = commands.ok("c", "image", "access", "g", "--nodes", "", "--json")
        assert json.loads(said) == {"name": "g", "nodes": []}
        assert json.loads(commands.ok("c", "image", "access", "g", "--all", "--json")) == {
            "name": "g",
            "nodes": None,
        }
        assert '"image access"' in commands.ok("c", "audit", "show", "--json")
    finally:
        commands.end()
