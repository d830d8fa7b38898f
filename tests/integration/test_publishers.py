"""Releases signed elsewhere, keys revoked, generations set back: what a node takes and refuses."""

import dataclasses
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from controlling import ROOT, ROOT_BLOCK, Controller, new_controller, run_async, running

from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.publishers import Publishers
from nodectl.errors import ContentInvalid, InvalidInput, NotAllowed
from nodectl.node.client import ControlClient
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.publisher import trusted_keys
from nodectl.trust.realm import load_realm
from nodectl.trust.release import verify_release
from nodectl.trust.sshsig import parse_public_key


def _publishers(controller: Controller, do: str, what: bytes | str) -> None:
    """Change the publishers as `nodectl publisher` does, beside the running controller."""
    with SqliteCatalog(controller.state.catalog) as catalog:
        publishers = Publishers(catalog, load_realm(controller.state.realm), time.time)
        if isinstance(what, bytes):
            assert do == "add"
            publishers.add(what, name="site")
        else:
            publishers.revoke(what)


async def _accepts(state: StateFolder, client: ControlClient) -> bool:
    """Say whether a node takes the release, having asked for the publishers as its agent does."""
    membership = state.pin_publishers(await client.publishers())
    document = (await client.release("golden")).signed.to_json()
    keys = trusted_keys(membership.publishers, client.now_ms() / 1000)
    try:
        verify_release(document, realm=membership.realm_id, publishers=keys)
    except ContentInvalid:
        return False
    return True


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not here")
def test_a_site_keeps_its_key_elsewhere(tmp_path: Path) -> None:
    key, statement = tmp_path / "id", tmp_path / "statement"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)

    def sign(message: bytes) -> str:
        statement.write_bytes(message)
        argv = ["ssh-keygen", "-q", "-Y", "sign", "-n", "nodectl", "-f", str(key), str(statement)]
        subprocess.run(argv, check=True, capture_output=True)
        return statement.with_name("statement.sig").read_text()

    async def main() -> None:
        async with running(new_controller(tmp_path / "c")) as controller:
            member = await controller.member(tmp_path / "n1", "n1")
            state = StateFolder(tmp_path / "n1")
            async with controller.operator() as operator, ControlClient(member) as node:
                made = await operator.publish(
                    "golden", ROOT, ROOT_BLOCK, kind="tree", totals={"files": 1}
                )
                assert await _accepts(state, node)
                armored = sign(made.signed.release.signed_bytes())
                with pytest.raises(ContentInvalid, match="unknown publisher"):
                    await operator.sign("golden", 1, armored)
                public = parse_public_key(key.with_suffix(".pub").read_text())
                _publishers(controller, "add", public)
                with pytest.raises(NotAllowed):
                    await node.sign("golden", 1, armored)
                with pytest.raises(InvalidInput):
                    await operator.sign("golden", 1, "nonsense")
                signed = await operator.sign("golden", 1, armored)
                assert signed.signed.publisher == public
                assert await _accepts(state, node)
                _publishers(controller, "revoke", "realm")
                assert await _accepts(state, node)
                _publishers(controller, "revoke", "site")
                assert not await _accepts(state, node)

    run_async(main())


def test_a_controller_set_back_does_not_bring_a_revoked_key_back(tmp_path: Path) -> None:
    """The database of before the revocation: the node remembers."""

    async def main() -> None:
        state, kept = new_controller(tmp_path / "c"), tmp_path / "kept.sqlite"
        async with running(state) as controller:
            await controller.member(tmp_path / "n1", "n1")
            async with controller.operator() as operator:
                await operator.publish("golden", ROOT, ROOT_BLOCK, kind="tree", totals={})
        shutil.copy(state.catalog, kept)
        node = StateFolder(tmp_path / "n1")
        async with running(state) as controller:
            _publishers(controller, "revoke", "realm")
            async with ControlClient(_at(node, controller)) as client:
                assert not await _accepts(node, client)
        for path in state.folder.glob("catalog.sqlite*"):
            path.unlink()
        shutil.copy(kept, state.catalog)
        async with running(state) as controller, ControlClient(_at(node, controller)) as client:
            assert not (await client.publishers())[0].revoked
            assert not await _accepts(node, client)

    run_async(main())


def _at(state: StateFolder, controller: Controller) -> Membership:
    return dataclasses.replace(state.membership(), controllers=(controller.url,))
