"""Clone an image onto a disk of this machine: look, plan, ask, do, read back, report.

Where the content comes from is the caller's business: an `ImageSource` fills the mounted target and
compares it afterwards.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from nodectl.disk.apply import apply_plan, locked, partitions_released
from nodectl.disk.facts import DiskFacts
from nodectl.disk.model import DiskMatch, FsType, Layout
from nodectl.disk.mounts import mounted, private_folder, release_abandoned
from nodectl.disk.plan import DiskPlan, choose_disk, plan_disk
from nodectl.disk.probe import disk_named, probe_contents, probe_disks
from nodectl.errors import NeedsRoot, NotConfirmed, VerifyFailed
from nodectl.events import Event, Note, Observer, StepFinished, step
from nodectl.ids import checked_name
from nodectl.node.first_files import FirstFiles, check_first_files, write_first_files

_SHOWN_DIFFERENCES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FillResult:
    """What an image source put into the target."""

    entries: int  # of every type
    plain_bytes: int  # of file content


class ImageSource(Protocol):
    """An image that can be restored: from a store, from the swarm, from a folder in tests."""

    @property
    def plain_bytes(self) -> int:
        """Bytes of file content; what the disk must have room for at least."""

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay on the disk beside the content: the frames that a swarm brings."""

    @property
    def realm_id(self) -> str:
        """The realm that the clone belongs to; the machine-id is derived from it."""

    @property
    def node_name(self) -> str:
        """This machine's name in the realm: the clone's, where no other is asked for."""

    def restore(self, target: Path, observer: Observer) -> FillResult:
        """Put the tree into the empty, mounted `target`; its mount points are there already."""

    def verify(
        self, target: Path, *, ignored: frozenset[str], extra: frozenset[str]
    ) -> Sequence[str]:
        """Compare `target` with the image; return a line for each difference.

        Paths have no leading "/". Those in `ignored` are not compared at all (the files that make
        the clone a machine of its own); those in `extra` may be there without being in the image.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneWish:
    """What is asked."""

    disk: str  # path or serial; empty: what the layout's match says
    layout: Layout
    node_name: str
    verify: bool = True  # compare the tree with the image after it was written

    def __post_init__(self) -> None:
        """Refuse a name that a host cannot have."""
        checked_name(self.node_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneReport:
    """What was done, and read back."""

    disk: str
    serial: str
    size: int  # bytes
    fingerprint: str
    node_name: str
    machine_id: str
    filesystems: dict[str, str]  # mount point or "swap" -> UUID
    entries: int
    plain_bytes: int
    verified: bool  # the tree was compared with the image; the first files always are
    seconds: dict[str, float]  # step -> how long it took


class _Stopwatch:
    """Passes events on and remembers how long each step took."""

    def __init__(self, observer: Observer) -> None:
        self.seconds: dict[str, float] = {}
        self._observer = observer

    def on(self, event: Event) -> None:
        if isinstance(event, StepFinished):
            self.seconds[event.step] = self.seconds.get(event.step, 0.0) + event.seconds
        self._observer.on(event)


def plan_clone(wish: CloneWish, image_bytes: int) -> DiskPlan:
    """Look at the disks and plan; writes nothing.

    Raises:
        NeedsRoot: only root may read disks.
        DiskMissing: no disk, or more than one, is meant.
        DiskBusy: the disk is in use.
        DiskTooSmall: the layout or the image does not fit.
    """
    if os.geteuid() != 0:
        raise NeedsRoot("reading and writing disks needs root", hint="run the command with sudo")
    named = disk_named(wish.disk) if wish.disk else DiskMatch()
    disk: DiskFacts = choose_disk(probe_disks(), [named, wish.layout.disks[0].match])
    return plan_disk(
        probe_contents(disk), wish.layout, image_bytes=image_bytes, new_uuid=uuid.uuid4
    )


def clone_onto_disk(
    wish: CloneWish,
    image: ImageSource,
    *,
    confirm: Callable[[DiskPlan], bool],
    observer: Observer,
) -> CloneReport:
    """Clone `image` as `wish` says, once `confirm` has said yes to the plan.

    Whatever was mounted or attached is released when this returns or raises. A run that was cut
    off is simply repeated.

    Raises:
        NotConfirmed: `confirm` said no; nothing was written.
        NodectlError: what `plan_clone` and `apply_plan` raise, and what the image source raises.
        VerifyFailed: the tree on the disk differs from the image.
    """
    watch = _Stopwatch(observer)
    if os.geteuid() == 0:
        for folder in release_abandoned():
            watch.on(Note(text=f"released {folder}, left by a clone that was killed"))
    plan = plan_clone(wish, image.plain_bytes + image.kept_bytes)
    if not confirm(plan):
        raise NotConfirmed(
            f"{plan.disk.path} was left as it is: the plan was not confirmed",
            hint="answer yes, or pass --yes after reading the plan of --dry-run",
        )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        stack.enter_context(partitions_released(plan))
        filled, files = _write(plan, wish, image, folder, watch)
        _read_back(plan, wish, image, folder, files=files, observer=watch)
    return CloneReport(
        disk=plan.disk.path,
        serial=plan.disk.serial,
        size=plan.disk.size,
        fingerprint=plan.fingerprint,
        node_name=wish.node_name,
        machine_id=files.machine_id,
        filesystems={
            each.filesystem.mount or str(each.filesystem.type): each.fs_uuid
            for each in plan.partitions
            if each.filesystem
        },
        entries=filled.entries,
        plain_bytes=filled.plain_bytes,
        verified=wish.verify,
        seconds=watch.seconds,
    )


def _write(
    plan: DiskPlan, wish: CloneWish, image: ImageSource, folder: Path, observer: Observer
) -> tuple[FillResult, FirstFiles]:
    """Partition, format, mount, fill, and write the first files; unmounted when it returns."""
    with contextlib.ExitStack() as mounts:
        # Mounts keep others away from the disk; until then its lock does.
        with locked(plan.disk):
            apply_plan(plan, observer)
            root = mounts.enter_context(mounted(plan.mounts, folder))
        with step(observer, "restore", total=image.plain_bytes):
            filled = image.restore(root, observer)
        with step(observer, "write fstab, hostname and machine-id"):
            files = write_first_files(
                root, plan.partitions, realm_id=image.realm_id, node_name=wish.node_name
            )
        with step(observer, "write back and unmount"):
            mounts.close()
    return filled, files


def _read_back(
    plan: DiskPlan,
    wish: CloneWish,
    image: ImageSource,
    folder: Path,
    *,
    files: FirstFiles,
    observer: Observer,
) -> None:
    """Mount again, read-only, and compare."""
    with step(observer, "read back"), mounted(plan.mounts, folder, read_only=True) as root:
        check_first_files(root, files)
        if not wish.verify:
            return
        extra = _extra(plan) | files.made
        differences = image.verify(root, ignored=frozenset(files.written), extra=extra)
        if differences:
            shown = "".join(f"\n  {line}" for line in differences[:_SHOWN_DIFFERENCES])
            raise VerifyFailed(
                f"{plan.disk.path} differs from the image in {len(differences)} places:{shown}",
                hint="repeat the clone; if it fails again, distrust the disk or the memory",
            )


def _extra(plan: DiskPlan) -> frozenset[str]:
    """Return what a disk has besides the image: mount points, and the folder of fsck."""
    extra = set()
    for each in plan.mounts:
        path = PurePosixPath(each.path.strip("/"))
        extra |= {str(path), *(str(parent) for parent in path.parents)}
        if each.type is FsType.EXT4:
            extra.add(str(path / "lost+found"))
    return frozenset(extra - {"."})


def report_json(report: CloneReport) -> str:
    """Return the report as one line of JSON."""
    fields = {name: getattr(report, name) for name in CloneReport.__dataclass_fields__}
    return json.dumps(fields)
