"""`nodectl image capture|restore|verify`; `list` and `show` are in image_list.py."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import block, image_access, image_list, reseal
from nodectl.cli.capturing import check_name, publish_captured, zstd_level
from nodectl.cli.membership import JsonOption, StateOption, open_state
from nodectl.cli.progress import observer_for
from nodectl.cli.releases import find_held, stored_image

if TYPE_CHECKING:
    from nodectl.content.capture import CaptureOptions, CaptureReport
    from nodectl.node.images import Restored
    from nodectl.node.state import StateFolder
    from nodectl.trust.release import Release

_SHOWN = 20  # paths or differences listed for people; --json has all

image_app = typer.Typer(
    help="Capture, restore, compare and list images.", no_args_is_help=True, rich_markup_mode=None
)

GenerationOption = Annotated[
    int, typer.Option("--generation", min=0, help="A generation; without it the last.")
]

ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help='Leave out, e.g. "/srv/*" or "*.o".'),
]
MountOption = Annotated[
    list[str] | None,
    typer.Option("--with-mount", metavar="PATH", help="A mount point below that belongs to it."),
]
SealOption = Annotated[
    str, typer.Option(help="Leave out kernel, temporary and identity files: auto, yes or no.")
]
CompressOption = Annotated[str, typer.Option(help="fast (zstd 3) or best (zstd 9).")]
UnreadableOption = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out what cannot be read.")
]
ChangingOption = Annotated[
    bool, typer.Option("--skip-changing", help="Leave out what changes while it is read.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be left out, and stop.")
]


def register(app: typer.Typer) -> None:
    """Add `nodectl image` to the command line."""
    app.add_typer(image_app, name="image")
    image_list.register(image_app)
    block.register(image_app)
    reseal.register(image_app)
    image_access.register(image_app)


@image_app.command()
def capture(
    name: Annotated[str, typer.Argument(help="Name of the image.")],
    tree: Annotated[Path, typer.Option("--tree", help="Directory to capture; / is this system.")],
    exclude: ExcludeOption = None,
    with_mount: MountOption = None,
    seal: SealOption = "auto",
    compress: CompressOption = "fast",
    skip_unreadable: UnreadableOption = False,
    skip_changing: ChangingOption = False,
    dry_run: DryRunOption = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Capture a directory, or this system's root, as the next generation of an image.

    Only the file system of the tree is captured, and those named with --with-mount. In a system's
    root the files that make a machine itself are left out (--seal auto sees /etc/os-release); the
    list is shown, recorded, and the same files are left alone when the image is restored in place.

    Example: nodectl image capture golden --tree / --with-mount /boot/efi

    Exit codes: 10 no such tree, 11 something cannot be read, 12 store full, 14 a wrong value,
    22 a file kept changing, 23 nothing to capture, 40 no realm, 42-43 the controller.
    """
    from nodectl.content.capture import CaptureOptions
    from nodectl.content.excludes import beneath
    from nodectl.store.lease import lease

    folder = _folder_for(name, state)
    own = (*_default_excludes(tree, seal), *beneath(tree, folder.folder))
    options = CaptureOptions(
        excludes=(*own, *(exclude or ())),
        mounts=tuple(_below(tree, path) for path in with_mount or ()),
        skip_unreadable=skip_unreadable,
        skip_changing=skip_changing,
    )
    if dry_run:
        _show_dry_run(tree, options.excludes, options.mounts, json_output=json_output)
        return
    with lease(_member_store(folder)):  # until its root is remembered, gc would see no need of it
        report = _capture(folder, tree, options, compress, json_output=json_output)
        release = publish_captured(state, name, report.root, report.block, kind="tree")
    _show_captured(release, report, json_output=json_output)


def _folder_for(name: str, state: Path | None) -> "StateFolder":
    check_name(name)
    return open_state(state)


def _member_store(folder: "StateFolder") -> Path:
    folder.membership()  # without one nothing is made
    return folder.store


def _show_captured(release: "Release", report: "CaptureReport", *, json_output: bool) -> None:
    document = _capture_document(release, report)
    print(json.dumps(document) if json_output else _capture_text(release, report))


def _default_excludes(tree: Path, seal: str) -> tuple[str, ...]:
    from nodectl.content.excludes import OWN
    from nodectl.errors import InvalidInput
    from nodectl.identity.probe import sealed_of
    from nodectl.identity.rows import for_system_root

    if seal not in ("auto", "yes", "no"):
        raise InvalidInput(f"--seal is auto, yes or no, not {seal!r}")
    is_system = any((tree / name).exists() for name in ("etc/os-release", "usr/lib/os-release"))
    if seal == "yes" or (seal == "auto" and is_system):
        return (*for_system_root(), *sealed_of(tree))
    return OWN


def _below(tree: Path, path: str) -> str:
    """Return a mount point as a path below the tree, however the user wrote it."""
    from nodectl.errors import PathMissing

    for place in (Path(path), tree / path.strip("/")):
        if place.is_relative_to(tree) and place.is_dir():
            return str(place.relative_to(tree))
    raise PathMissing(f"there is no directory {path} below {tree}")


def _capture(
    folder: "StateFolder",
    tree: Path,
    options: "CaptureOptions",
    compress: str,
    *,
    json_output: bool,
) -> "CaptureReport":
    from nodectl.content.capture import STEP, capture_tree
    from nodectl.content.frame import FrameCodec
    from nodectl.events import step
    from nodectl.store.disk import DiskStore

    codec = FrameCodec(folder.membership().content_keys, level=zstd_level(compress))
    observer = observer_for(json_lines=json_output)
    with DiskStore(folder.store) as store, step(observer, STEP):
        memory = folder.cache / "captures"
        return capture_tree(tree, store, codec, options, observer, memory=memory)


def _capture_document(release: "Release", report: "CaptureReport") -> dict[str, Any]:
    return {
        "name": release.name,
        "generation": release.generation,
        "root": report.root.hex(),
        "entries": report.block.entries,
        "plain_bytes": report.block.plain_bytes,
        "new_frames": report.new_frames,
        "new_bytes": report.new_bytes,
        "excludes": list(report.excludes),
        "left_out": [os.fsdecode(path) for path in report.left_out],
        "skipped": [os.fsdecode(path) for path in report.skipped],
    }


def _capture_text(release: "Release", report: "CaptureReport") -> str:
    from nodectl.units import format_size

    block = report.block
    what = f"{block.entries} entries, {format_size(block.plain_bytes)}"
    new = f"{format_size(report.new_bytes)} new in the store"
    lines = [
        f"{release.name} generation {release.generation}: {what}; {new}",
        f"  root {report.root.hex()}",
    ]
    if report.left_out:
        lines.append(f"  left out by the list ({len(report.excludes)} patterns):")
        lines += [f"    {'/' + os.fsdecode(path)!r}"[:200] for path in report.left_out[:_SHOWN]]
        if len(report.left_out) > _SHOWN:
            lines.append(f"    and {len(report.left_out) - _SHOWN} more (--json has all)")
    lines.append("  next: nodectl swarm push " + release.name + " --nodes all")
    return "\n".join(lines)


def _show_dry_run(
    tree: Path, excludes: tuple[str, ...], mounts: tuple[str, ...], *, json_output: bool
) -> None:
    from nodectl.content.excludes import Excludes
    from nodectl.content.walk import Walk

    walk = Walk(tree, Excludes(excludes), frozenset(os.fsencode(path) for path in mounts))
    entries = plain_bytes = 0
    for found in walk:
        entries += 1
        plain_bytes += found.status.st_size
    left_out = [os.fsdecode(path) for path in walk.left_out]
    others = [os.fsdecode(path) for path in walk.mounts_left_out]
    document = {
        "entries": entries,
        "apparent_bytes": plain_bytes,
        "excludes": list(excludes),
        "left_out": left_out,
        "mounts_left_out": others,
    }
    if json_output:
        print(json.dumps(document))
        return
    print(f"{entries} entries would be captured")
    for title, paths in (("left out by the list", left_out), ("other file systems", others)):
        print(f"{title}: {len(paths)}")
        for path in paths:
            print(f"  {'/' + path!r}"[:200])


@image_app.command()
def restore(
    image: Annotated[str, typer.Argument(help="Name of the image, or NAME@GENERATION.")],
    target: Annotated[
        Path, typer.Argument(help="Directory, or for a block image a file or device.")
    ],
    generation: GenerationOption = 0,
    keep_extra: Annotated[
        bool, typer.Option("--keep-extra", help="Leave what the image does not have.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every file; do not trust size and mtime.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before what is there is changed.")
    ] = False,
    seed: Annotated[
        Path | None,
        typer.Option("--seed", help="Of a block image: an older copy beside a new target file."),
    ] = None,
    discard: Annotated[
        bool, typer.Option("--discard", help="Of a block image: discard its holes on a device.")
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Restore an image into a directory; one that holds files is brought to the image in place.

    In place only what differs is written, and what the image does not have is removed
    (--keep-extra leaves it). Files that the image leaves out are left alone. Frames that this
    machine does not have come from the swarm. Where the tree is a clone that boots and its kernels
    changed, its boot menu and initramfs are made anew.

    A block image is brought onto a file or device: blocks that are right are left alone, and what
    was written is read back. A device that is in use or too small is refused before the first
    write.

    Exit codes: 10 no such target, 12 target full, 18 not confirmed, 20 a frame is missing,
    21 content is not what it should be, 27 something changes the target, 28 no such image,
    30 swarm stalled, 40-43 realm and controller, 51 device in use, 52 device too small, 55 what
    was read back is wrong, 59 restored, but its boot menu could not follow, 61 the target takes no
    writes.
    """
    from nodectl.content.restore import STEP, RestoreOptions
    from nodectl.events import step
    from nodectl.node.boot_refresh import refresh_boot

    held = find_held(state, image, generation)
    if block.is_block(held):
        how = block.HowToWrite(seed, discard, yes or json_output)
        block.restore_to(state, held, target, how, json_output=json_output)
        return
    found = stored_image(state, held)
    _ready_target(target, keep_extra=keep_extra, yes=yes or json_output)
    observer = observer_for(json_lines=json_output)
    options = RestoreOptions(keep_extra=keep_extra, deep=deep)
    with step(observer, STEP):
        done = found.restore_into(target, options, observer)
    refresh_boot(target, observer)
    print(json.dumps(_restored_document(done)) if json_output else _restored_text(target, done))


def _ready_target(target: Path, *, keep_extra: bool, yes: bool) -> None:
    """Make the target, or ask before one that holds something is brought to the image."""
    from nodectl.errors import NotConfirmed, PathMissing

    if not target.parent.is_dir():
        raise PathMissing(f"there is no directory {target.parent}")
    if target.exists() and not target.is_dir():
        raise PathMissing(f"{target} is not a directory")
    target.mkdir(exist_ok=True)
    if yes or keep_extra or not any(target.iterdir()):
        return
    question = f"{target} holds files: bring it to the image, removing what the image has not?"
    if not sys.stdin.isatty() or not typer.confirm(question, err=True):
        raise NotConfirmed(f"{target} was left as it is", hint="--yes answers, --keep-extra keeps")


def _restored_document(done: "Restored") -> dict[str, Any]:
    report, streamed = done.report, done.streamed
    return {
        "entries": report.entries,
        "written_files": report.written_files,
        "written_bytes": report.written_bytes,
        "kept_files": report.kept_files,
        "removed": report.removed,
        "not_permitted": report.not_permitted,
        "owners_set": report.owners_set,
        "fetched_bytes": 0 if streamed is None else streamed.fetched_bytes,
        "seeded_bytes": 0 if streamed is None else streamed.seeded_bytes,
        "from": {} if streamed is None else streamed.bytes_from,
    }


def _restored_text(target: Path, done: "Restored") -> str:
    from nodectl.units import format_size

    report = done.report
    written = f"{report.written_files} files written ({format_size(report.written_bytes)})"
    kept = f"{report.kept_files} were right already, {report.removed} removed"
    lines = [f"{target}: {report.entries} entries; {written}, {kept}"]
    if done.streamed is not None:
        lines.append(f"  {format_size(done.streamed.fetched_bytes)} came from the swarm")
    if not report.owners_set:
        lines.append("  not root: all of it belongs to this user")
    if report.not_permitted:
        lines.append(f"  not root: {report.not_permitted} device nodes were not made")
    return "\n".join(lines)


@image_app.command()
def verify(
    image: Annotated[str, typer.Argument(help="Name of the image, or NAME@GENERATION.")],
    against: Annotated[
        Path, typer.Option("--against", metavar="PATH", help="Tree, file or device to compare.")
    ],
    generation: GenerationOption = 0,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Compare a tree with an image, entry by entry and byte by byte, and list the differences.

    Files that the image leaves out are not compared. A plain user compares neither owners nor what
    only root can set.

    Exit codes: 0 equal, 10 no such tree, 20 the manifest is not here, 24 there are differences,
    28 no such image.
    """
    from nodectl.content.verify import STEP
    from nodectl.errors import VerifyFailed
    from nodectl.events import step

    held = find_held(state, image, generation)
    if block.is_block(held):
        block.verify_against(state, held, against, json_output=json_output)
        return
    observer = observer_for(json_lines=json_output)
    with step(observer, STEP):
        report = stored_image(state, held).compare(against, observer)
    differences = [(os.fsdecode(one.path), one.what) for one in report.differences]
    if json_output:
        listed = [{"path": path, "what": what} for path, what in differences]
        document = {
            "verified": not differences,
            "entries": report.entries,
            "plain_bytes": report.plain_bytes,
            "differences": listed,
        }
        print(json.dumps(document))
    else:
        for path, what in differences:
            print(f"{path!r} {what}")
    if differences:
        raise VerifyFailed(
            f"{against} differs from {image} in {len(differences)} ways",
            hint=f"nodectl image restore {image} {against} --deep brings it back",
        )
    if not json_output:
        print(f"{against} is {image}: {report.entries} entries compared")
