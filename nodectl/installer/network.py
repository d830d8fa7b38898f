"""Brings the network of an installer up, and keeps it: links, then DHCP until it ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from nodectl.background import background
from nodectl.errors import ControllerUnreachable
from nodectl.events import Observer, step
from nodectl.installer import contents
from nodectl.installer.cmdline import (
    BootWords,
    Card,
    Command,
    candidates,
    dhcp_argv,
    is_complete,
    link_steps,
)
from nodectl.run import run, run_lines

_SYS_NET = Path("/sys/class/net")
_LEASES = Path("/run")
_CARDS_S = 30.0  # until the cards are there
_LEASE_S = 90.0  # switches may take half a minute before they pass anything on (STP)
_POLL_S = 0.2
_STEP_S = 20.0


def look_at_cards(sys_net: Path = _SYS_NET) -> tuple[Card, ...]:
    """Return the network cards of this machine, by name, loopback apart."""
    cards = []
    for folder in sorted(sys_net.iterdir()) if sys_net.is_dir() else ():
        with contextlib.suppress(OSError):
            mac = (folder / "address").read_text("ascii").strip().lower()
            if folder.name != "lo" and mac:
                physical = (folder / "device").exists()
                cards.append(Card(name=folder.name, mac=mac, physical=physical))
    return tuple(cards)


@contextlib.asynccontextmanager
async def network_up(words: BootWords, observer: Observer) -> AsyncIterator[None]:
    """Have an address while the context lasts.

    Raises:
        ControllerUnreachable: no card, or no address came.
        CommandFailed: a link cannot be made.
    """
    with step(observer, "find the network card"):
        cards = await _wait_for_cards(words)
    _set_links(words, cards)
    if words.static is not None:
        yield
        return
    names = candidates(words, cards)
    async with background(*(_dhcp(name) for name in names)):
        with step(observer, f"ask for an address on {', '.join(names)}"):
            await _wait_for_lease(names)
        yield


def _set_links(words: BootWords, cards: Sequence[Card]) -> None:
    for each in link_steps(words, cards):
        if isinstance(each, Command):
            run(each.argv, timeout=_STEP_S)
        else:
            Path(each.path).write_text(each.text)
    if words.nameservers:
        lines = "".join(f"nameserver {each}\n" for each in words.nameservers)
        Path("/etc/resolv.conf").write_text(lines)


async def _wait_for_cards(words: BootWords) -> tuple[Card, ...]:
    cards: tuple[Card, ...] = ()
    for _ in range(int(_CARDS_S / _POLL_S)):
        cards = look_at_cards()
        if is_complete(words, cards):
            return cards
        await asyncio.sleep(_POLL_S)
    there = ", ".join(f"{card.name} {card.mac}" for card in cards) or "none"
    raise ControllerUnreachable(
        f"the network card {words.card or words.mac or 'of the command line'} is not there "
        f"(there are: {there})",
        hint="its driver may be missing: make the installer on a system that has it",
    )


async def _dhcp(name: str) -> None:
    """Ask for an address and renew it, for ever."""
    while True:
        await run_lines(dhcp_argv(name, contents.DHCP_SCRIPT_PATH), lambda _line: None)
        await asyncio.sleep(1.0)


async def _wait_for_lease(names: tuple[str, ...]) -> None:
    for _ in range(int(_LEASE_S / _POLL_S)):
        if _has_lease(names):
            return
        await asyncio.sleep(_POLL_S)
    raise ControllerUnreachable(
        f"no DHCP server gave an address to {', '.join(names)} within {_LEASE_S:g} s"
    )


def _has_lease(names: tuple[str, ...]) -> bool:
    return any((_LEASES / f"nodectl-lease-{name}").exists() for name in names)
