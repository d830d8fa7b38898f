"""Power by IPMI over LAN: ipmitool(1)."""

from pathlib import Path

from nodectl.errors import CommandFailed, PowerFailed
from nodectl.power.config import Action, Target
from nodectl.run import run

_WORDS = {Action.ON: "on", Action.OFF: "off", Action.RESET: "reset", Action.CYCLE: "cycle"}
_TRIES = 2
_PAUSE_S = 2


def command(target: Target, *words: str) -> list[str]:
    """Return the command line; the password is read by ipmitool from its file."""
    bmc = target.bmc
    return [
        "ipmitool", "-I", "lanplus", "-H", target.address, "-p", str(bmc.port), "-U", bmc.user,
        "-f", bmc.password_file, "-C", str(bmc.cipher), "-R", str(_TRIES), "-N", str(_PAUSE_S),
        *words,
    ]  # fmt: skip


def is_on(target: Target, *, timeout_s: float) -> bool:
    """Ask whether a machine has power.

    Raises:
        PowerFailed: its management controller does not answer, or refuses.
    """
    said = _asked(target, "chassis", "power", "status", timeout_s=timeout_s).strip().lower()
    for word, on in (("power is on", True), ("power is off", False)):
        if word in said:
            return on
    raise PowerFailed(f"{target.address} says neither on nor off: {said[:80]!r}")


def switch(target: Target, action: Action, *, timeout_s: float) -> None:
    """Ask a machine for something.

    Raises:
        PowerFailed: as `is_on`.
    """
    _asked(target, "chassis", "power", _WORDS[action], timeout_s=timeout_s)


def _asked(target: Target, *words: str, timeout_s: float) -> str:
    if not Path(target.bmc.password_file).is_file():
        raise PowerFailed(f"there is no password file {target.bmc.password_file}")
    try:
        done = run(command(target, *words), timeout=timeout_s)
    except CommandFailed as exc:
        reason = str(exc).splitlines()[-1].strip()
        raise PowerFailed(f"{target.address}: {reason}") from exc
    return done.stdout.decode("utf-8", "replace")
