"""The controller's database is replaced by an older copy of itself."""

import dataclasses
import shutil
import time
from pathlib import Path

import pytest
from controlling import LIMITS, ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running

from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.audit import realm_audit
from nodectl.errors import NotAllowed, TokenRefused
from nodectl.node.client import ControlClient
from nodectl.node.join import join
from nodectl.node.state import StateFolder
from nodectl.trust.realm import load_realm


def _set_back(state: StateFolder, kept: Path) -> None:
    for path in state.folder.glob("catalog.sqlite*"):
        path.unlink()
    shutil.copy(kept, state.catalog)


async def _releases(member: StateFolder, controller: Controller) -> int:
    there = dataclasses.replace(member.membership(), controllers=(controller.url,))
    async with ControlClient(there, limits=LIMITS) as client:
        return len(await client.releases())


def test_a_removed_node_stays_out_and_a_used_token_stays_used(tmp_path: Path) -> None:
    async def main() -> None:
        state, kept = new_controller(tmp_path / "c"), tmp_path / "kept.sqlite"
        n1, n2 = StateFolder(tmp_path / "n1"), StateFolder(tmp_path / "n2")
        async with running(state) as controller:
            await controller.member(n1.folder, "n1")
            token = controller.token()
        shutil.copy(state.catalog, kept)
        async with running(state) as controller:
            await join(n2, dataclasses.replace(token, urls=(controller.url,)), name="n2")
            async with controller.operator() as operator:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
                key = (await operator.ticket(ROOT)).swarm_key
                await operator.remove_node("n1")
        _set_back(state, kept)
        async with running(state) as controller:
            with pytest.raises(NotAllowed):
                await _releases(n1, controller)
            again = dataclasses.replace(token, urls=(controller.url,))
            with pytest.raises(TokenRefused, match="used already"):
                await join(StateFolder(tmp_path / "n3"), again, name="n3", limits=LIMITS)
            async with controller.operator() as operator:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
                assert (await operator.ticket(ROOT)).swarm_key != key
        with SqliteCatalog(state.catalog) as catalog:
            audit = realm_audit(load_realm(state.realm), state.realm, catalog, time.time)
            audit.verify()
            assert "catalog was set back" in {entry["what"] for entry in audit.entries()}

    run_async(main())


def test_a_node_refuses_the_generation_of_before(tmp_path: Path) -> None:
    """Its own memory of the highest generation is on its own disk, and survives restarts."""
    state = StateFolder(tmp_path)
    state.see_generation("golden", 2)
    assert StateFolder(tmp_path).seen_generation("golden") == 2
    state.see_generation("golden", 1)
    assert StateFolder(tmp_path).seen_generation("golden") == 2
