"""Switches many machines: a few at a time, one after the other, and looks whether it happened.

A machine that starts draws several times its usual current. So a start is followed by a pause
before the next one begins, and only so many are asked at the same time.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from nodectl.errors import NodectlError, PowerFailed
from nodectl.power import hook, ipmi
from nodectl.power.config import Action, Kind, Target
from nodectl.power.redfish import Redfish

_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How many machines at once, and how long each may take."""

    fan_out: int = 16
    pause_s: float = 0.5  # between two machines that start
    timeout_s: float = 15.0  # of one question
    settle_s: float = 60.0  # until a machine that is switched is on or off


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one machine."""

    node: str
    ok: bool
    is_on: bool | None  # None: nobody knows
    sentence: str  # what was done, or why not


async def switch_all(
    wanted: Sequence[Target], action: Action, pace: Pace, heard: Callable[[Outcome], None]
) -> tuple[Outcome, ...]:
    """Do something with every machine; `heard` gets each outcome as it comes."""
    room = asyncio.Semaphore(pace.fan_out)
    starts = asyncio.Lock()

    async def turn(pause_s: float) -> None:
        async with starts:
            await asyncio.sleep(pause_s)

    async def one(target: Target) -> Outcome:
        async with room:
            try:
                found = await _one(target, action, pace, turn)
            except NodectlError as exc:
                found = Outcome(node=target.node, ok=False, is_on=None, sentence=str(exc))
            heard(found)
            return found

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(target)) for target in wanted]
    return tuple(task.result() for task in tasks)


async def _one(
    target: Target, action: Action, pace: Pace, turn: Callable[[float], Awaitable[None]]
) -> Outcome:
    async with _opened(target, pace.timeout_s) as machine:
        on = await machine.is_on()
        if action is Action.STATUS:
            return Outcome(node=target.node, ok=True, is_on=on, sentence="on" if on else "off")
        if (action is Action.ON and on) or (action is Action.OFF and not on):
            return _done(target, f"was {action} already", on=on)
        # A machine without power has nothing to reset; what is meant is that it starts.
        doing = Action.ON if action in {Action.RESET, Action.CYCLE} and not on else action
        if doing is not Action.OFF:
            await turn(pace.pause_s)
        await machine.switch(doing)
        await _settled(machine, target, on=doing is not Action.OFF, pace=pace)
        was_off = "was off, switched on" if doing is not action else ""
        words = {Action.ON: "switched on", Action.OFF: "switched off"}
        said = was_off or words.get(doing, f"{doing} done")
        return _done(target, said, on=doing is not Action.OFF)


def _done(target: Target, sentence: str, *, on: bool) -> Outcome:
    return Outcome(node=target.node, ok=True, is_on=on, sentence=sentence)


async def _settled(machine: "Redfish | _Blocking", target: Target, *, on: bool, pace: Pace) -> None:
    """Wait until the machine is as it was asked to be.

    Raises:
        PowerFailed: it is not.
    """
    for _ in range(max(1, round(pace.settle_s / _POLL_S))):
        if await machine.is_on() is on:
            return
        await asyncio.sleep(_POLL_S)
    what = "on" if on else "off"
    raise PowerFailed(
        f"{target.node} was asked to be {what}, and is not after {pace.settle_s:g} s",
        hint="look at the machine",
    )


class _Blocking:
    """A machine that is reached by a program which blocks."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        self._by = ipmi if target.bmc.kind is Kind.IPMI else hook
        self._target = target
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def is_on(self) -> bool:
        return await asyncio.to_thread(self._by.is_on, self._target, timeout_s=self._timeout_s)

    async def switch(self, action: Action) -> None:
        await asyncio.to_thread(self._by.switch, self._target, action, timeout_s=self._timeout_s)


def _opened(target: Target, timeout_s: float) -> "Redfish | _Blocking":
    if target.bmc.kind is Kind.REDFISH:
        return Redfish(target, timeout_s=timeout_s)
    return _Blocking(target, timeout_s)
