"""Power by a site's own program: a PDU, a hypervisor, a relay.

It is called with its words in which {node}, {bmc} and {action} stand for theirs; status 0 means
done. Asked for `status` it prints on or off.
"""

from nodectl.errors import CommandFailed, PowerFailed, ToolMissing
from nodectl.power.config import Action, Target
from nodectl.run import run


def command(target: Target, action: Action) -> list[str]:
    """Return the command line."""
    values = {"{node}": target.node, "{bmc}": target.address, "{action}": action.value}
    words = []
    for word in target.bmc.command:
        filled = word
        for name, value in values.items():
            filled = filled.replace(name, value)
        words.append(filled)
    return words


def is_on(target: Target, *, timeout_s: float) -> bool:
    """Ask whether a machine has power.

    Raises:
        PowerFailed: the program failed, or said neither.
    """
    said = _called(target, Action.STATUS, timeout_s=timeout_s).strip().lower()
    if said not in {"on", "off"}:
        raise PowerFailed(f"{target.bmc.command[0]} says neither on nor off: {said[:80]!r}")
    return said == "on"


def switch(target: Target, action: Action, *, timeout_s: float) -> None:
    """Ask a machine for something.

    Raises:
        PowerFailed: the program failed.
    """
    _called(target, action, timeout_s=timeout_s)


def _called(target: Target, action: Action, *, timeout_s: float) -> str:
    try:
        done = run(command(target, action), timeout=timeout_s)
    except (CommandFailed, ToolMissing) as exc:
        raise PowerFailed(" ".join(str(exc).split())) from exc
    return done.stdout.decode("utf-8", "replace")
