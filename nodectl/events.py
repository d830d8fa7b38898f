"""Progress as a stream of small records: long work tells an `Observer`, and never prints.

`cli/progress.py` has the three readers: bars on a terminal, plain lines, JSON lines.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """A step of the work began."""

    step: str
    total: int | None = None  # bytes, where known
    node: str = ""  # empty: this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """How far a step has come."""

    step: str
    done: int  # bytes since the step began
    total: int | None = None  # bytes, where known
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A step ended well."""

    step: str
    seconds: float
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One sentence that the user should see now; the work goes on."""

    text: str
    node: str = ""


Event = StepStarted | StepProgress | StepFinished | Note


class Observer(Protocol):
    """Whoever wants to know."""

    def on(self, event: Event) -> None:
        """Take one event; must not block and must not raise."""


class NullObserver:
    """Nobody wants to know."""

    def on(self, event: Event) -> None:
        """Forget the event."""


@contextlib.contextmanager
def step(observer: Observer, name: str, *, total: int | None = None) -> Iterator[None]:
    """Announce a step, time it, and announce its end unless it failed."""
    observer.on(StepStarted(step=name, total=total))
    began = time.monotonic()
    yield
    observer.on(StepFinished(step=name, seconds=time.monotonic() - began))
