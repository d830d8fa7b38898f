"""Filesystems, swap and mounts of a plan: devices, UUIDs, whether everything fits. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from nodectl.disk.compare import Found
from nodectl.disk.facts import DiskFacts, Signature
from nodectl.disk.kinds import FsType, Preserve, min_fs_bytes
from nodectl.disk.model import Layout
from nodectl.disk.placing import Placed
from nodectl.disk.plan_stack import StackPlan
from nodectl.disk.sizes import size_words
from nodectl.disk.steps import (
    CreateSubvolumes,
    FormatFilesystem,
    MakeSwap,
    MakeSwapFile,
    MountFilesystem,
    Step,
)
from nodectl.disk.volumes import Filesystem, mount_points
from nodectl.errors import DiskTooSmall, LayoutUnfit


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFilesystem:
    """A filesystem or swap area as it will be."""

    filesystem: Filesystem
    device: str
    size: int  # bytes, about
    uuid: str  # as blkid writes it
    is_kept: bool = False  # it is there already, and is not made


def plan_filesystems(
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    stack: StackPlan,
    found: Found,
    new_uuid: Callable[[], UUID],
) -> tuple[PlannedFilesystem, ...]:
    """Return all filesystems of the layout, in its order.

    Raises:
        LayoutUnfit: one that is to be kept is not there.
    """
    there = _kept_signatures(chosen, placed)
    planned = []
    for fs in layout.filesystems:
        device = stack.devices[fs.volume]
        uuid = found.uuids.get(f"fs:{fs.volume}", "")
        kept = bool(uuid)
        if not kept and fs.preserve is not Preserve.NONE:
            uuid = _kept_uuid(fs, device, there.get(fs.volume, ()))
            kept = bool(uuid)
        planned.append(
            PlannedFilesystem(
                filesystem=fs,
                device=device,
                size=stack.sizes.get(fs.volume, 0),
                uuid=uuid or fs.uuid or _new_uuid(fs, new_uuid),
                is_kept=kept,
            )
        )
    return tuple(planned)


def _kept_signatures(
    chosen: Mapping[str, DiskFacts], placed: Mapping[str, Sequence[Placed]]
) -> dict[str, tuple[Signature, ...]]:
    """Return what stands on kept partitions and on whole disks, by the ids of the layout."""
    there: dict[str, tuple[Signature, ...]] = {}
    for name, disk in chosen.items():
        if disk.contents and not disk.contents.table:
            there[name] = disk.contents.signatures
        for each in placed[name]:
            if each.partition and each.kept:
                there[each.partition.id] = each.kept.signatures
    return there


def is_intact(layout: Layout, name: str, disk: DiskFacts, places: Sequence[Placed]) -> bool:
    """Say whether everything on a disk is kept, so that nothing at all is written to it."""
    contents = disk.contents
    if contents is None:
        return False
    kept = [each for each in places if each.partition and each.kept]
    if len(kept) != len(places) or len(kept) != len(contents.partitions):
        return False
    there = {
        each.partition.id: each.kept.signatures for each in kept if each.partition and each.kept
    }
    if not kept:
        there = {name: contents.signatures}
        if contents.table or layout.filesystem_on(name) is None:
            return False
    built_on = {below for each in layout.stacks for below in layout.below(each.id)}
    for volume, signatures in there.items():
        fs = layout.filesystem_on(volume)
        if volume in built_on or (fs and not _is_kept(fs, signatures)):
            return False
    return True


def _is_kept(fs: Filesystem, signatures: Sequence[Signature]) -> bool:
    return fs.preserve is not Preserve.NONE and _found(fs, signatures) is not None


def _found(fs: Filesystem, signatures: Sequence[Signature]) -> Signature | None:
    fitting = (
        each
        for each in signatures
        if each.type == fs.type and (not fs.label or each.label == fs.label)
    )
    return next(fitting, None)


def _kept_uuid(fs: Filesystem, device: str, signatures: Sequence[Signature]) -> str:
    found = _found(fs, signatures)
    if found:
        return found.uuid
    if fs.preserve is Preserve.KEEP:
        now = ", ".join(each.type for each in signatures) or "nothing that is known"
        label = f" labelled {fs.label}" if fs.label else ""
        raise LayoutUnfit(
            f"{device} is to keep its {fs.type}{label}, and holds {now}; nothing was written",
            hint="correct the layout, or choose another disk",
        )
    return ""


def _new_uuid(fs: Filesystem, new_uuid: Callable[[], UUID]) -> str:
    uuid = new_uuid()
    if fs.type is FsType.VFAT:
        digits = uuid.hex[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"
    return str(uuid)


def check_room(
    layout: Layout,
    filesystems: Sequence[PlannedFilesystem],
    image_bytes: int,
    chosen: Mapping[str, DiskFacts],
) -> None:
    """Refuse what cannot fit, before anything is written.

    For the image a lower bound on purpose: the filesystems' own needs are only estimated (2 %), so
    that nothing that fits is refused; what is fuller is met as a full disk while restoring.

    Raises:
        DiskTooSmall: a filesystem, its known content, or the image.
    """
    for each in filesystems:
        fs = each.filesystem
        sector = max(chosen[disk].logical_sector for disk in layout.disks_below(fs.volume))
        needed = max(min_fs_bytes(fs.type, sector), fs.min_used)
        if not each.is_kept and each.size < needed:
            what = f"its content needs {size_words(needed)}"
            if needed == min_fs_bytes(fs.type, sector):
                what = f"{fs.type} needs {size_words(needed)}"
            raise DiskTooSmall(
                f"only {size_words(each.size)} are left for {fs.volume} ({each.device}), {what}; "
                "nothing was written",
                hint="use a larger disk or smaller sizes in the layout",
            )
    mounted = {each.device: each.size for each in filesystems if any(mount_points(each.filesystem))}
    room = sum(mounted.values())
    room -= room // 50 + sum(each.size for each in layout.swap_files)
    if image_bytes > room:
        raise DiskTooSmall(
            f"the image holds {size_words(image_bytes)}, the filesystems of the layout have room "
            f"for about {size_words(max(room, 0))}; nothing was written",
            hint="use a larger disk or another layout",
        )


def format_steps(planned: PlannedFilesystem) -> tuple[Step, ...]:
    """Return the steps that make a filesystem; none for one that is kept."""
    fs = planned.filesystem
    if planned.is_kept:
        return ()
    if fs.type is FsType.SWAP:
        return (
            MakeSwap(
                device=planned.device, uuid=planned.uuid, label=fs.label, options=fs.mkfs_options
            ),
        )
    made = FormatFilesystem(
        device=planned.device,
        type=fs.type,
        uuid=planned.uuid,
        label=fs.label.upper() if fs.type is FsType.VFAT else fs.label,
        options=fs.mkfs_options,
    )
    if not fs.subvolumes:
        return (made,)
    paths = sorted(each.path for each in fs.subvolumes)
    return made, CreateSubvolumes(device=planned.device, paths=tuple(paths))


def mount_steps(
    layout: Layout, filesystems: Sequence[PlannedFilesystem], new_uuid: Callable[[], UUID]
) -> tuple[Step, ...]:
    """Return the mounts, parents first, then the swap files on them."""
    mounts = [
        MountFilesystem(
            device=each.device,
            path=point,
            type=each.filesystem.type,
            options=((f"subvol={subvolume}",) if subvolume else ()) + options,
        )
        for each in filesystems
        for point, subvolume, options in mount_points(each.filesystem)
    ]
    mounts.sort(key=lambda step: (step.path.rstrip("/").count("/"), step.path))
    files = [
        MakeSwapFile(path=each.path, size=each.size, uuid=str(new_uuid()))
        for each in layout.swap_files
    ]
    return (*mounts, *files)
