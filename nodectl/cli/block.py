"""Block images: `nodectl image capture-block`, and what restore and verify do with one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from nodectl.cli.capturing import check_name, publish_captured, zstd_level
from nodectl.cli.membership import JsonOption, StateOption, open_state
from nodectl.cli.progress import observer_for

if TYPE_CHECKING:
    from nodectl.content.block_capture import BlockCaptureReport
    from nodectl.node.state import HeldRoot
    from nodectl.trust.release import Release

_SHOWN = 20  # ranges listed for people; --json has all


def register(image_app: typer.Typer) -> None:
    """Add the command to `nodectl image`."""
    image_app.command("capture-block")(capture_block)


def capture_block(
    name: Annotated[str, typer.Argument(help="Name of the image.")],
    device: Annotated[
        Path,
        typer.Option("--device", metavar="PATH", help="A raw or qcow2 file, or a block device."),
    ],
    compress: Annotated[str, typer.Option(help="fast (zstd 3) or best (zstd 9).")] = "fast",
    in_use: Annotated[
        bool, typer.Option("--in-use", help="Read a device although it is mounted.")
    ] = False,
    all_blocks: Annotated[
        bool, typer.Option("--all-blocks", help="Capture what a file system calls free as well.")
    ] = False,
    state: StateOption = None,
    json_output: JsonOption = False,
) -> None:
    """Capture a disk image, a partition or a whole disk, block by block, as the next generation.

    Holes and blocks of zeros are left out, and so is what a clean file system in it calls free
    (ext2 to ext4, also in partitions; XFS and btrfs where partclone is installed): a restore leaves
    zeros there. What an earlier generation has is not stored twice. A qcow2 file is read through
    qemu-nbd (package qemu-utils). Nothing is written to the source.

    Example: nodectl image capture-block debian --device /srv/templates/debian.qcow2

    Exit codes: 10 no such file, 11 it cannot be read, 12 store full, 14 a qcow2 file that is
    damaged, encrypted or not whole, or a format that is neither raw nor qcow2, 15 qemu-img is
    missing, 22 it changed meanwhile, 40 no realm, 42-43 the controller, 51 it is in use.
    """
    from nodectl.content.block_capture import STEP
    from nodectl.content.block_capture import capture_block as capture
    from nodectl.content.block_source import SourceOptions, open_source
    from nodectl.content.frame import FrameCodec
    from nodectl.events import step
    from nodectl.store.disk import DiskStore
    from nodectl.store.lease import lease

    check_name(name)
    folder = open_state(state)
    codec = FrameCodec(folder.membership().content_keys, level=zstd_level(compress))
    observer = observer_for(json_lines=json_output)
    options = SourceOptions(in_use=in_use, all_blocks=all_blocks)
    with lease(folder.store):  # until its root is remembered, gc would see no need of it
        with (
            open_source(device, options) as source,
            DiskStore(folder.store) as store,
            step(observer, STEP),
        ):
            report = capture(source, store, codec, observer)
        release = publish_captured(state, name, report.root, report.block, kind="block")
    _show_captured(release, report, json_output=json_output)


def _show_captured(release: "Release", report: "BlockCaptureReport", *, json_output: bool) -> None:
    document = {
        "name": release.name,
        "generation": release.generation,
        "root": report.root.hex(),
        "size": report.size,
        "plain_bytes": report.block.plain_bytes,
        "chunks": report.block.entries,
        "new_frames": report.new_frames,
        "new_bytes": report.new_bytes,
        "free_bytes": report.free_bytes,
    }
    if json_output:
        print(json.dumps(document))
        return
    from nodectl.units import format_size

    size, data = format_size(report.size), format_size(report.block.plain_bytes)
    print(
        f"{release.name} generation {release.generation}: {size}, of it {data} data; "
        f"{format_size(report.new_bytes)} new in the store\n"
        f"  {format_size(report.free_bytes)} left out that its file systems call free\n"
        f"  root {report.root.hex()}\n"
        f"  next: nodectl swarm push {release.name} --nodes all"
    )


class HowToWrite(NamedTuple):
    """What the options of restore say about a block image."""

    seed: Path | None
    discard: bool
    yes: bool


def is_block(held: "HeldRoot") -> bool:
    """Say whether a root is that of a block image."""
    from nodectl.content.format import decode_root_block
    from nodectl.content.manifest import KIND_BLOCK

    return decode_root_block(held.root_block).kind == KIND_BLOCK


def restore_to(
    state: Path | None,
    held: "HeldRoot",
    target: Path,
    how: "HowToWrite",
    *,
    json_output: bool,
) -> None:
    """Bring a file or a device to a block image, and say what was done."""
    from nodectl.content.block_restore import STEP, BlockRestoreOptions
    from nodectl.errors import PathMissing
    from nodectl.events import step
    from nodectl.node.block_images import BlockImage

    if target.is_dir():
        raise PathMissing(
            f"{target} is a directory, and {held.name} a block image",
            hint="name a file or a device",
        )
    _confirm(target, held, yes=how.yes)
    observer = observer_for(json_lines=json_output)
    options = BlockRestoreOptions(seed=how.seed, discard=how.discard)
    with step(observer, STEP):
        done = BlockImage(open_state(state), held).restore(target, options, observer)
    report = done.report
    document = {
        "size": report.size,
        "written_bytes": report.written_bytes,
        "kept_bytes": report.kept_bytes,
        "cleared_bytes": report.cleared_bytes,
        "fetched_bytes": done.fetched_bytes,
        "seeded_bytes": done.seeded_bytes,
    }
    if json_output:
        print(json.dumps(document))
        return
    from nodectl.units import format_size

    written, kept = format_size(report.written_bytes), format_size(report.kept_bytes)
    print(f"{target}: {written} written, {kept} were right already; read back and compared")
    if done.fetched_bytes:
        print(f"  {format_size(done.fetched_bytes)} came from the swarm")


def _confirm(target: Path, held: "HeldRoot", *, yes: bool) -> None:
    """Ask before something that is there is overwritten."""
    import sys

    from nodectl.errors import NotConfirmed

    if yes or not target.exists() or (target.is_file() and not target.stat().st_size):
        return
    what = "device" if target.is_block_device() else "file"
    question = f"overwrite the {what} {target} with {held.name} generation {held.generation}?"
    if not sys.stdin.isatty() or not typer.confirm(question, err=True):
        raise NotConfirmed(f"{target} was left as it is", hint="--yes answers")


def verify_against(
    state: Path | None, held: "HeldRoot", target: Path, *, json_output: bool
) -> None:
    """Compare a file or a device with a block image; what stands behind its end does not count."""
    from nodectl.errors import VerifyFailed
    from nodectl.events import step
    from nodectl.node.block_images import VERIFY_STEP, BlockImage

    observer = observer_for(json_lines=json_output)
    with step(observer, VERIFY_STEP):
        found = BlockImage(open_state(state), held).compare(target, observer)
    if json_output:
        ranges = [{"offset": offset, "length": length} for offset, length in found]
        print(json.dumps({"verified": not found, "differences": ranges}))
    else:
        for offset, length in found[:_SHOWN]:
            print(f"bytes {offset} to {offset + length} differ")
    if found:
        raise VerifyFailed(
            f"{target} differs from {held.name} in {len(found)} ranges",
            hint=f"nodectl image restore {held.name} {target} writes what differs",
        )
    if not json_output:
        print(f"{target} is {held.name} generation {held.generation}, byte for byte")
