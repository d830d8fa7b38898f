"""`nodectl clone`: an image onto a disk of this machine."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import typer

from nodectl.boot.model import BootOrder
from nodectl.cli.disk_plan import ask, plan_document, plan_text, read_layout, written_names
from nodectl.cli.given import given_scripts, given_to, stored_layout
from nodectl.cli.membership import open_state
from nodectl.cli.progress import observer_for
from nodectl.cli.releases import open_image

if TYPE_CHECKING:
    from nodectl.catalog.site_files import FilledFile
    from nodectl.disk.model import Layout
    from nodectl.disk.plan import DiskPlan
    from nodectl.node.clone import CloneReport, CloneWish, ImageSource
    from nodectl.node.images import StoredImage
    from nodectl.node.state import Membership
    from nodectl.node.told_clone import ToldClone


_DISK = typer.Option(
    [], "--disk", help="Path or serial of a target disk; ID=... where the layout has several."
)
_LAYOUT = typer.Option(
    None, "--layout", help="Disk layout (TOML). Without it: one ext4 root on the whole disk."
)
_DISKLAYOUT = typer.Option(
    "", "--disklayout", help="Name of a layout that is kept at the controller."
)
_SCRIPTS = typer.Option(
    True, "--scripts/--no-scripts", help="Run the scripts that the image has (cloner script)."
)
_HOSTNAME = typer.Option(
    "", "--hostname", help="Name of the clone. Without it: this machine's name in the realm."
)
_UNMOUNT = typer.Option(
    False, "--unmount", help="Take down mounts and swap that are in use on the disks."
)
_FRESH_KEYS = typer.Option(
    False, "--fresh-keys", help="Do not keep SSH host keys and the like of the old disk."
)
_VERIFY = typer.Option(
    True, "--verify/--no-verify", help="Compare every entry with the image afterwards."
)
_STATE = typer.Option(None, "--state", envvar="NODECTL_STATE", help="State folder of nodectl.")
_BOOT = typer.Option(
    True, "--boot/--no-boot", help="Make it boot, where the layout has room for a loader."
)
_ORDER = typer.Option(BootOrder.LEAVE, "--boot-order", help="What the firmware tries first.")
_FOLLOW = typer.Option(
    True, "--follow/--no-follow", help="Let the controller follow it, to the clone's first start."
)
_JOB = typer.Option(
    None, "--job", min=1, help="The job that ordered it. Without it: one is made for it."
)
_RESTART = typer.Option(
    False, "--restart", help="Then restart this machine, to start from the new disk."
)
_JOIN = typer.Option(False, "--join-clone", hidden=True)  # for installers: see _membership_of
_ELSEWHERE = typer.Option(
    False, "--for-other-machine", help="Write no boot entries into this machine's firmware."
)


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(clone)


def clone(
    *,
    image: str = typer.Argument(..., help="Name of the image, or NAME@GENERATION."),
    disk: list[str] = _DISK,
    layout: Path = _LAYOUT,
    disklayout: str = _DISKLAYOUT,
    hostname: str = _HOSTNAME,
    unmount: bool = _UNMOUNT,
    yes: bool = typer.Option(False, "--yes", help="Do not ask before the disk is overwritten."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show the plan and stop."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON: the report, or the plan."),
    fresh_keys: bool = _FRESH_KEYS,
    boot: bool = _BOOT,
    boot_order: BootOrder = _ORDER,
    elsewhere: bool = _ELSEWHERE,
    verify: bool = _VERIFY,
    scripts: bool = _SCRIPTS,
    follow: bool = _FOLLOW,
    job: int = _JOB,
    restart: bool = _RESTART,
    join_clone: bool = _JOIN,
    state: Path = _STATE,
) -> None:
    """Clone an image onto a disk: partition, format, restore, make it a machine of its own.

    Shows which disk it is by model, serial and size, and what is on it and will be lost; asks; then
    writes, reads back and reports. Nothing stays mounted or attached. A layout with an EFI system
    partition gets a loader for UEFI, one with a BIOS boot partition one for BIOS, and the image
    must then have a kernel; without either the disk is data.

    The controller follows the clone as a job. What boots tells it, once, by a ticket on the new
    disk: only then is the job done. `nodectl job watch N`, on another machine, waits.

    Status: 0 cloned and read back, 10/11/14 a path or value, 12 full, 15/16 a program is missing or
    failed, 17 not root, 18 not confirmed, 20-29 content, 30 swarm, 40-43 realm and controller, 50
    no such disk or several, 51 in use, 52 too small, 53 layout has mistakes, 54 changed since the
    plan, 55 read back differs, 56 not released, 57 layout not for this machine, 58 the image cannot
    boot from it, 59 what boots could not be made, 91 a template lacks a value, 130 stopped.
    """
    from nodectl.node.booting import BootWish
    from nodectl.node.clone import CloneWish

    source = open_image(state, image)
    name = _node_name(hostname or source.node_name)
    said, files = (None, ()) if dry_run else given_to(state, name)
    wish = CloneWish(
        disks=tuple(disk),
        layout=_layout_of(state, layout, disklayout),
        node_name=name,
        verify=verify,
        unmount=unmount,
        boot=BootWish(boots=boot, order=boot_order, elsewhere=elsewhere),
        inventory=said,
        files=(*files, *_membership_of(state)) if join_clone else files,
        keep=not fresh_keys,
        scripts=given_scripts(state, name, image, runs=scripts and not dry_run),
    )
    asked = _Asked(dry_run=dry_run, follow=follow, state=state, job=job, restart=restart)
    _plan_or_clone(wish, source, asked, yes=yes, as_json=as_json)


def _layout_of(state: Path, layout: Path | None, disklayout: str) -> "Layout":
    from nodectl.errors import InvalidInput

    if layout is not None and disklayout:
        raise InvalidInput("--layout and --disklayout contradict each other")
    return stored_layout(state, disklayout) if disklayout else read_layout(layout)


def _node_name(text: str) -> str:
    from nodectl.errors import InvalidInput
    from nodectl.ids import checked_name

    try:
        return checked_name(text)
    except ValueError as exc:
        raise InvalidInput(f"--hostname: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Whether anything is done, and how the controller is to follow it."""

    dry_run: bool
    follow: bool
    state: Path
    job: int | None
    restart: bool


def _plan_or_clone(
    wish: "CloneWish", source: "StoredImage", asked: _Asked, *, yes: bool, as_json: bool
) -> None:
    """Print the plan; or clone, and tell the controller of each step and of the restart."""
    from nodectl.errors import InvalidInput
    from nodectl.node.told_clone import ToldClone

    if asked.dry_run:
        print_plan(wish, source, as_json=as_json)
        return
    if asked.restart and wish.boot.elsewhere:
        raise InvalidInput("--restart and --for-other-machine contradict each other")
    if not asked.follow:
        run_clone(wish, source, yes=yes, as_json=as_json)
        if asked.restart:
            _restart(None, wish.node_name, None)
        return
    membership = open_state(asked.state).membership()
    observer = observer_for(json_lines=as_json)
    with ToldClone(membership, source, wish.node_name, observer, ordered=asked.job) as told:
        run_clone(wish, source, yes=yes, as_json=as_json, told=told)
    if told.awaits_start and not as_json:
        print(f"  job {told.job_id}; wait for its start: nodectl job watch {told.job_id}")
    if asked.restart:
        _restart(membership, wish.node_name, told.job_id)


def _restart(membership: "Membership | None", name: str, job_id: int | None) -> None:
    """Tell the controller that this machine goes down, and let it."""
    from nodectl.errors import NodectlError
    from nodectl.node.told_clone import tell_restart
    from nodectl.run import run

    if membership is not None and job_id is not None:
        try:
            asyncio.run(tell_restart(membership, name, job_id))
        except NodectlError as exc:
            print(f"nodectl: the restart was not told to the controller: {exc}", file=sys.stderr)
    run(["reboot"])


def print_plan(wish: "CloneWish", source: "ImageSource", *, as_json: bool) -> None:
    """Plan and print; nothing is written."""
    import json

    from nodectl.node.clone import check_boots, plan_clone

    made = plan_clone(wish, source.plain_bytes + source.kept_bytes)
    check_boots(wish, made, source)
    print(json.dumps(plan_document(made)) if as_json else plan_text(made))


def _membership_of(state: Path) -> "tuple[FilledFile, ...]":
    """Return the membership that this installer leaves to the node, as a file of the clone.

    The controller makes the installer's membership the node's when it hears that all is done.
    """
    import dataclasses
    import json

    from nodectl.catalog.site_files import EVERYBODY, FileKind, FilledFile, SiteFile
    from nodectl.cli.membership import open_state
    from nodectl.trust.token import Role

    kept = dataclasses.replace(open_state(state).membership(), role=Role.NODE)
    place = SiteFile(name="membership", kind=FileKind.SECRET, group=EVERYBODY,
                     path="var/lib/nodectl/node.json", owner="root:root", mode=0o600)  # fmt: skip
    return (FilledFile(file=place, content=json.dumps(kept.to_json(), indent=1).encode() + b"\n"),)


def run_clone(
    wish: "CloneWish",
    source: "ImageSource",
    *,
    yes: bool,
    as_json: bool,
    told: "ToldClone | None" = None,
) -> None:
    """Plan, ask, clone and print; `told` is who tells the controller of it."""
    import json

    from nodectl.node.clone import clone_onto_disk, report_document

    def confirm(made: "DiskPlan") -> bool:
        if not (yes and as_json):
            print(plan_text(made), file=sys.stderr)
        return yes or ask(written_names(made))

    with _stop_signals_raise():
        report = clone_onto_disk(
            wish,
            source,
            confirm=confirm,
            observer=told or observer_for(json_lines=as_json),
            announce=told.begin if told else lambda: None,
        )
        if told is not None:
            told.applied(report)
    document = {**report_document(report), "job": told.job_id if told else None}
    print(json.dumps(document) if as_json else report_text(report))


@contextlib.contextmanager
def _stop_signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the clone as Ctrl-C does, so that everything is released."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report_text(report: "CloneReport") -> str:
    """Return the report for people."""
    from nodectl.units import format_duration, format_size

    seconds = sum(report.seconds.values())
    checked = "every entry compared" if report.verified else "tree not compared"
    what = f"{report.entries} entries, {format_size(report.plain_bytes)}, {checked}"
    lines = [
        f"{report.node_name} is on {report.disk}: {what}, in {format_duration(seconds)}",
        f"  machine-id {report.machine_id}",
    ]
    lines += [f"  host key {key}" for key in report.host_keys]
    lines += [f"  note: {note}" for note in report.notes]
    lines.append(f"  boots by {_boot_text(report)}")
    lines += [f"  {place} UUID {fs_uuid}" for place, fs_uuid in report.filesystems.items()]
    return "\n".join(lines)


def _boot_text(report: "CloneReport") -> str:
    boot = report.boot
    if boot is None:
        return "nothing: it is data, or for machines that boot from the network"
    words = [
        f"UEFI ({boot.loader})" if each == "uefi" else "BIOS (GRUB)" for each in boot.firmwares
    ]
    lines = [f"{' and '.join(words)}, kernel {', '.join(boot.kernels)}"]
    text = "\n    firmware: ".join([*lines, *boot.entries])
    return (
        f"{text}\n  its first start will not be confirmed: {boot.untold}" if boot.untold else text
    )
