"""A clone that starts by itself: what its disk plan means for booting, the checks, and the doing.

A layout with an EFI system partition boots by UEFI, one with a BIOS boot partition by BIOS, one
with both by both. One with neither is for data, or for machines that boot from the network.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nodectl.boot.apply import apply_boot
from nodectl.boot.entries import WantedEntry
from nodectl.boot.first_boot import FirstBoot, Placed, place_first_boot
from nodectl.boot.inside import entered
from nodectl.boot.model import BootOrder, BootPlace, Esp
from nodectl.boot.nvram import apply_entries
from nodectl.boot.plan import BootPlan, plan_boot
from nodectl.boot.probe import disk_drivers, probe_texts, probe_tree
from nodectl.boot.tree import tree_facts, tree_mistakes
from nodectl.content.own_files import OWN_FILES, encode_own_files, read_own_files
from nodectl.disk.kinds import FsType, PartitionFlag, RaidLevel, TableKind, type_code
from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan
from nodectl.disk.plan_table import PlannedPartition
from nodectl.disk.volumes import mount_points
from nodectl.errors import FirmwareRefused, NotBootable
from nodectl.events import Note, Observer, step
from nodectl.fsio import folder_beneath, write_beneath

_ESP = type_code("esp", TableKind.GPT)
_BIOS_BOOT = type_code("bios_grub", TableKind.GPT)
# Where programs that make a system bootable write; what changes there is this node's own.
_WATCHED = ("boot", "etc", "var/lib/initramfs-tools")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootWish:
    """What is asked about booting."""

    boots: bool = True  # False: data only, even where the layout has room for a loader
    order: BootOrder = BootOrder.LEAVE
    elsewhere: bool = False  # the disk will boot in another machine: no entries in this one


@dataclass(frozen=True, slots=True, kw_only=True)
class BootReport:
    """What was made and read back."""

    firmwares: tuple[str, ...]
    kernels: tuple[str, ...]
    loader: str  # of UEFI; empty without it
    entries: tuple[str, ...]  # what was written into the firmware's memory
    untold: str = ""  # why the controller will not hear of the first start; empty: it will


def boot_place(plan: DiskPlan) -> BootPlace | None:
    """Return where the layout's system boots from; None: it has no room for a loader.

    Raises:
        NotBootable: it has an ESP that is not vfat or is not mounted.
    """
    by_mount = {
        point: each for each in plan.filesystems for point, _, _ in mount_points(each.filesystem)
    }
    root, boot = by_mount["/"], by_mount.get("/boot", by_mount["/"])
    below = _volumes_below(plan.layout, root.filesystem.volume)
    disks = {each.id: each.disk.path for each in plan.disks}
    ids = plan.layout.disks_below(root.filesystem.volume)
    found = frozenset().union(*(disk_drivers(disks[name]) for name in ids))
    swaps = [each.uuid for each in plan.filesystems if each.filesystem.type is FsType.SWAP]
    place = BootPlace(
        esps=tuple(_esp(plan, each) for each in plan.partitions if _type(each) == _ESP),
        bios_disks=tuple(each.disk for each in plan.partitions if _starts_bios(each)),
        root_uuid=root.uuid,
        root_subvolume=next(
            path for point, path, _ in mount_points(root.filesystem) if point == "/"
        ),
        boot_uuid=boot.uuid,
        boot_is_separate=boot is not root,
        stack=_stack(plan.layout, below),
        swap_uuid=swaps[0] if swaps else "",
        drivers=found | _stack_drivers(plan.layout, below),
    )
    return place if place.firmwares else None


def _type(each: PlannedPartition) -> str:
    """Return the code of a partition's type; a GPT's and an MBR's are not alike."""
    name = each.partition.type
    return type_code(name, TableKind.GPT) or type_code(name, TableKind.MBR) or name


def _starts_bios(each: PlannedPartition) -> bool:
    """Say whether GRUB's core image has its place on that partition's disk.

    A GPT has a partition for it; an MBR leaves a gap before the partitions, and whether it is meant
    to start a machine says the mark of the active one.
    """
    return _type(each) == _BIOS_BOOT or PartitionFlag.ACTIVE in each.partition.flags


def _volumes_below(layout: Layout, volume: str) -> frozenset[str]:
    """Return the ids of all volumes that a volume stands on, and its own."""
    seen: set[str] = set()
    waiting = [volume]
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            waiting += layout.below(each)
    return frozenset(seen)


def _stack(layout: Layout, below: frozenset[str]) -> frozenset[str]:
    kinds = {
        "md": {each.id for each in layout.raids},
        "lvm": {each.id for each in layout.logical_volumes},
        "luks": {each.id for each in layout.luks},
    }
    return frozenset(kind for kind, ids in kinds.items() if ids & below)


def _stack_drivers(layout: Layout, below: frozenset[str]) -> frozenset[str]:
    """Return the kernel modules that the volumes below a root need."""
    levels = {RaidLevel.RAID5: "raid456", RaidLevel.RAID6: "raid456"}
    drivers = {levels.get(raid.level, str(raid.level)) for raid in layout.raids if raid.id in below}
    stack = _stack(layout, below)
    drivers |= {"dm_mod"} if stack & {"lvm", "luks"} else set()
    return frozenset(drivers | ({"dm_crypt"} if "luks" in stack else set()))


def _esp(plan: DiskPlan, each: PlannedPartition) -> Esp:
    """Return an ESP with the filesystem on it, or on the mirror that it is a half of."""
    on = {each.partition.id} | {
        raid.id for raid in plan.layout.raids if each.partition.id in raid.devices
    }
    found = next((fs for fs in plan.filesystems if fs.filesystem.volume in on), None)
    if found is None or found.filesystem.type is not FsType.VFAT or not found.filesystem.mount:
        raise NotBootable(
            f"the ESP {each.partition.id!r} of the layout is not a vfat filesystem with a mount "
            "point; nothing was written",
            hint='give it a vfat [[filesystem]] with mount = "/boot/efi", or use --no-boot',
        )
    return Esp(
        disk=each.disk,
        number=each.number,
        partuuid=each.uuid.lower(),
        uuid=found.uuid,
        mount=found.filesystem.mount,
    )


def check_image(paths: Iterable[str], place: BootPlace) -> None:
    """Refuse an image that cannot boot from `place`, before anything is written.

    Raises:
        NotBootable: each reason is named.
    """
    mistakes = tree_mistakes(tree_facts(paths), place)
    if mistakes:
        raise NotBootable(
            f"the image cannot boot from this layout: {'; '.join(mistakes)}; nothing was written",
            hint="--no-boot clones it as data; else capture a machine that has what is missing",
        )


def make_bootable(root: Path, place: BootPlace, device: str, observer: Observer) -> BootPlan:
    """Make the mounted, restored tree boot from its place; return what was done.

    What the tree's own programs write is recorded as the node's own, so that a restore in place
    leaves it alone.

    Raises:
        NodectlError: what boot/probe.py and boot/apply.py raise.
    """
    facts = probe_tree(root)
    mistakes = tree_mistakes(facts, place)
    if mistakes:
        raise NotBootable(f"the restored tree cannot boot: {'; '.join(mistakes)}")
    plan = plan_boot(facts, probe_texts(root, facts, place.drivers), place)
    with recording_own(root, esps=place.esp_mounts):
        apply_boot(root, plan, place, device, observer)
    return plan


@contextlib.contextmanager
def recording_own(root: Path, *, esps: Iterable[str] = ("/boot/efi", "/efi")) -> Iterator[None]:
    """Record as the node's own what changes meanwhile, where programs of boot write.

    What stands on an ESP is nobody's: no image brings it.
    """
    before = _snapshot(root, esps)
    yield
    after = _snapshot(root, esps)
    _record_own(root, {path for path, seen in after.items() if before.get(path) != seen})


def place_telling(
    root: Path, place: BootPlace, device: str, first: FirstBoot, observer: Observer
) -> Placed:
    """Put into the bootable tree what will tell of its first start, where the tree can.

    Raises:
        NodectlError: what boot/first_boot.py raises.
    """
    with (
        step(observer, "place what tells of the first start"),
        entered(root, device=device, uuid=place.root_uuid) as inside,
    ):
        placed = place_first_boot(root, inside, first)
        _record_own(root, set(placed.paths))
    return placed


def _snapshot(root: Path, mounts: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Return what tells whether a file was changed, for each where boot programs write."""
    esps = {str(root / mount.strip("/")) for mount in mounts}
    seen = {}
    for top in _WATCHED:
        for folder, folders, files in os.walk(root / top):
            folders[:] = [name for name in folders if f"{folder}/{name}" not in esps]
            for name in files:
                path = Path(folder, name)
                now = path.lstat()
                seen[str(path.relative_to(root))] = (now.st_mtime_ns, now.st_size, now.st_ino)
    return seen


def _record_own(root: Path, changed: set[str]) -> None:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        known = {os.fsdecode(path) for path in read_own_files(root_fd).files}
        paths = frozenset((known | changed) - {OWN_FILES})
        with folder_beneath(root_fd, str(PurePosixPath(OWN_FILES).parent), make=True):
            pass
        write_beneath(root_fd, OWN_FILES, encode_own_files(paths))
    finally:
        os.close(root_fd)


def write_entries(
    plan: BootPlan, place: BootPlace, wish: BootWish, observer: Observer
) -> tuple[str, ...]:
    """Write the firmware's entries of this machine; return a line for each thing that was written.

    The fallback loader is on each ESP by now, so a firmware that takes nothing is told as a note.
    """
    wanted = wanted_entries(plan, place)
    if wish.elsewhere or not wanted:
        return ()
    try:
        with step(observer, "write the firmware's entries"):
            return apply_entries(wanted, wish.order).lines
    except FirmwareRefused as exc:
        note = f"{exc}; the machine starts by the fallback loader \\EFI\\BOOT\\BOOTX64.EFI"
        observer.on(Note(text=note))
        return ()


def wanted_entries(plan: BootPlan, place: BootPlace) -> tuple[WantedEntry, ...]:
    """Return the entries that lead to the new system, one for each ESP; none for BIOS."""
    if plan.loader is None:
        return ()
    many = len(place.esps) > 1
    return tuple(
        WantedEntry(
            label=f"{plan.label} {index}" if many else plan.label,
            disk=esp.disk,
            number=esp.number,
            partuuid=esp.partuuid,
            file="\\" + plan.file.replace("/", "\\"),
        )
        for index, esp in enumerate(place.esps, start=1)
    )


def boot_report(
    plan: BootPlan, place: BootPlace, entries: tuple[str, ...], untold: str
) -> BootReport:
    """Return what to tell of it."""
    return BootReport(
        firmwares=tuple(sorted(place.firmwares)),
        kernels=plan.kernels,
        loader=plan.loader or "",
        entries=entries,
        untold=untold,
    )
