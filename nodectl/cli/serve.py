"""`nodectl serve`: peer and agent of this machine, and with --controller the control API."""

import asyncio
import contextlib
import dataclasses
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from nodectl.cli.membership import JsonOption, StateOption, open_state, size_option
from nodectl.cli.swarm import NO_LIMIT, parse_rate

if TYPE_CHECKING:
    from nodectl.listen import Address
    from nodectl.node.state import Membership, StateFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the command line asks for."""

    controller: bool
    listen: "Address"
    peer_listen: "Address"
    scrub_rate: int  # bytes/s, 0: no scrub
    boot_listen: "Address | None"  # None: no machine starts from here
    host: str  # under which others reach this machine, empty: find out
    upload_rate: int | None  # bytes/s
    download_rate: int | None
    json_output: bool


_PeerListen = Annotated[
    str, typer.Option("--peer-listen", metavar="ADDR:PORT", help="Of the peer, HTTP.")
]
_BootListen = Annotated[
    str,
    typer.Option(
        "--boot-listen",
        metavar="ADDR:PORT",
        help="With --controller: where machines that start fetch their scripts and installer, "
        "HTTP, such as 10.0.0.1:7445 [they do not].",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(serve)


def serve(
    controller: Annotated[
        bool, typer.Option("--controller", help="Also run the controller of the realm.")
    ] = False,
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="ADDR:PORT", help="Of the controller, HTTPS [as init was told]."
        ),
    ] = "",
    peer_listen: _PeerListen = "0.0.0.0:7444",
    boot_listen: _BootListen = "",
    advertise: Annotated[
        str,
        typer.Option(
            "--advertise", metavar="HOST", help="Name or address of this machine for others."
        ),
    ] = "",
    scrub_rate: Annotated[
        str, typer.Option("--scrub-rate", help="Bytes a second read to check the store.")
    ] = "20M",
    no_scrub: Annotated[
        bool, typer.Option("--no-scrub", help="Do not check the store in the background.")
    ] = False,
    upload_rate: Annotated[
        str, typer.Option("--upload-rate", metavar="SIZE", help="Bytes/s to peers, such as 50M.")
    ] = NO_LIMIT,
    download_rate: Annotated[
        str, typer.Option("--download-rate", metavar="SIZE", help="Bytes/s from peers.")
    ] = NO_LIMIT,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Serve images to other nodes and do the jobs for this one, until SIGTERM or Ctrl-C.

    Beside that it reads the whole store back once a week; nodectl store status shows the result.

    Port 0 takes a free one. When everything listens it prints where; with --json that is one line
    {"ready": true, "control_url": ..., "peer_url": ...}.
    The rates are for all swarms together; `nodectl swarm limit` changes them meanwhile.

    Exit codes: 14 a wrong address or rate, 25 it serves already, 32 a port is in use, 40 no member,
    or no controller.
    """
    from nodectl.listen import CONTROL_PORT, PEER_PORT, parse_address

    folder = open_state(state)
    chosen = listen or folder.membership().listen
    wanted = _Wanted(
        controller=controller,
        listen=parse_address(chosen, default_port=CONTROL_PORT),
        peer_listen=parse_address(peer_listen, default_port=PEER_PORT),
        boot_listen=_boot_address(boot_listen, controller=controller),
        scrub_rate=0 if no_scrub else size_option(scrub_rate, "--scrub-rate"),
        host=_host_of(advertise),
        upload_rate=parse_rate(upload_rate),
        download_rate=parse_rate(download_rate),
        json_output=json_output,
    )
    asyncio.run(_serve(folder, wanted))


def _boot_address(text: str, *, controller: bool) -> "Address | None":
    from nodectl.errors import InvalidInput
    from nodectl.listen import BOOT_PORT, parse_address

    if text and not controller:
        raise InvalidInput("--boot-listen is for the controller", hint="add --controller")
    return parse_address(text, default_port=BOOT_PORT) if text else None


def _host_of(advertise: str) -> str:
    """Return the host of "HOST" or "SCHEME://HOST[:PORT]"."""
    from nodectl.listen import parse_address

    return parse_address(advertise.rpartition("://")[2], default_port=0).host if advertise else ""


async def _serve(state: "StateFolder", wanted: _Wanted) -> None:
    from nodectl.background import background
    from nodectl.cli.reseal import reseal_argv
    from nodectl.cli.restore_argv import restore_argv
    from nodectl.listen import own_address
    from nodectl.node.agent import Agent
    from nodectl.node.client import ControlClient
    from nodectl.node.local import local_control
    from nodectl.node.resealing import reseal_forever
    from nodectl.node.storelife import scrub_forever
    from nodectl.node.swarming import NodeSwarm, listening_swarm
    from nodectl.store.disk import DiskStore

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        membership = state.membership()
        stack.enter_context(state.serving())
        if wanted.controller:
            membership = await stack.enter_async_context(_controller(state, membership, wanted))
        client = await stack.enter_async_context(ControlClient(membership))
        store = stack.enter_context(DiskStore(state.store))
        # Not the address by which this process reaches its own controller: that may be loopback.
        towards = _controller_host(state.membership())
        swarm = await stack.enter_async_context(
            listening_swarm(
                NodeSwarm(client, membership, store),
                wanted.peer_listen,
                lambda bound: wanted.host or own_address(bound, towards=towards),
            )
        )
        swarm.upload.change(wanted.upload_rate)
        swarm.download.change(wanted.download_rate)
        await stack.enter_async_context(local_control(state.folder, swarm))
        agent = Agent(state, client, swarm, peer_url=swarm.url, restore_argv=restore_argv)
        works = [agent.run(), reseal_forever(state, reseal_argv(state))]
        if wanted.scrub_rate:
            works.append(scrub_forever(state.store, wanted.scrub_rate))
        await stack.enter_async_context(background(*works))
        _print_ready(state.membership(), swarm.url, wanted)
        await stop.wait()


@contextlib.asynccontextmanager
async def _controller(
    state: "StateFolder", membership: "Membership", wanted: _Wanted
) -> AsyncIterator["Membership"]:
    """Run the controller; yields a membership that reaches it on this machine."""
    from nodectl.catalog.sqlite import SqliteCatalog
    from nodectl.controller.serve import BootWish, control_server
    from nodectl.listen import Address, own_address

    with SqliteCatalog(state.catalog) as catalog:
        boot = None
        if wanted.boot_listen is not None:
            boot = BootWish(
                listen=wanted.boot_listen,
                installers=state.installers,
                host=wanted.host or own_address(wanted.boot_listen),
            )
        async with control_server(catalog, state.realm, wanted.listen, boot=boot) as bound:
            url = Address(wanted.host or own_address(bound), bound.port).url("https")
            if membership.controllers != (url,):
                # Tokens and commands on this machine take the URL from here.
                state.write_membership(dataclasses.replace(membership, controllers=(url,)))
            local = Address(own_address(bound, towards="127.0.0.1"), bound.port).url("https")
            yield dataclasses.replace(membership, controllers=(local,))


def _controller_host(membership: "Membership") -> str:
    from urllib.parse import urlsplit

    return urlsplit(membership.controllers[0]).hostname or "" if membership.controllers else ""


def _print_ready(membership: "Membership", peer_url: str, wanted: _Wanted) -> None:
    control_url = membership.controllers[0] if membership.controllers else ""
    if wanted.json_output:
        ready = {"ready": True, "node": membership.node, "control_url": control_url}
        print(json.dumps({**ready, "peer_url": peer_url}), flush=True)
        return
    if wanted.controller:
        print(f"the controller of {membership.realm_name} is ready at {control_url}", flush=True)
    print(f"{membership.node} is ready; it serves images at {peer_url}", flush=True)
