"""Runs in a guest: clone the guest's own root onto a disk, as `nodectl clone` would.

Arguments: layout file, node name, whether the initramfs must be made anew (yes, no), disks.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from guest.inside.golden import golden_root
from loop_disks import FolderImage

from nodectl.cli.clone import report_text
from nodectl.disk.text import parse_layout
from nodectl.events import Event, StepFinished, StepStarted
from nodectl.node.booting import BootWish
from nodectl.node.clone import CloneWish, clone_onto_disk, report_document


@dataclass
class Told:
    def on(self, event: Event) -> None:
        match event:
            case StepStarted():
                print("...", event.step, flush=True)
            case StepFinished():
                print(f"    {event.seconds:.1f} s", flush=True)
            case _:
                print(event, flush=True)


def main() -> None:
    layout, name, rebuilds, *disks = sys.argv[1:]
    image = FolderImage(golden_root(Path("/run/golden"), rebuilds=rebuilds == "yes"))
    wish = CloneWish(
        disks=tuple(disks),
        layout=parse_layout(Path(layout).read_text(), source=layout),
        node_name=name,
        verify=False,
        boot=BootWish(),
    )
    report = clone_onto_disk(wish, image, confirm=lambda _plan: True, observer=Told())
    print(report_text(report))
    Path("/mnt/results", f"{name}.json").write_text(json.dumps(report_document(report)))


main()
