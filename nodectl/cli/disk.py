"""`nodectl disklayout`: look at a layout file, and at what it would do to a disk."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from nodectl.disk.facts import DiskFacts
    from nodectl.disk.model import Layout
    from nodectl.disk.plan import DiskPlan, PlannedPartition

layout_app = typer.Typer(
    name="disklayout",
    no_args_is_help=True,
    help="Check disk layouts, and show what they would do to a disk.",
)


def register(app: typer.Typer) -> None:
    """Add `nodectl disklayout` to the command line."""
    app.add_typer(layout_app, name="disklayout")


@layout_app.command("validate")
def validate(
    file: Path = typer.Argument(..., help="The layout file (TOML)."),
) -> None:
    """Check a layout file and name every mistake with its line and field.

    Status: 0 valid, 10 no such file, 11 not readable, 53 mistakes.
    """
    layout = read_layout(file)
    print(f"{file}: valid, {len(layout.partitions)} partitions")


@layout_app.command("show")
def show(
    file: Path = typer.Argument(None, help="The layout file; without it, the default layout."),
) -> None:
    """Print a layout in its normal form.

    Status: 0 printed, 10 no such file, 11 not readable, 53 mistakes.
    """
    from nodectl.disk.text import format_layout

    print(format_layout(read_layout(file)), end="")


@layout_app.command("plan")
def plan(
    file: Path = typer.Argument(None, help="The layout file; without it, the default layout."),
    disk: str = typer.Option("", "--disk", help="Path or serial of the disk."),
    image_bytes: str = typer.Option("0", "--image-size", help="Size of the image, as in 1.5GiB."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Show what cloning with a layout would do to a disk. Writes nothing.

    Status: 0 planned, 10/11 file, 14 a value, 17 not root, 50 no such disk or several, 51 in use,
    52 too small, 53 mistakes in the layout.
    """
    from nodectl.errors import InvalidInput
    from nodectl.node.clone import CloneWish, plan_clone
    from nodectl.units import parse_size

    try:
        size = parse_size(image_bytes)
    except ValueError as exc:
        raise InvalidInput(f"--image-size: {exc}") from exc
    wish = CloneWish(disk=disk, layout=read_layout(file), node_name="node")
    made = plan_clone(wish, size)
    print(json.dumps(plan_document(made)) if as_json else plan_text(made))


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


def plan_document(made: "DiskPlan") -> dict[str, object]:
    """Return a plan for machines."""
    from nodectl.disk.apply import step_words
    from nodectl.disk.commands import step_commands

    destructive = set(map(id, made.destructive))
    return {
        "fingerprint": made.fingerprint,
        "disk": asdict(made.disk),
        "layout": made.layout.name,
        "partitions": [asdict(each) for each in made.partitions],
        "steps": [
            {
                "step": type(each).__name__,
                "words": step_words(each),
                "destructive": id(each) in destructive,
                "commands": step_commands(each),
            }
            for each in made.steps
        ],
    }


def plan_text(made: "DiskPlan") -> str:
    """Return a plan for people: the disk, what is on it, what is lost, what it becomes."""
    from nodectl.units import format_size

    disk = made.disk
    words = [
        ("disk", disk.path),
        ("model", " ".join(filter(None, (disk.vendor, disk.model))) or "-"),
        ("serial", disk.serial or "-"),
        ("size", f"{format_size(disk.size)} ({disk.size} bytes)"),
        ("backing file", disk.backing_file),
        ("layout", made.layout.name or "-"),
        ("fingerprint", made.fingerprint),
    ]
    lines = [f"{name + ':':<14}{value}" for name, value in words if value]
    lines += ["", "On it now, and LOST when you go on:", *_now_lines(disk)]
    lines += ["", "It becomes:"]
    lines += [f"  {_planned_words(each)}" for each in made.partitions]
    return "\n".join(lines)


def _now_lines(disk: "DiskFacts") -> list[str]:
    from nodectl.units import format_size

    contents = disk.contents
    if contents is None:
        return ["  not looked at"]
    lines = [
        f"  {each.path:<18}{format_size(each.size):>9}  "
        + (
            ", ".join(
                " ".join(filter(None, (found.type, found.label, found.uuid)))
                for found in each.signatures
            )
            or "no known content"
        )
        + (f"  ({each.label})" if each.label else "")
        for each in contents.partitions
    ]
    types = ", ".join(dict.fromkeys(found.type for found in contents.signatures))
    return [f"  {disk.path}: {types}" if types else "  nothing that is known", *lines]


def _planned_words(planned: "PlannedPartition") -> str:
    from nodectl.units import format_size

    fs = planned.filesystem
    what = f"{fs.type} {fs.label}".rstrip() if fs else "raw"
    place = f" at {fs.mount}" if fs and fs.mount else ""
    kind = planned.partition.type
    return f"{planned.path:<18}{format_size(planned.size):>9}  {what}{place}  (type {kind})"
