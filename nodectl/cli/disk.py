"""`nodectl disklayout`: layouts from live machines, checked, compared, planned and applied."""

import json
from pathlib import Path

import typer

from nodectl.cli.disk_plan import ask, plan_document, plan_text, read_layout, written_names
from nodectl.cli.progress import observer_for

layout_app = typer.Typer(
    name="disklayout",
    no_args_is_help=True,
    help="Write, check, compare and apply disk layouts.",
)

_FILE = typer.Argument(..., help="The layout file (TOML).")
_DISKS = typer.Option(
    [], "--disk", help="Path or serial of a disk; ID=... where the layout has several."
)
_JSON = typer.Option(False, "--json", help="Print JSON.")
_UNMOUNT = typer.Option(
    False, "--unmount", help="Take down mounts and swap that are in use on the disks."
)


def register(app: typer.Typer) -> None:
    """Add `nodectl disklayout` to the command line."""
    app.add_typer(layout_app, name="disklayout")


@layout_app.command("validate")
def validate(file: Path = _FILE) -> None:
    """Check a layout file and name every mistake with its line and field.

    Status: 0 valid, 10 no such file, 11 not readable, 53 mistakes.
    """
    layout = read_layout(file)
    counts = [
        (len(layout.used_disks), "disk"),
        (len(layout.partitions), "partition"),
        (len(layout.stacks) + len(layout.logical_volumes), "volume"),
        (len(layout.filesystems), "filesystem"),
    ]
    words = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    print(f"{file}: valid, {', '.join(words)}")


@layout_app.command("show")
def show(
    file: Path = typer.Argument(None, help="The layout file; without it, the default layout."),
) -> None:
    """Print a layout in its normal form.

    Status: 0 printed, 10 no such file, 11 not readable, 53 mistakes.
    """
    from nodectl.disk.text import format_layout

    print(format_layout(read_layout(file)), end="")


@layout_app.command("schema")
def schema() -> None:
    """Print the JSON schema of layout files, for editors.

    Status: 0 printed.
    """
    from nodectl.disk.schema import layout_schema

    print(json.dumps(layout_schema(), indent=2))


@layout_app.command("plan")
def plan(
    file: Path = typer.Argument(None, help="The layout file; without it, the default layout."),
    disk: list[str] = _DISKS,
    image_bytes: str = typer.Option("0", "--image-size", help="Size of the image, as in 1.5GiB."),
    unmount: bool = _UNMOUNT,
    as_json: bool = _JSON,
) -> None:
    """Show what applying a layout would do to the disks. Writes nothing.

    Disks that look as the layout says already are left as they are.

    Status: 0 planned, 10/11 file, 14 a value, 15/16 a program, 17 not root, 50 no such disk or
    several, 51 in use, 52 too small, 53 mistakes in the layout, 57 not for this machine.
    """
    from nodectl.disk.plan import PlanWish
    from nodectl.disk.survey import look_and_plan
    from nodectl.errors import InvalidInput
    from nodectl.units import parse_size

    try:
        size = parse_size(image_bytes)
    except ValueError as exc:
        raise InvalidInput(f"--image-size: {exc}") from exc
    wish = PlanWish(image_bytes=size, keep_equal=True, unmount=unmount)
    made = look_and_plan(read_layout(file), disk, wish)
    print(json.dumps(plan_document(made)) if as_json else plan_text(made))


@layout_app.command("apply")
def apply(
    file: Path = _FILE,
    disk: list[str] = _DISKS,
    expect: str = typer.Option(
        "", "--expect", help="Fingerprint of the plan that was read; another one is refused."
    ),
    unmount: bool = _UNMOUNT,
    yes: bool = typer.Option(False, "--yes", help="Do not ask before disks are overwritten."),
    as_json: bool = _JSON,
) -> None:
    """Make disks as a layout says: release, wipe, partition, build, format, read back.

    Nothing is restored and nothing is mounted. Disks that look so already are left as they are.

    Status: 0 done and read back, 10/11/14 file or value, 15/16 a program is missing or failed,
    17 not root, 18 not confirmed, 50 no such disk or several, 51 in use, 52 too small, 53 mistakes
    in the layout, 54 not the plan that was expected, 55 read back differs, 57 not for this machine,
    130 stopped.
    """
    from nodectl.node.disk_layout import apply_layout

    done = apply_layout(
        read_layout(file),
        disk,
        expect=expect,
        unmount=unmount,
        confirm=lambda made: _confirmed(plan_text(made), written_names(made), yes=yes),
        observer=observer_for(json_lines=as_json),
    )
    if as_json:
        print(json.dumps(plan_document(done)))
    elif done.is_empty:
        print("the disks look as the layout says; nothing was written")
    else:
        print(f"{written_names(done)}: as the layout says, read back")


def _confirmed(text: str, names: str, *, yes: bool) -> bool:
    typer.echo(text, err=True)
    return yes or ask(names)


@layout_app.command("capture")
def capture(
    output: Path | None = typer.Option(None, "--output", help="Write to this new file."),
    disk: list[str] = typer.Option(
        [], "--disk", help="Path or serial of a disk to capture; without it, all that are in use."
    ),
) -> None:
    """Write the layout of this machine's disks; what it cannot express it says.

    The layout goes to standard output or a file, remarks to standard error.

    Status: 0 written, 13 the file is there, 14 a value, 15/16 a program is missing or failed,
    17 not root, 50 no such disk.
    """
    from nodectl.disk.text import format_layout
    from nodectl.errors import AlreadyThere
    from nodectl.node.disk_layout import capture_layout

    layout, remarks = capture_layout(disk)
    for remark in remarks:
        typer.echo(f"not in the layout: {remark}", err=True)
    text = format_layout(layout)
    if output is None:
        print(text, end="")
        return
    try:
        with output.open("x") as file:
            file.write(text)
    except FileExistsError as exc:
        raise AlreadyThere(f"{output} is there already", hint="name a new file") from exc


@layout_app.command("diff")
def diff(
    file: Path = _FILE,
    other: Path | None = typer.Argument(
        None, help="Another file; without it, this machine's disks."
    ),
    disk: list[str] = typer.Option(
        [], "--disk", help="Path or serial of a disk to compare with; without it, all in use."
    ),
    as_json: bool = _JSON,
) -> None:
    """Show where two layouts differ, or a layout and this machine.

    Status: 0 no difference, 3 they differ, 10/11 file, 14 a value, 15/16 a program is missing or
    failed, 17 not root, 50 no such disk, 53 mistakes in a layout.
    """
    from nodectl.disk.diff import layout_differences
    from nodectl.errors import InvalidInput
    from nodectl.node.disk_layout import capture_layout

    if other and disk:
        raise InvalidInput("two files are compared, or a file and disks: not all three")
    first = read_layout(file)
    second = read_layout(other) if other else capture_layout(disk)[0]
    found = layout_differences(first, second, content=other is not None)
    if as_json:
        print(json.dumps({"differences": found}))
    else:
        for line in found:
            print(line)
    if found:
        raise typer.Exit(3)
