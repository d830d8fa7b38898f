"""The realm's CA is changed while its members go on."""

import dataclasses
from pathlib import Path

import pytest
from controlling import LIMITS, Controller, new_controller, run_async, running

from nodectl.errors import AlreadyThere, ControllerUnreachable, InvalidInput
from nodectl.node.client import ControlClient
from nodectl.node.renew import renew
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.realm import begin_rotation, finish_rotation, load_realm


def _at(membership: Membership, controller: Controller) -> Membership:
    return dataclasses.replace(membership, controllers=(controller.url,))


async def _live(state: StateFolder, controller: Controller) -> bool:
    """Ask something as an agent does, renewing when it is wanted; say whether it was."""
    async with ControlClient(_at(state.membership(), controller), limits=LIMITS) as client:
        await client.releases()
        wanted = client.renewal_due
        if wanted:
            await renew(state, client)
            await client.releases()
            assert not client.renewal_due
        return wanted


async def _shut_out(membership: Membership, controller: Controller) -> str:
    """Ask something that must fail; return the sentence."""
    async with ControlClient(_at(membership, controller), limits=LIMITS) as client:
        with pytest.raises(ControllerUnreachable) as caught:
            await client.releases()
    return str(caught.value)


def test_members_go_from_one_ca_to_the_next_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        state, n1 = new_controller(tmp_path / "c"), StateFolder(tmp_path / "n1")
        old_ca = load_realm(state.realm).authority.certificate
        async with running(state) as controller:
            before = await controller.member(n1.folder, "n1")
            slept = await controller.member(tmp_path / "n2", "n2")
            assert not await _live(n1, controller)
        begin_rotation(state.realm)
        with pytest.raises(AlreadyThere):
            begin_rotation(state.realm)
        async with running(state) as controller:
            joined = await controller.member(tmp_path / "n3", "n3")  # in the middle of it
            assert await _live(n1, controller)
            assert await _live(state, controller)
            assert not await _live(n1, controller)
        assert old_ca.decode() in n1.membership().ca_pem
        finish_rotation(state.realm)
        with pytest.raises(InvalidInput):
            finish_rotation(state.realm)
        async with running(state) as controller:
            assert await _live(n1, controller)
            assert await _live(StateFolder(tmp_path / "n3"), controller)
            assert joined.ca_pem != n1.membership().ca_pem
            assert old_ca.decode() not in n1.membership().ca_pem
            for late in (before, slept):  # they know only the old one
                assert "not the controller of this realm" in await _shut_out(late, controller)
            # Who trusts the new CA, and shows a certificate of the old one.
            stolen = dataclasses.replace(before, ca_pem=n1.membership().ca_pem)
            assert await _shut_out(stolen, controller)
            await controller.member(tmp_path / "n4", "n4")

    run_async(main())
