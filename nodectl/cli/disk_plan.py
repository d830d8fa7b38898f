"""What commands about disks share: reading a layout, showing a plan, asking before it is done."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodectl.disk.facts import DiskFacts, Signature
    from nodectl.disk.model import Layout
    from nodectl.disk.plan import DiskPlan, PlannedDisk
    from nodectl.disk.plan_table import PlannedPartition


def read_layout(file: Path | None) -> "Layout":
    """Return the layout in `file`, or the default one.

    Raises:
        PathMissing: no such file.
        PathUnreadable: it cannot be read, or is far too large for a layout.
        LayoutInvalid: it has mistakes.
    """
    from nodectl.disk.model import default_layout
    from nodectl.disk.text import MAX_LAYOUT_BYTES, parse_layout
    from nodectl.errors import PathMissing, PathUnreadable

    if file is None:
        return default_layout()
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_LAYOUT_BYTES + 1)
        text = data.decode()
    except FileNotFoundError as exc:
        raise PathMissing(f"there is no layout file {file}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise PathUnreadable(f"the layout file {file} cannot be read: {exc}") from exc
    if len(data) > MAX_LAYOUT_BYTES:
        raise PathUnreadable(f"the layout file {file} has more than {MAX_LAYOUT_BYTES} bytes")
    return parse_layout(text, source=str(file))


def written_names(made: "DiskPlan") -> str:
    """Return the disks that a plan writes, for a question."""
    return ", ".join(each.disk.path for each in made.disks if not each.is_kept)


def ask(names: str) -> bool:
    """Ask on the terminal; no terminal and no answer are a no."""
    print(f"\nOverwrite {names}? Type yes: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() == "yes"


def plan_document(made: "DiskPlan") -> dict[str, object]:
    """Return a plan for machines."""
    from nodectl.disk.commands import step_commands

    destructive = set(map(id, made.destructive))
    return {
        "fingerprint": made.fingerprint,
        "is_empty": made.is_empty,
        "layout": made.layout.name,
        "disks": [
            {"id": each.id, "is_kept": each.is_kept, "table_uuid": each.uuid, **asdict(each.disk)}
            for each in made.disks
        ],
        "partitions": [_plain(asdict(each)) for each in made.partitions],
        "volumes": [asdict(each) for each in made.volumes],
        "filesystems": [asdict(each) for each in made.filesystems],
        "steps": [
            {
                "step": type(each).__name__,
                "words": each.describe(),
                "destructive": id(each) in destructive,
                "commands": step_commands(each),
            }
            for each in made.steps
        ],
    }


def _plain(document: dict[str, object]) -> dict[str, object]:
    partition = document["partition"]
    if isinstance(partition, dict):
        partition["flags"] = sorted(partition["flags"])
    return document


def plan_text(made: "DiskPlan") -> str:
    """Return a plan for people: each disk, what is on it, what is lost, what it becomes."""
    lines = [f"layout:       {made.layout.name or '-'}", f"fingerprint:  {made.fingerprint}"]
    for each in made.disks:
        lines += ["", *_disk_lines(made, each)]
    volumes = [f"  {each.device}  {each.kind}, about {_size(each.size)}" for each in made.volumes]
    if volumes:
        lines += ["", "Built on them:", *volumes]
    lines += ["", "Filesystems:", *_filesystem_lines(made)]
    taken = [f"  {each.describe()}" for each in made.steps if _is_release(each)]
    if taken:
        lines += ["", "Taken down first:", *taken]
    return "\n".join(lines)


def _is_release(step: object) -> bool:
    from nodectl.disk.steps import ForgetPartitions, Release

    return isinstance(step, Release) and not isinstance(step, ForgetPartitions)


def _disk_lines(made: "DiskPlan", planned: "PlannedDisk") -> list[str]:
    disk = planned.disk
    words = [
        ("disk", f"{disk.path} ({planned.id!r} of the layout)"),
        ("model", " ".join(filter(None, (disk.vendor, disk.model))) or "-"),
        ("serial", disk.serial or "-"),
        ("size", f"{_size(disk.size)} ({disk.size} bytes, sectors of {disk.logical_sector})"),
        ("backing file", disk.backing_file),
    ]
    lines = [f"{name + ':':<14}{value}" for name, value in words if value]
    if planned.is_kept:
        return [*lines, "  looks as the layout says: nothing is written to it"]
    here = [each for each in made.partitions if each.disk == disk.path]
    kept = {each.path for each in here if each.is_kept}
    lines += ["On it now:", *_now_lines(disk, kept)]
    becomes = [f"  {_planned_words(each)}" for each in here]
    return [*lines, "It becomes:", *(becomes or ["  one volume without a partition table"])]


def _now_lines(disk: "DiskFacts", kept: set[str]) -> list[str]:
    contents = disk.contents
    if contents is None:
        return ["  not looked at"]
    lines = [
        f"  {'stays' if each.path in kept else 'LOST'}  {each.path:<18}{_size(each.size):>9}  "
        + (", ".join(_words(found) for found in each.signatures) or "no known content")
        + (f"  ({each.label})" if each.label else "")
        for each in contents.partitions
    ]
    types = ", ".join(dict.fromkeys(found.type for found in contents.signatures))
    if not types:
        return ["  nothing that is known", *lines]
    fate = "  " if kept else "  LOST  "
    return [f"{fate}{disk.path}: {types}", *lines]


def _words(found: "Signature") -> str:
    return " ".join(filter(None, (found.type, found.label, found.uuid)))


def _planned_words(planned: "PlannedPartition") -> str:
    kind = planned.partition.type
    fate = "stays" if planned.is_kept else "new"
    return f"{fate:<6}{planned.path:<18}{_size(planned.size):>9}  type {kind}"


def _filesystem_lines(made: "DiskPlan") -> list[str]:
    from nodectl.disk.volumes import mount_points

    lines = []
    for each in made.filesystems:
        fs = each.filesystem
        places = " ".join(point for point, _, _ in mount_points(fs))
        fate = "stays" if each.is_kept else "new"
        name = f"{fs.type} {fs.label}".rstrip()
        where = f" at {places}" if places else ""
        lines.append(f"  {fate:<6}{each.device:<18}{_size(each.size):>9}  {name}{where}")
    lines += [f"  new   swap file {each.path} of {_size(each.size)}" for each in made.swap_files]
    return lines or ["  none"]


def _size(size: int) -> str:
    from nodectl.units import format_size

    return format_size(size)
