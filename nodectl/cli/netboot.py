"""`nodectl netboot`: what machines start, and the DHCP server that tells them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.boot.model import BootOrder
from nodectl.cli.membership import JsonOption, StateOption, ask, open_state
from nodectl.cli.nodes import node_names

if TYPE_CHECKING:
    from nodectl.node.client import ControlClient

netboot_app = typer.Typer(
    help="What machines start from the network: an installer, or nothing.",
    invoke_without_command=True,
)
LOCAL, CLONER = "local", "cloner"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(netboot_app, name="netboot")


@netboot_app.callback()
def netboot(
    context: typer.Context,
    nodes: Annotated[
        str, typer.Option("--nodes", help="Such as node[01-40],@gpu!n07, or: all.")
    ] = "",
    to: Annotated[str, typer.Option("--set", metavar="STATE", help="local or cloner.")] = "",
    image: Annotated[
        str, typer.Option("--image", help="With cloner: NAME or NAME@GENERATION [the node's own].")
    ] = "",
    layout: Annotated[
        Path | None, typer.Option("--layout", help="With cloner: the disk layout (TOML).")
    ] = None,
    disklayout: Annotated[
        str,
        typer.Option("--disklayout", help="Or the name of a stored one [the node's or image's]."),
    ] = "",
    boot_order: Annotated[
        BootOrder, typer.Option("--boot-order", help="What the firmware tries first afterwards.")
    ] = BootOrder.LEAVE,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Show which machines start an installer, or say what some start next.

    A machine that is set to cloner clones the image onto its disks when it starts next, and is
    local again afterwards, whatever came of it; `nodectl job watch` follows it. One that is set to
    local starts from its own disk. The disks of a clone are OVERWRITTEN without a further question.

    Exit codes: 14 wrong options, 28 no such image, 42 the controller does not answer, 43 no
    operator, 53 the layout has mistakes, 92 no installer, or not of this nodectl, 93 a machine
    cannot be armed (then none was).
    """
    if context.invoked_subcommand is not None:
        return
    from nodectl.errors import InvalidInput

    if not nodes and not to:
        _show(state, json_output=json_output)
        return
    if not nodes or to not in {LOCAL, CLONER}:
        raise InvalidInput(
            "netboot needs --nodes and --set local or --set cloner",
            hint="nodectl netboot --nodes node01 --set cloner --image golden",
        )
    wish = _Wish(
        nodes=nodes, to=to, image=image, layout=layout, disklayout=disklayout, order=boot_order
    )
    answer = ask(state, lambda client: _set(client, state, wish))
    if json_output:
        print(json.dumps(answer))
    elif to == LOCAL:
        print(f"local: {', '.join(answer['nodes']) or 'nothing was armed'}")
    else:
        print(f"armed: {', '.join(answer['nodes'])}: job {answer['job']}")
        print(f"next: start them; nodectl job watch {answer['job']} follows")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the command line asks for."""

    nodes: str
    to: str
    image: str
    layout: Path | None
    disklayout: str
    order: BootOrder


async def _set(client: "ControlClient", state: Path | None, wish: _Wish) -> dict[str, Any]:
    from nodectl.errors import InvalidInput, PathMissing

    names = await node_names(client, wish.nodes, joined=False)
    if wish.to == LOCAL:
        return await client.ask("POST", "/v1/netboot", {"state": LOCAL, "nodes": names})
    _check_installer(state)
    image = wish.image or await _image_of(client, names)
    name, _, number = image.partition("@")
    if number and not number.isdecimal():
        raise InvalidInput(f"not an image: {image!r}", hint="examples: golden, golden@3")
    try:
        text = "" if wish.layout is None else wish.layout.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise PathMissing(f"the layout {wish.layout} cannot be read: {exc}") from exc
    body = {
        "state": CLONER,
        "nodes": names,
        "image": name,
        "generation": int(number) if number else None,
        "layout": text,
        "disklayout": wish.disklayout,
        "boot_order": wish.order.value,
    }
    return await client.ask("POST", "/v1/netboot", body)


async def _image_of(client: "ControlClient", names: list[str]) -> str:
    """Return the one image that the inventory says of some nodes."""
    from nodectl.errors import InvalidInput
    from nodectl.node.inventory import inventories_of

    images = {one.image for one, _ in await inventories_of(client, names)}
    if len(images) != 1 or "" in images:
        raise InvalidInput(
            "the inventory does not say one image for these nodes",
            hint="name it with --image, or: nodectl node set NODES --image NAME",
        )
    return images.pop()


def _check_installer(state: Path | None) -> None:
    """Refuse to arm a machine on a controller whose installers are absent or outdated.

    Raises:
        InstallerUnfit: so they are.
    """
    from nodectl.errors import InstallerUnfit
    from nodectl.installer.make import read_installer
    from nodectl.installer.model import check_same
    from nodectl.zipapp.identity import SOURCE, identity

    folder = open_state(state)
    if not folder.realm.exists():
        return  # an operator's machine: the controller says it to the machine that starts
    found = sorted(folder.installers.iterdir()) if folder.installers.is_dir() else []
    installers = [path for path in found if not path.name.startswith(".")]
    if not installers:
        raise InstallerUnfit(
            f"there is no installer in {folder.installers}",
            hint="make one: nodectl cloner make-installer",
        )
    me = identity()
    for path in installers:
        made = read_installer(path)
        if me.build_id != SOURCE:
            check_same(made, me.build_id, me.version)


def _show(state: Path | None, *, json_output: bool) -> None:
    answer = ask(state, lambda client: client.ask("GET", "/v1/netboot"))
    if json_output:
        print(json.dumps(answer))
        return
    from nodectl.cli.table import table

    rows = [
        (one["node"], one["state"], f"{one['image']} {one['generation']}", str(one["job"]),
         one["at"])
        for one in answer["nodes"]
    ]  # fmt: skip
    print(table(("NODE", "NETBOOT", "IMAGE", "JOB", ""), rows))


@netboot_app.command("dnsmasq")
def netboot_dnsmasq(
    interface: Annotated[str, typer.Option("--interface", help="Of the network of the machines.")],
    boot_url: Annotated[
        str, typer.Option("--boot-url", metavar="http://HOST:PORT", help="As --boot-listen has it.")
    ],
    addresses: Annotated[
        str, typer.Option("--range", metavar="FIRST,LAST", help="Addresses to give away.")
    ] = "",
    proxy: Annotated[
        str,
        typer.Option("--proxy", metavar="NETWORK", help="Beside another DHCP server: 10.0.0.0."),
    ] = "",
    gateway: Annotated[str, typer.Option("--gateway", help="Of the machines [none].")] = "",
    tftp: Annotated[
        str, typer.Option("--tftp", metavar="DIR", help="Where undionly.kpxe and snponly.efi are.")
    ] = "/usr/lib/ipxe",
) -> None:
    """Print a configuration of dnsmasq for a network that machines start from.

    With --range dnsmasq is the DHCP server of that network; with --proxy it stands beside the one
    that is there and only says how to start.

    Exit codes: 14 wrong options.
    """
    from nodectl.errors import InvalidInput
    from nodectl.listen import BOOT_PORT, parse_url
    from nodectl.netboot.dnsmasq import DnsmasqWish, dnsmasq_text

    first, comma, last = addresses.partition(",")
    if addresses and not comma:
        raise InvalidInput(f"--range: {addresses[:80]!r} is not FIRST,LAST")
    wish = DnsmasqWish(
        interface=interface,
        boot_url=parse_url(boot_url, scheme="http", default_port=BOOT_PORT),
        tftp=tftp,
        first=first.strip(),
        last=last.strip(),
        network=proxy,
        gateway=gateway,
    )
    print(dnsmasq_text(wish), end="")
