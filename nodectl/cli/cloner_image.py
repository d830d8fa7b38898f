"""`nodectl cloner new-image|update-filesystem|update-disklayout|update-options`."""

import dataclasses
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.cloner import cloner_app
from nodectl.cli.membership import JsonOption, StateOption, ask, open_state

if TYPE_CHECKING:
    from nodectl.catalog.cloning import CloneOptions
    from nodectl.disk.model import Layout
    from nodectl.node.client import ControlClient
    from nodectl.node.golden import Golden


class Conflict(StrEnum):
    """Who is right when the command line says other options than are stored."""

    PROMPT = "prompt"
    SERVER = "server"
    COMMANDLINE = "commandline"


Image = Annotated[str, typer.Option("--image", help="Name of the image.")]
DiskLayout = Annotated[str, typer.Option("--disklayout", help="Name of the disk layout.")]
Server = Annotated[
    str, typer.Option("--server", metavar="NODE", help="A node that gets a copy at once.")
]
ExcludeDevices = Annotated[
    str | None,
    typer.Option("--exclude-devices", metavar="A,B", help="Disks that do not belong to it."),
]
ExcludePaths = Annotated[
    str | None,
    typer.Option("--exclude-paths", metavar="A,B", help="Paths or patterns that are left out."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look at everything, keep nothing.")]
Compress = Annotated[
    str | None, typer.Option("--compress", help="fast (zstd 3, the default) or best (zstd 9).")
]
Tree = Annotated[Path, typer.Option("--tree", help="Top of the system; / is this machine.")]
LayoutFile = Annotated[
    Path | None,
    typer.Option("--layout-file", help="The layout (TOML), not that of this machine's disks."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether all looks correct.")]
Update = Annotated[
    Conflict,
    typer.Option("--update-conflict", help="Where options differ from those that are stored."),
]


def register(_app: typer.Typer) -> None:
    """Add these commands beside the others of cv-cloner."""
    cloner_app.command("new-image")(new_image)
    cloner_app.command("update-filesystem")(update_filesystem)
    cloner_app.command("update-disklayout")(update_disklayout)
    cloner_app.command("update-options")(update_options)


def new_image(
    image: Image,
    disklayout: DiskLayout,
    server: Server = "",
    exclude_devices: ExcludeDevices = None,
    exclude_paths: ExcludePaths = None,
    compress: Compress = None,
    tree: Tree = Path("/"),
    layout_file: LayoutFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Make an image of this machine, and keep the layout of its disks under a name.

    Lists the drives, the directories and how much they hold against the free space here, and asks
    whether all looks correct. A layout that is there already is used again if it says the same.

    Example: nodectl cloner new-image --image node --disklayout node

    Exit codes: 10 no such tree, 11 something cannot be read, 12 store full, 13 the image or another
    layout of that name is there, 14 a wrong value, 17 not root, 18 not confirmed, 40-43 realm and
    controller, 50 no such disk, 53 mistakes in the layout.
    """
    from nodectl.catalog.cloning import CloneOptions, PartKind
    from nodectl.disk.diff import layout_differences
    from nodectl.disk.text import parse_layout
    from nodectl.errors import AlreadyThere
    from nodectl.node.cloning import find_part, stored_options

    options = _merged(
        CloneOptions(disklayout=disklayout),
        _given(exclude_devices, exclude_paths, compress),
        lambda _name, _stored, _wanted: False,
    )
    _need_server(state, server)
    if ask(state, lambda client: stored_options(client, image)) is not None:
        raise AlreadyThere(
            f"there is an image {image} already",
            hint=f"nodectl cloner update-filesystem --image {image}",
        )
    golden = _look(tree, layout_file, options)
    there = ask(state, lambda client: find_part(client, PartKind.DISKLAYOUT, disklayout))
    if there is not None:
        stored = parse_layout(there.text, source=f"disk layout {disklayout}")
        differences = layout_differences(stored, golden.layout)
        if differences:
            raise AlreadyThere(
                f"there is a disk layout {disklayout} already, and this machine's differs: "
                f"{'; '.join(differences[:5])}",
                hint="name another one, or change that: nodectl cloner update-disklayout",
            )
    _confirm(state, golden, options, yes=yes or dry_run)
    _capture(state, image, tree, golden, options, dry_run=dry_run, json_output=json_output)
    if not dry_run:
        _keep(state, image, options, golden.layout if there is None else None)
        _copy_to(state, image, server)


def update_filesystem(
    image: Image,
    server: Server = "",
    exclude_devices: ExcludeDevices = None,
    exclude_paths: ExcludePaths = None,
    compress: Compress = None,
    update_conflict: Update = Conflict.PROMPT,
    tree: Tree = Path("/"),
    layout_file: LayoutFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Capture the files of this machine again, as the next generation; the layout stays.

    Options that are not given are those of the last time. What differs from them is asked about,
    or decided by --update-conflict: server keeps what is stored, commandline stores the new.

    Exit codes: as of new-image; 10 also: no such image.
    """
    given = _given(exclude_devices, exclude_paths, compress)
    _need_server(state, server)
    options = _merged(_stored(state, image), given, _decider(update_conflict))
    golden = _look(tree, layout_file, options)
    _confirm(state, golden, options, yes=yes or dry_run)
    _capture(state, image, tree, golden, options, dry_run=dry_run, json_output=json_output)
    if not dry_run:
        _keep(state, image, options, None)
        _copy_to(state, image, server)


def update_disklayout(
    image: Image,
    disklayout: DiskLayout,
    exclude_devices: ExcludeDevices = None,
    update_conflict: Update = Conflict.PROMPT,
    layout_file: LayoutFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    state: StateOption = None,
) -> None:
    """Keep the layout of this machine's disks under a name, for an image; its files stay.

    Exit codes: 10 no such image, 17 not root, 18 not confirmed, 40-43 realm and controller, 50 no
    such disk, 53 mistakes in the layout.
    """
    from nodectl.catalog.cloning import PartKind
    from nodectl.disk.diff import layout_differences
    from nodectl.disk.text import parse_layout
    from nodectl.node.cloning import find_part

    stored = _stored(state, image)
    wanted = {**_given(exclude_devices, None, None), "disklayout": disklayout}
    options = _merged(stored, wanted, _decider(update_conflict))
    golden = _look(Path("/"), layout_file, options)
    there = ask(state, lambda client: find_part(client, PartKind.DISKLAYOUT, options.disklayout))
    if there is not None:
        before = parse_layout(there.text, source=f"disk layout {options.disklayout}")
        for line in layout_differences(before, golden.layout):
            print(line, file=sys.stderr)
    _confirm(state, golden, options, yes=yes or dry_run, folders=False)
    if dry_run:
        return
    _keep(state, image, options, golden.layout)
    print(f"{image}: disk layout {options.disklayout}")


def update_options(
    image: Image,
    exclude_devices: ExcludeDevices = None,
    exclude_paths: ExcludePaths = None,
    compress: Compress = None,
    state: StateOption = None,
) -> None:
    """Change the options that the next update-filesystem of an image uses; nothing is captured.

    Exit codes: 10 no such image, 14 a wrong value, 40-43 realm and controller.
    """
    given = _given(exclude_devices, exclude_paths, compress)
    options = _merged(_stored(state, image), given, lambda _name, _stored, _wanted: False)
    _keep(state, image, options, None)
    print(f"{image}: {options.to_text()}")


# --- options ---------------------------------------------------------------------------------


def _given(devices: str | None, paths: str | None, compress: str | None) -> dict[str, Any]:
    """Return the options that the command line says."""
    from nodectl.cli.capturing import zstd_level

    given: dict[str, Any] = {}
    if devices is not None:
        given["exclude_devices"] = _words(devices)
    if paths is not None:
        given["exclude_paths"] = _words(paths)
    if compress is not None:
        zstd_level(compress)
        given["compress"] = compress
    return given


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)


def _merged(
    stored: "CloneOptions", given: dict[str, Any], keeps: Callable[[str, Any, Any], bool]
) -> "CloneOptions":
    """Return the options to go by; `keeps` says of each that differs whether the stored one does.

    Raises:
        InvalidInput: what is given is no such option.
    """
    changed = {
        name: wanted
        for name, wanted in given.items()
        if getattr(stored, name) != wanted and not keeps(name, getattr(stored, name), wanted)
    }
    options = dataclasses.replace(stored, **changed)
    return type(options).from_text(options.to_text())  # checked as the controller does


def _decider(conflict: Conflict) -> Callable[[str, Any, Any], bool]:
    from nodectl.errors import NotConfirmed

    def keeps(name: str, stored: object, wanted: object) -> bool:
        if conflict is not Conflict.PROMPT:
            return conflict is Conflict.SERVER
        what = f"{name.replace('_', '-')}: stored {_shown(stored)}, given {_shown(wanted)}"
        if not sys.stdin.isatty():
            raise NotConfirmed(
                f"{what}; nobody is there to say which",
                hint="--update-conflict server keeps what is stored, commandline what is given",
            )
        return typer.confirm(f"{what}. Keep what is stored?", err=True)

    return keeps


def _shown(value: object) -> str:
    return (",".join(value) or "none") if isinstance(value, tuple) else str(value or "none")


def _stored(state: Path | None, image: str) -> "CloneOptions":
    """Return the stored options; an image that was captured in another way has the usual ones."""
    from nodectl.catalog.cloning import CloneOptions
    from nodectl.cli.releases import find_releases
    from nodectl.errors import PathMissing
    from nodectl.node.cloning import stored_options

    found = ask(state, lambda client: stored_options(client, image))
    if found is None and not find_releases(state, image):
        raise PathMissing(
            f"there is no image {image}",
            hint="nodectl cloner image-list shows all, nodectl cloner new-image makes one",
        )
    return found or CloneOptions()


# --- looking, asking, keeping ----------------------------------------------------------------


def _look(tree: Path, layout_file: Path | None, options: "CloneOptions") -> "Golden":
    from nodectl.cli.disk_plan import read_layout
    from nodectl.errors import PathMissing
    from nodectl.node.golden import look_at_golden

    if not tree.is_dir():
        raise PathMissing(f"there is no directory {tree}")
    layout = read_layout(layout_file) if layout_file else None
    return look_at_golden(tree, layout, without=options.exclude_devices)


def _confirm(
    state: Path | None,
    golden: "Golden",
    options: "CloneOptions",
    *,
    yes: bool,
    folders: bool = True,
) -> None:
    """Show what was found, and ask whether it looks correct.

    Raises:
        NotConfirmed: it does not, or nobody answered.
    """
    from nodectl.disk.text import format_layout
    from nodectl.errors import NotConfirmed

    lines = ["Drives:", *(f"  {line}" for line in format_layout(golden.layout).splitlines())]
    lines += [f"  not in the layout: {remark}" for remark in golden.remarks]
    if folders:
        lines += _folder_lines(state, golden, options)
    print("\n".join(lines), file=sys.stderr)
    if yes:
        return
    if not sys.stdin.isatty() or not typer.confirm("Does this look correct?", err=True):
        raise NotConfirmed("nothing was kept", hint="--yes answers")


def _folder_lines(state: Path | None, golden: "Golden", options: "CloneOptions") -> list[str]:
    import shutil

    from nodectl.units import format_size

    lines = ["Directories:"]
    for one in golden.folders:
        at_most = "" if one.plain_mount else " (with all that shares its file system)"
        lines.append(f"  {one.path}  {format_size(one.used_bytes)}{at_most}")
    lines += [f"  left out: {path}" for path in options.exclude_paths]
    store = open_state(state).store
    free = shutil.disk_usage(store if store.exists() else store.parent).free
    lines.append(
        f"At most {format_size(golden.used_bytes)} before compression; "
        f"{format_size(free)} are free at {store}"
    )
    return lines


def _capture(
    state: Path | None,
    image: str,
    tree: Path,
    golden: "Golden",
    options: "CloneOptions",
    *,
    dry_run: bool,
    json_output: bool,
) -> None:
    from nodectl.cli.image import capture

    capture(
        image,
        tree,
        exclude=list(options.exclude_paths),
        with_mount=[path.strip("/") for path in golden.mounts],
        compress=options.compress,
        dry_run=dry_run,
        state=state,
        json_output=json_output,
    )


def _keep(state: Path | None, image: str, options: "CloneOptions", layout: "Layout | None") -> None:
    """Keep the options of an image, and a layout under the name that they say."""
    from nodectl.catalog.cloning import Part, PartKind, PartName
    from nodectl.disk.text import format_layout
    from nodectl.node.cloning import put_options, put_part

    async def keep(client: "ControlClient") -> None:
        if layout is not None:
            what = PartName(kind=PartKind.DISKLAYOUT, name=options.disklayout, title="")
            await put_part(client, Part(what=what, content=format_layout(layout).encode()))
        await put_options(client, image, options)

    ask(state, keep)


# --- a copy ----------------------------------------------------------------------------------


def _need_server(state: Path | None, server: str) -> None:
    """Refuse a copy that nobody would serve, before anything was captured."""
    from nodectl.errors import InvalidInput, StoreBusy

    if not server:
        return
    try:
        with open_state(state).serving():
            pass
    except StoreBusy:
        return  # as it should be
    raise InvalidInput(
        f"{server} cannot get a copy: nodectl serve does not run on this machine",
        hint="start it, or leave --server out and let it run later",
    )


def _copy_to(state: Path | None, image: str, server: str) -> None:
    from nodectl.catalog.records import JobKind
    from nodectl.cli.job import WantedJob, start_job

    if server:
        wanted = WantedJob(kind=JobKind.FETCH, name=image, nodes=server, options={})
        start_job(state, wanted, no_wait=False, json_output=False)
