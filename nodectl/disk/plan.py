"""From facts and a layout to a plan: what will be written where, as values. Pure.

A plan is a tuple of steps (`disk/steps.py`). UUIDs come in as an argument. Disks that share an
array or volume group are planned together; such a set of disks that already looks as the layout
says may be left as it is. `disk/apply.py` does it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from nodectl.disk.compare import UNFINISHED_GPT, UNFINISHED_MBR, Found, find_existing
from nodectl.disk.facts import DiskFacts, MachineFacts
from nodectl.disk.kinds import TableKind
from nodectl.disk.model import Layout
from nodectl.disk.placing import Placed, kept_partitions, place
from nodectl.disk.plan_content import (
    PlannedFilesystem,
    check_room,
    format_steps,
    is_intact,
    mount_steps,
    plan_filesystems,
)
from nodectl.disk.plan_stack import PhysicalVolume, PlannedVolume, StackPlan, plan_stack
from nodectl.disk.plan_table import PlannedPartition, plan_partitions, seal_steps, table_steps
from nodectl.disk.release import plan_release, refuse_held
from nodectl.disk.steps import (
    DeactivateGroup,
    Destructive,
    MakeSwapFile,
    MountFilesystem,
    Release,
    RemoveMapping,
    Step,
    StopArray,
)
from nodectl.errors import LayoutUnfit

_FINGERPRINT_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanWish:
    """What is asked beside the layout."""

    image_bytes: int = 0  # plain size of what will be restored
    keep_equal: bool = False  # disks that already look so are not made anew
    unmount: bool = False  # mounts and swap in use may be taken down


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDisk:
    """A disk of the plan."""

    id: str  # in the layout
    disk: DiskFacts
    uuid: str  # of its table, empty without one
    is_kept: bool  # it looks as wished: nothing is written to it


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskPlan:
    """Everything that will happen to the disks of a layout."""

    layout: Layout
    disks: tuple[PlannedDisk, ...]
    partitions: tuple[PlannedPartition, ...]
    volumes: tuple[PlannedVolume, ...]  # arrays, logical and encrypted volumes, as far as made
    physical: tuple[PhysicalVolume, ...]
    filesystems: tuple[PlannedFilesystem, ...]
    steps: tuple[Step, ...]
    fingerprint: str  # of facts and layout; the same machine and wish have the same one

    @property
    def disk(self) -> DiskFacts:
        """The first disk that the root stands on, or the first of all."""
        roots = [fs.volume for fs in self.layout.filesystems if "/" in _points(fs.mount, fs)]
        below = self.layout.disks_below(roots[0]) if roots else frozenset()
        return next((each.disk for each in self.disks if each.id in below), self.disks[0].disk)

    @property
    def destructive(self) -> tuple[Destructive, ...]:
        """The steps that destroy data."""
        return tuple(step for step in self.steps if isinstance(step, Destructive))

    @property
    def is_empty(self) -> bool:
        """Say whether the disks look so already, and nothing is to be done."""
        return all(isinstance(step, MountFilesystem | MakeSwapFile) for step in self.steps)

    @property
    def mounts(self) -> tuple[MountFilesystem, ...]:
        """What to mount, parents first."""
        return tuple(step for step in self.steps if isinstance(step, MountFilesystem))

    @property
    def swap_files(self) -> tuple[MakeSwapFile, ...]:
        """The swap files to make once everything is mounted."""
        return tuple(step for step in self.steps if isinstance(step, MakeSwapFile))

    @property
    def closing(self) -> tuple[Release, ...]:
        """The steps that take down again what this plan builds, the last first."""
        return tuple(reversed(_closing(self)))


def _points(mount: str, fs: object) -> set[str]:
    return {mount, *(each.mount for each in getattr(fs, "subvolumes", ()))}


def _closing(plan: DiskPlan) -> list[Release]:
    names = {group.id: group.group_name for group in plan.layout.groups}
    groups = {names[lv.group] for lv in plan.layout.logical_volumes}
    steps: list[Release] = []
    for volume in plan.volumes:
        group = volume.device.split("/")[2]
        if volume.kind == "luks":
            name = volume.device.rpartition("/")[2]
            steps.append(RemoveMapping(name=name, what=volume.device))
        elif volume.device.startswith("/dev/md/"):
            steps.append(StopArray(device=volume.device, what=volume.device))
        elif group in groups and DeactivateGroup(name=group) not in steps:
            steps.append(DeactivateGroup(name=group))
    return steps


def plan_layout(
    machine: MachineFacts,
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    wish: PlanWish,
    new_uuid: Callable[[], UUID],
) -> DiskPlan:
    """Plan `layout` onto the disks `chosen` for it, whose contents were looked at.

    Raises:
        DiskBusy: something holds a disk that may not be taken down.
        DiskTooSmall: the layout or the image does not fit.
        LayoutUnfit: firmware, sectors, or what is to be kept are not as the layout says.
    """
    check_firmware(machine, layout)
    if not wish.keep_equal:  # before anything else: whose disk it is matters most
        plan_release(machine, list(chosen.values()), unmount=wish.unmount)
    unseen = [disk for disk in chosen.values() if disk.contents is None]
    refuse_held(unseen, unmount=wish.unmount)
    if unseen:
        raise ValueError("the contents of a disk were not looked at")
    placed = {each.id: _placed(layout, each.id, chosen[each.id]) for each in layout.used_disks}
    kept = _kept_sets(machine, layout, chosen, placed, wish)
    found = _joined(kept)
    written = {
        name: disk
        for name, disk in chosen.items()
        if not any(name in ids for ids, _ in kept)
        and not is_intact(layout, name, disk, placed[name])
    }
    releases = plan_release(machine, list(written.values()), unmount=wish.unmount)
    disks = _planned_disks(layout, chosen, written, placed, new_uuid)
    uuids = {each.id: each.uuid for each in disks}
    partitions = plan_partitions(layout, chosen, placed, found, new_uuid)
    stack = _ground(machine, layout, chosen, partitions, found)
    touched = {each.id for each in layout.stacks if layout.disks_below(each.id) & set(written)}
    plan_stack(layout, touched, stack, new_uuid)
    filesystems = plan_filesystems(layout, chosen, placed, stack, found, new_uuid)
    check_room(layout, filesystems, wish.image_bytes, chosen)
    steps = (
        *releases,
        *table_steps(layout, written, placed, partitions, uuids),
        *stack.steps,
        *(step for each in filesystems for step in format_steps(each)),
        *seal_steps(layout, written, uuids),
        *mount_steps(layout, filesystems, new_uuid),
    )
    return DiskPlan(
        layout=layout,
        disks=disks,
        partitions=partitions,
        volumes=tuple(stack.volumes),
        physical=tuple(stack.physical),
        filesystems=filesystems,
        steps=steps,
        fingerprint=_fingerprint(chosen, layout, wish),
    )


def _ground(
    machine: MachineFacts,
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    partitions: Sequence[PlannedPartition],
    found: Found,
) -> StackPlan:
    """Return the devices that the rest is built on: what is there, partitions, whole disks."""
    stack = StackPlan(devices=dict(found.devices), sizes=_known_sizes(machine, found))
    for part in partitions:
        stack.devices[part.partition.id] = part.path
        stack.sizes[part.partition.id] = part.size
    for each in layout.used_disks:
        if each.table is TableKind.NONE:
            stack.devices[each.id] = chosen[each.id].path
            stack.sizes[each.id] = chosen[each.id].size
    return stack


def check_firmware(machine: MachineFacts, layout: Layout) -> None:
    """Refuse a layout for another firmware than the machine was booted with.

    Raises:
        LayoutUnfit: they differ.
    """
    if layout.firmware and machine.firmware and layout.firmware != machine.firmware:
        raise LayoutUnfit(
            f"the layout is for {layout.firmware}, this machine was booted with "
            f"{machine.firmware}; nothing was written",
            hint=f"boot it with {layout.firmware}, or use a layout for {machine.firmware}",
        )


def _placed(layout: Layout, name: str, disk: DiskFacts) -> tuple[Placed, ...]:
    wish = next(each for each in layout.disks if each.id == name)
    partitions = layout.partitions_of(name)
    return place(disk, wish, partitions, kept_partitions(disk, partitions))


def _kept_sets(
    machine: MachineFacts,
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    wish: PlanWish,
) -> list[tuple[frozenset[str], Found]]:
    """Return the sets of disks that look as wished already, with what stands there."""
    if not wish.keep_equal:
        return []
    kept = []
    for ids in disk_sets(layout):
        here = {name: chosen[name] for name in ids}
        found = find_existing(layout, machine, here, placed)
        if found:
            kept.append((ids, found))
    return kept


def disk_sets(layout: Layout) -> list[frozenset[str]]:
    """Return the layout's disks in sets: two that carry one array or group are in the same."""
    sets = [frozenset({disk.id}) for disk in layout.used_disks]
    for each in layout.stacks:
        below = layout.disks_below(each.id)
        touched = [one for one in sets if one & below]
        sets = [one for one in sets if not one & below]
        if touched:
            sets.append(frozenset().union(*touched))
    return sets


def _joined(kept: Sequence[tuple[frozenset[str], Found]]) -> Found:
    found = Found(devices={}, uuids={})
    for _, each in kept:
        found.devices.update(each.devices)
        found.uuids.update(each.uuids)
    return found


def _known_sizes(machine: MachineFacts, found: Found) -> dict[str, int]:
    sizes = {}
    for name, device in found.devices.items():
        volume = machine.volume_at(device)
        if volume:
            sizes[name] = volume.size
    return sizes


def _planned_disks(
    layout: Layout,
    chosen: Mapping[str, DiskFacts],
    written: Mapping[str, DiskFacts],
    placed: Mapping[str, Sequence[Placed]],
    new_uuid: Callable[[], UUID],
) -> tuple[PlannedDisk, ...]:
    planned = []
    for wish in layout.used_disks:
        disk = chosen[wish.id]
        old = disk.contents.table_uuid if disk.contents else ""
        stays = wish.id not in written or any(each.kept for each in placed[wish.id])
        stays = stays and not old.upper().startswith((UNFINISHED_GPT, UNFINISHED_MBR.upper()))
        uuid = str(new_uuid()).upper()
        if wish.table is TableKind.MBR:
            uuid = f"0x{uuid[:8].lower()}"
        if wish.table is TableKind.NONE:
            uuid = ""
        planned.append(
            PlannedDisk(
                id=wish.id,
                disk=disk,
                uuid=old if stays else uuid,
                is_kept=wish.id not in written,
            )
        )
    return tuple(planned)


def _fingerprint(chosen: Mapping[str, DiskFacts], layout: Layout, wish: PlanWish) -> str:
    """Return hexadecimal digits that change whenever a disk or the wish does."""
    facts = {name: asdict(disk) for name, disk in chosen.items()}
    parts = asdict(layout)
    document = json.dumps(
        [facts, parts, wish.keep_equal, wish.unmount], sort_keys=True, default=_plain
    )
    return hashlib.sha256(document.encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
