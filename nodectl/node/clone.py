"""Clone an image onto a disk of this machine: look, plan, ask, do, read back, report.

Where the content comes from is the caller's business: an `ImageSource` fills the mounted target and
compares it afterwards.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from nodectl.boot.apply import check_boot
from nodectl.boot.first_boot import FirstBoot, check_first_boot
from nodectl.boot.model import BootPlace
from nodectl.catalog.inventory import NodeInventory
from nodectl.catalog.site_files import FilledFile
from nodectl.disk.apply import apply_plan, locked, released
from nodectl.disk.config_files import layout_files
from nodectl.disk.kinds import EXT_TYPES
from nodectl.disk.model import Layout
from nodectl.disk.mounts import make_swap_files, mounted, private_folder, release_abandoned
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.survey import look_and_plan
from nodectl.disk.volumes import mount_points
from nodectl.errors import NotConfirmed, VerifyFailed
from nodectl.events import Event, Note, Observer, StepFinished, step
from nodectl.identity.apply import AppliedIdentity, apply_identity, check_identity
from nodectl.identity.model import IdentityPlan, TreeFacts, WriteFile
from nodectl.identity.old_root import NOTHING, OldRoot, read_old_disks
from nodectl.identity.own import Owner, plan_own
from nodectl.identity.rows import FSTAB
from nodectl.ids import checked_name
from nodectl.node.booting import (
    BootReport,
    BootWish,
    boot_place,
    boot_report,
    check_image,
    make_bootable,
    place_telling,
    write_entries,
)
from nodectl.node.scripts import Scripts, run_script

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

    def paths(self) -> Iterable[str]:
        """Return the path of every entry, without leading "/"; brings the manifest if need be."""

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

    disks: tuple[str, ...]  # path or serial of each, or ID=it; none: what the layout's match says
    layout: Layout
    node_name: str
    verify: bool = True  # compare the tree with the image after it was written
    unmount: bool = False  # take down mounts and swap that are in use on the disks
    inventory: NodeInventory | None = None  # what is said of the node; None: nothing
    boot: BootWish = field(default_factory=BootWish)
    files: tuple[FilledFile, ...] = ()  # of the site, templates filled in
    scripts: Scripts = field(default_factory=Scripts)
    keep: bool = True  # take host keys and the like over from the node's old system on the disk

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
    host_keys: tuple[str, ...]  # "ED25519 SHA256:... (kept)"
    notes: tuple[str, ...]  # what a person should know of the identity
    filesystems: dict[str, str]  # mount point or "swap" -> UUID
    entries: int
    plain_bytes: int
    boot: BootReport | None  # None: the layout has no room for a loader, or it was not asked for
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
        LayoutUnfit: the layout is not for this machine.
    """
    asked = PlanWish(image_bytes=image_bytes, unmount=wish.unmount)
    return look_and_plan(wish.layout, wish.disks, asked)


def clone_onto_disk(
    wish: CloneWish,
    image: ImageSource,
    *,
    confirm: Callable[[DiskPlan], bool],
    observer: Observer,
    announce: Callable[[], FirstBoot | None] = lambda: None,
) -> CloneReport:
    """Clone `image` as `wish` says, once `confirm` has said yes to the plan.

    `announce` is called then, before the first write; what it returns, the clone will carry in
    order to tell of its first start. Whatever was mounted or attached is released when this returns
    or raises. A run that was cut off is simply repeated.

    Raises:
        NotConfirmed: `confirm` said no; nothing was written.
        NodectlError: what `plan_clone` and `apply_plan` raise, and what the image source raises.
        VerifyFailed: the tree on the disk differs from the image.
    """
    watch = _Stopwatch(observer)
    if os.geteuid() == 0:
        for folder in release_abandoned():
            watch.on(Note(text=f"released {folder}, left by a clone that was killed"))
    if wish.scripts.pre is not None:
        run_script(wish.scripts.pre, node=wish.node_name, root=None, observer=watch)
    plan = plan_clone(wish, image.plain_bytes + image.kept_bytes)
    place = check_boots(wish, plan, image)
    if not confirm(plan):
        raise NotConfirmed(
            f"{_names(plan)} was left as it is: the plan was not confirmed",
            hint="answer yes, or pass --yes after reading the plan of --dry-run",
        )
    first = announce()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        old = _old_root(plan, wish, image, folder, watch)
        stack.enter_context(released(plan))
        filled, own = _write(plan, _owner(wish, image, old), image, folder, watch)
        files = _read_back(plan, wish, image, folder, own=own, observer=watch)
        boot = _make_bootable(plan, wish, place, folder, watch, first) if place else None
        if wish.scripts.post is not None:
            with mounted(plan.mounts, folder) as root:
                run_script(wish.scripts.post, node=wish.node_name, root=root, observer=watch)
    return CloneReport(
        disk=plan.disk.path,
        serial=plan.disk.serial,
        size=plan.disk.size,
        fingerprint=plan.fingerprint,
        node_name=wish.node_name,
        machine_id=files.machine_id,
        host_keys=files.host_keys,
        notes=(*old.notes, *files.notes),
        filesystems=_uuids(plan),
        entries=filled.entries,
        plain_bytes=filled.plain_bytes,
        boot=boot,
        verified=wish.verify,
        seconds=watch.seconds,
    )


def _uuids(plan: DiskPlan) -> dict[str, str]:
    """Return the UUID for each mount point, or type of what is mounted nowhere."""
    return {
        point: each.uuid
        for each in plan.filesystems
        for point in (
            [point for point, _, _ in mount_points(each.filesystem)] or [each.filesystem.type]
        )
    }


def check_boots(wish: CloneWish, plan: DiskPlan, image: ImageSource) -> BootPlace | None:
    """Return where the clone will boot from, None where it will not; writes nothing.

    Raises:
        NotBootable: the layout has room for a loader, and the image cannot boot from it.
    """
    place = boot_place(plan) if wish.boot.boots else None
    if place is not None:
        check_image(image.paths(), place)
    return place


def _make_bootable(
    plan: DiskPlan,
    wish: CloneWish,
    place: BootPlace,
    folder: Path,
    observer: Observer,
    first: FirstBoot | None,
) -> BootReport:
    """Mount once more, install what boots, read it back from another mount; then the entries."""
    device = next(each.device for each in plan.mounts if each.path == "/")
    with mounted(plan.mounts, folder) as root:
        boot = make_bootable(root, place, device, observer)
        told = place_telling(root, place, device, first, observer) if first else None
    with (
        step(observer, "read back what boots"),
        mounted(plan.mounts, folder, read_only=True) as root,
    ):
        check_boot(root, boot, place)
        if told is not None:
            check_first_boot(root, told)
    elsewhere = wish.boot.elsewhere or plan.disk.type == "loop"
    entries = write_entries(boot, place, replace(wish.boot, elsewhere=elsewhere), observer)
    return boot_report(
        boot, place, entries, "nobody asked for it" if told is None else told.why_not
    )


def _owner(wish: CloneWish, image: ImageSource, old: OldRoot) -> Owner:
    return Owner(
        realm_id=image.realm_id,
        name=wish.node_name,
        inventory=wish.inventory,
        old=old,
        files=wish.files,
    )


def _old_root(
    plan: DiskPlan, wish: CloneWish, image: ImageSource, folder: Path, observer: Observer
) -> OldRoot:
    """Look at what the disks' old system leaves to the node, before it is gone."""
    if not wish.keep:
        return NOTHING
    with step(observer, "look for host keys on the old disks"):
        disks = [each.disk for each in plan.disks]
        old = read_old_disks(disks, folder, realm_id=image.realm_id, name=wish.node_name)
    for note in old.notes:
        observer.on(Note(text=note))
    return old


@dataclass(frozen=True, slots=True, kw_only=True)
class _Own:
    """The identity that was planned, and what was done for it."""

    plan: IdentityPlan
    applied: AppliedIdentity


def _write(
    plan: DiskPlan, owner: Owner, image: ImageSource, folder: Path, observer: Observer
) -> tuple[FillResult, _Own]:
    """Partition, format, mount, fill, and make the tree the node's; unmounted when it returns."""

    def from_layout(tree: TreeFacts) -> tuple[WriteFile, ...]:
        files = layout_files(tree.texts, tree.folders, plan)
        return tuple(
            WriteFile(path=path, data=text.encode("utf-8", "surrogateescape"), item=FSTAB)
            for path, text in files.items()
        )

    with contextlib.ExitStack() as mounts:
        # Mounts keep others away from the disk; until then its lock does.
        with locked(plan):
            apply_plan(plan, observer)
            root = mounts.enter_context(mounted(plan.mounts, folder))
        with step(observer, "restore", total=image.plain_bytes):
            filled = image.restore(root, observer)
        if plan.swap_files:
            with step(observer, "make swap files"):
                make_swap_files(plan.swap_files, root)
        with step(observer, "write what makes the node itself"):
            wanted = plan_own(root, owner, from_layout)
            own = _Own(plan=wanted, applied=apply_identity(root, wanted))
        with step(observer, "write back and unmount"):
            mounts.close()
    return filled, own


def _read_back(
    plan: DiskPlan,
    wish: CloneWish,
    image: ImageSource,
    folder: Path,
    *,
    own: _Own,
    observer: Observer,
) -> AppliedIdentity:
    """Mount again, read-only, and compare."""
    files = own.applied
    with step(observer, "read back"), mounted(plan.mounts, folder, read_only=True) as root:
        check_identity(root, own.plan)
        if not wish.verify:
            return files
        extra = _extra(plan) | files.made
        differences = image.verify(root, ignored=files.paths, extra=extra)
        if differences:
            shown = "".join(f"\n  {line}" for line in differences[:_SHOWN_DIFFERENCES])
            raise VerifyFailed(
                f"{_names(plan)} differs from the image in {len(differences)} places:{shown}",
                hint="repeat the clone; if it fails again, distrust the disk or the memory",
            )
    return files


def _names(plan: DiskPlan) -> str:
    return ", ".join(each.disk.path for each in plan.disks)


def _extra(plan: DiskPlan) -> frozenset[str]:
    """Return what disks have besides the image: mount points, subvolumes, fsck's folder, swap."""
    paths = [each.path for each in plan.mounts] + [each.path for each in plan.swap_files]
    for fs in plan.layout.filesystems:
        if fs.mount:
            paths += [f"{fs.mount}/{each.path}" for each in fs.subvolumes]
        if fs.type in EXT_TYPES and fs.mount:
            paths.append(f"{fs.mount}/lost+found")
    extra: set[str] = set()
    for each in paths:
        path = PurePosixPath(each.strip("/"))
        extra |= {str(path), *(str(parent) for parent in path.parents)}
    return frozenset(extra - {"."})


def report_document(report: CloneReport) -> dict[str, Any]:
    """Return the report as JSON values."""
    return asdict(report)
