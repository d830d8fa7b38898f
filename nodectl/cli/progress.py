"""The three readers of the event stream: bars on a terminal, plain lines, JSON lines.

All of them write to stderr: stdout carries the result alone.
"""

import dataclasses
import json
import shutil
import sys
import time

from nodectl.events import Event, Note, Observer, StepFinished, StepProgress, StepStarted
from nodectl.units import format_duration, format_size

_PLAIN_INTERVAL_S = 5.0
_JSON_INTERVAL_S = 0.5
_TERMINAL_INTERVAL_S = 0.1


def observer_for(*, json_lines: bool) -> Observer:
    """Return the reader that fits how this command was called."""
    if json_lines:
        return JsonLines()
    return TerminalBars() if sys.stderr.isatty() else PlainLines()


class _Rates:
    """Remembers when each step of each node began, and when it was last shown."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._began: dict[tuple[str, str], float] = {}
        self._shown: dict[tuple[str, str], float] = {}

    def begin(self, node: str, step: str) -> None:
        now = time.monotonic()
        self._began[node, step] = self._shown[node, step] = now

    def due(self, node: str, step: str) -> bool:
        """Say whether it is time to show this step again."""
        now = time.monotonic()
        if now - self._shown.get((node, step), 0.0) < self._interval_s:
            return False
        self._shown[node, step] = now
        return True

    def text(self, event: StepProgress) -> str:
        """Return "node: step 120 MiB of 1.2 GiB (10 %), 80 MiB/s, 14 s left"."""
        began = self._began.setdefault((event.node, event.step), time.monotonic())
        seconds = max(time.monotonic() - began, 1e-3)
        rate = event.done / seconds
        words = f"{_place(event.node)}{event.step} {format_size(event.done)}"
        if event.total:
            words += f" of {format_size(event.total)} ({100 * event.done // event.total} %)"
        words += f", {format_size(int(rate))}/s"
        if event.total and rate > 0:
            words += f", {format_duration((event.total - event.done) / rate)} left"
        return words


def _place(node: str) -> str:
    return f"{node}: " if node else ""


def _finished(event: StepFinished) -> str:
    return f"{_place(event.node)}{event.step} done in {format_duration(event.seconds)}"


class PlainLines:
    """A line when a step begins and ends, and one every five seconds between."""

    def __init__(self) -> None:
        """Start with nothing shown."""
        self._rates = _Rates(_PLAIN_INTERVAL_S)

    def on(self, event: Event) -> None:
        """Print the event if it is due."""
        match event:
            case StepStarted():
                self._rates.begin(event.node, event.step)
                self._print(f"{_place(event.node)}{event.step} ...")
            case StepProgress():
                if self._rates.due(event.node, event.step):
                    self._print(self._rates.text(event))
            case StepFinished():
                self._print(_finished(event))
            case Note():
                self._print(f"{_place(event.node)}{event.text}")

    @staticmethod
    def _print(text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TerminalBars:
    """One line for each step under way, redrawn in place."""

    def __init__(self) -> None:
        """Start with an empty screen part."""
        self._rates = _Rates(0.0)
        self._lines: dict[tuple[str, str], str] = {}
        self._drawn = 0
        self._last_draw = 0.0

    def on(self, event: Event) -> None:
        """Update the screen part below the cursor."""
        match event:
            case StepStarted():
                self._rates.begin(event.node, event.step)
                self._lines[event.node, event.step] = f"{_place(event.node)}{event.step} ..."
                self._draw([])
            case StepProgress():
                self._lines[event.node, event.step] = self._rates.text(event)
                if time.monotonic() - self._last_draw >= _TERMINAL_INTERVAL_S:
                    self._draw([])
            case StepFinished():
                self._lines.pop((event.node, event.step), None)
                self._draw([_finished(event)])
            case Note():
                self._draw([f"{_place(event.node)}{event.text}"])

    def _draw(self, final: list[str]) -> None:
        """Print `final` for good and the running lines below it."""
        columns, rows = shutil.get_terminal_size()
        running = list(self._lines.values())
        if len(running) > rows - 2:
            hidden = len(running) - (rows - 3)
            running = [*running[: rows - 3], f"and {hidden} more"]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        # A line that wraps would count as two, and the cursor would go up too little.
        cut = [line[: columns - 1] for line in running]
        text = "".join(f"\x1b[2K{line}\n" for line in [*final, *cut])
        sys.stderr.write(f"{up}\x1b[J{text}")
        sys.stderr.flush()
        self._drawn = len(running)
        self._last_draw = time.monotonic()


class JsonLines:
    """One JSON object a line: {"event": "StepProgress", "step": ..., ...}."""

    def __init__(self) -> None:
        """Start with nothing shown."""
        self._rates = _Rates(_JSON_INTERVAL_S)

    def on(self, event: Event) -> None:
        """Print the event; progress at most twice a second for each step."""
        if isinstance(event, StepProgress) and not self._rates.due(event.node, event.step):
            return
        document = {"event": type(event).__name__, **dataclasses.asdict(event)}
        print(json.dumps(document), file=sys.stderr, flush=True)
