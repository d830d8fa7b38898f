"""The realm's CA is changed while its members go on."""

import asyncio
import dataclasses
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from controlling import LIMITS, Controller, new_controller, run_async, running

from nodectl.errors import AlreadyThere, ControllerUnreachable, InvalidInput
from nodectl.node.client import ControlClient
from nodectl.node.renew import renew
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import CONTROLLER_NAME, Credential, client_context
from nodectl.trust.certificate import load_identity
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


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():  # noqa: ASYNC110 - the controller looks once a second
        await asyncio.sleep(0.1)


async def _ca_of(controller: Controller, trusted: str) -> bool:
    """Say whether the controller shows a certificate of these CAs."""
    tls = client_context(trusted.encode())
    try:
        _, writer = await asyncio.open_connection(
            "127.0.0.1", controller.port, ssl=tls, server_hostname=CONTROLLER_NAME
        )
    except ssl.SSLError:
        return False
    writer.close()
    return True


def test_members_go_from_one_ca_to_the_next_and_nobody_else(tmp_path: Path) -> None:
    """All of it under one controller, which is not started again."""

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
            await _until(lambda: _live(n1, controller))
            joined = await controller.member(tmp_path / "n3", "n3")  # in the middle of it
            assert await _live(state, controller)
            assert not await _live(n1, controller)
            assert old_ca.decode() in n1.membership().ca_pem
            new_ca = n1.membership().ca_pem.removeprefix(old_ca.decode())
            assert not await _ca_of(controller, new_ca)
            finish_rotation(state.realm)
            with pytest.raises(InvalidInput):
                finish_rotation(state.realm)
            await _until(lambda: _ca_of(controller, new_ca))
            assert await _live(n1, controller)
            assert await _live(StateFolder(tmp_path / "n3"), controller)
            assert joined.ca_pem != n1.membership().ca_pem
            assert old_ca.decode() not in n1.membership().ca_pem
            for late in (before, slept):  # they know only the old one
                assert "not the controller of this realm" in await _shut_out(late, controller)
            # Who trusts the new CA, and shows a certificate of the old one.
            stolen = dataclasses.replace(before, ca_pem=n1.membership().ca_pem)
            assert await _shut_out(stolen, controller)
            # The same from one that names no server.
            assert await _greeted_without_name(controller, new_ca, stolen.identity) == b""
            await controller.member(tmp_path / "n4", "n4")
        async with running(state) as controller:  # and over a restart
            assert not await _live(n1, controller)
            assert await _shut_out(stolen, controller)

    run_async(main())


async def _greeted_without_name(controller: Controller, ca: str, identity: Credential) -> bytes:
    """Ask over a connection without a server name; return what came."""
    tls = client_context(ca.encode())
    tls.check_hostname = False
    load_identity(tls, identity)
    reader, writer = await asyncio.open_connection("127.0.0.1", controller.port, ssl=tls)
    try:
        writer.write(b"GET /v1/work HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.read(100)
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        writer.close()
