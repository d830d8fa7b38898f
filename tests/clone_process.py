"""A clone in a process of its own, that stops where it is told to: `DISK SOURCE LAYOUT STOP`.

Prints a line for each event. At the first event that contains STOP it prints STOPPED and waits for
the signal that ends it.
"""

import signal
import sys
from pathlib import Path

from loop_disks import FolderImage

import nodectl.cli.clone
from nodectl.disk.text import parse_layout
from nodectl.events import Event, Observer
from nodectl.node.clone import CloneWish, FillResult


class StoppingImage(FolderImage):
    """Stops after it has copied everything, with everything mounted."""

    def restore(self, target: Path, observer: Observer) -> FillResult:
        result = super().restore(target, observer)
        if sys.argv[4] == "restored":
            wait()
        return result


def wait() -> None:
    say("STOPPED")
    signal.pause()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Stopping:
    def __init__(self, *, json_lines: bool) -> None:
        assert json_lines

    def on(self, event: Event) -> None:
        say(str(event))
        if sys.argv[4] in str(event):
            wait()


def main() -> None:
    nodectl.cli.clone.observer_for = Stopping
    layout = parse_layout(Path(sys.argv[3]).read_text())
    wish = CloneWish(disks=(sys.argv[1],), layout=layout, node_name="node07")
    image = StoppingImage(Path(sys.argv[2]))
    nodectl.cli.clone.run_clone(wish, image, yes=True, as_json=True)


if __name__ == "__main__":
    main()
