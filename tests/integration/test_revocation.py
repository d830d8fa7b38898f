"""`node remove`, from end to end: real processes, and a removed node that goes on asking."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from commands import Commands

from nodectl.node.state import HeldRoot, StateFolder
from nodectl.trust.mac import Signed, sign_request

WITHIN_S = 60  # that it takes less than a minute is the promise


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    made = Commands(tmp_path)
    yield made
    made.end()


async def _status(url: str, held: HeldRoot, path: str) -> int:
    target = f"/v1/swarm/{held.root.hex()}/data{path}"
    now_ms = int(time.time() * 1000)
    header = sign_request(Signed("GET", target), client="gone", key=held.swarm_key, unix_ms=now_ms)
    async with (
        aiohttp.ClientSession() as session,
        session.get(url + target, headers={"Authorization": header}) as answer,
    ):
        await answer.read()
        return answer.status


async def _until_refused(url: str, held: HeldRoot) -> None:
    async with asyncio.timeout(WITHIN_S):
        paths = ("/have", "/spans/0?urgent=1")
        while {await _status(url, held, path) for path in paths} != {401}:  # noqa: ASYNC110 - the peer hears of it when it announces
            await asyncio.sleep(0.5)


@pytest.mark.slow
def test_a_removed_node_is_out_of_both_planes_within_a_minute(
    commands: Commands, tmp_path: Path
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(bytes(range(256)) * 5000)
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    _, controller = commands.serve("c", "--controller")
    token = commands.ok("c", "token", "create", "--uses", "2").strip()
    for node in ("n1", "gone"):
        commands.ok(node, "join", "--token", token, "--name", node)
    _, stays = commands.serve("n1")
    goes, _ = commands.serve("gone")
    commands.ok("c", "image", "capture", "g", "--tree", str(tmp_path / "tree"))
    commands.ok("c", "swarm", "push", "g", "--nodes", "n1,gone")
    goes.kill()  # from now on it is ours, with all that it had
    (held,) = StateFolder(tmp_path / "gone").held_roots()
    for url in (controller["peer_url"], stays["peer_url"]):
        assert asyncio.run(_status(url, held, "/spans/0?urgent=1")) == 200

    commands.ok("c", "node", "remove", "gone")
    commands.fails("gone", 43, "image", "list")  # at once
    for url in (controller["peer_url"], stays["peer_url"]):
        asyncio.run(_until_refused(url, held))
    # Those who stay hear the new key, and go on.
    commands.ok("c", "swarm", "push", "g", "--nodes", "n1")
    (kept,) = StateFolder(tmp_path / "n1").held_roots()
    assert kept.swarm_key != held.swarm_key
    assert asyncio.run(_status(stays["peer_url"], kept, "/spans/0?urgent=1")) == 200
