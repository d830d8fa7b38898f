"""What is wrong with the filesystems, mounts and swap files of a layout. Pure."""

import re
from collections.abc import Iterator

from nodectl.disk.kinds import (
    LABEL_LIMITS,
    METADATA_AT_END,
    MIN_FS_BYTES,
    FsType,
    Preserve,
    Role,
    TableKind,
    is_guid,
    min_fs_bytes,
)
from nodectl.disk.mistakes_words import LABEL, Mistake, repeated
from nodectl.disk.sizes import size_words
from nodectl.disk.volumes import Filesystem, Parts, mount_points

_MOUNT_OPTION = re.compile(r"[A-Za-z0-9_.:=/+@%-]+")
_FAT_ID = re.compile(r"[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}")
_SUBVOLUME = re.compile(r"[A-Za-z0-9@._+-]+(?:/[A-Za-z0-9@._+-]+)*")
# An option of mkfs may not name a device: mkfs.btrfs would format it, mkfs.xfs would log to it.
_NAMES_DEVICE = re.compile(r"/|device=|logdev=|rtdev=|^(?:UUID|LABEL)=", re.IGNORECASE)
_MOST_PRIORITY = 32767  # swapon(2)


def mount_mistakes(parts: Parts) -> Iterator[Mistake]:
    """Yield what is wrong with filesystems, mounts and swap files."""
    for index, value in repeated([each.label for each in parts.filesystems]):
        yield Mistake(field=f"filesystem[{index}].label", text=f"{value!r} is used twice")
    for index, value in repeated([each.uuid.lower() for each in parts.filesystems]):
        yield Mistake(field=f"filesystem[{index}].uuid", text=f"{value!r} is used twice")
    for index, fs in enumerate(parts.filesystems):
        for name, text in (
            *_one_filesystem(fs),
            *_subvolumes(fs),
            *_room(parts, fs),
            *_preserved(parts, fs),
        ):
            yield Mistake(field=f"filesystem[{index}].{name}", text=text)
    yield from _esp_below(parts)
    yield from _points(parts)
    yield from _swap_files(parts)


def _one_filesystem(fs: Filesystem) -> Iterator[tuple[str, str]]:
    limit = LABEL_LIMITS[fs.type]
    if fs.label and not (LABEL.fullmatch(fs.label) and len(fs.label) <= limit):
        yield "label", f"{fs.label!r} is no usable {fs.type} label (at most {limit} letters)"
    form = _FAT_ID.fullmatch(fs.uuid) if fs.type is FsType.VFAT else is_guid(fs.uuid)
    if fs.uuid and not form:
        yield "uuid", f"{fs.uuid!r} is no UUID of {fs.type}"
    for option in fs.mkfs_options:
        if not option.isprintable() or not option or _NAMES_DEVICE.search(option):
            yield "mkfs_options", f"{option!r} is refused: an option may not name a path or device"
    for option in fs.mount_options:
        if not _MOUNT_OPTION.fullmatch(option):
            yield "mount_options", f"{option!r} is no mount option (one for each list entry)"
    if fs.type is FsType.SWAP and fs.mount:
        yield "mount", "swap has no mount point"


def _subvolumes(fs: Filesystem) -> Iterator[tuple[str, str]]:
    if fs.subvolumes and fs.type is not FsType.BTRFS:
        yield "subvolumes", f"only btrfs has them, not {fs.type}"
    paths = [each.path for each in fs.subvolumes]
    for index, value in repeated(paths):
        yield f"subvolumes[{index}].path", f"{value!r} is used twice"
    for index, each in enumerate(fs.subvolumes):
        if not _SUBVOLUME.fullmatch(each.path) or {".", ".."} & set(each.path.split("/")):
            yield f"subvolumes[{index}].path", f"{each.path!r} is no plain path such as @home"
        for option in each.mount_options:
            if not _MOUNT_OPTION.fullmatch(option) or option.startswith("subvol"):
                yield f"subvolumes[{index}].mount_options", f"{option!r} is no mount option here"


def _room(parts: Parts, fs: Filesystem) -> Iterator[tuple[str, str]]:
    most = parts.most_bytes(fs.volume)
    here = parts.disks_below(fs.volume)
    sectors = [each.sector or each.match.sector or 512 for each in parts.disks if each.id in here]
    least = min_fs_bytes(fs.type, max(sectors, default=512))
    if most is not None and most < least:
        yield "volume", f"{fs.type} needs {least >> 20} MiB, {fs.volume!r} is smaller"
    if most is not None and most < fs.min_used:
        yield "min_used", f"{fs.volume!r} is smaller than that: {size_words(most)}"


def _preserved(parts: Parts, fs: Filesystem) -> Iterator[tuple[str, str]]:
    """Only a filesystem on a partition that is kept, or on a whole disk, can be kept."""
    part = next((each for each in parts.partitions if each.id == fs.volume), None)
    disk = next((each for each in parts.disks if each.id == fs.volume), None)
    kept = part.preserve if part else Preserve.NONE
    whole = disk is not None and disk.table is TableKind.NONE
    if fs.preserve is not Preserve.NONE and not (whole or part):
        text = "only what stands on a partition or a whole disk can be kept, not on RAID, LVM, LUKS"
        yield "preserve", f'{text}; role = "never_touch" keeps such disks as they are'
    if fs.preserve is not Preserve.NONE and part and kept is Preserve.NONE:
        yield "preserve", "the partition that it stands on must be preserved as well"
    if part and kept is not Preserve.NONE and fs.preserve is Preserve.KEEP:
        for name in ("mkfs_options", "uuid"):
            if getattr(fs, name):
                yield name, "a filesystem that is kept is not made anew"


def _esp_below(parts: Parts) -> Iterator[Mistake]:
    """Firmware reads the ESP from a partition, and knows nothing of LVM, LUKS or md's head."""
    above = {each.id: each for each in parts.raids}
    hidden = {each.id for each in parts.logical_volumes} | {each.id for each in parts.luks}
    for index, fs in enumerate(parts.filesystems):
        if fs.mount not in {"/boot/efi", "/efi"}:
            continue
        raid = above.get(fs.volume)
        if fs.volume in hidden or (raid and raid.metadata not in METADATA_AT_END):
            text = "firmware cannot read it: it needs a partition, or RAID 1 with metadata 1.0"
            yield Mistake(field=f"filesystem[{index}].volume", text=text)
        if fs.type is not FsType.VFAT:
            text = f"firmware reads vfat at {fs.mount}, not {fs.type}"
            yield Mistake(field=f"filesystem[{index}].type", text=text)


def _points(parts: Parts) -> Iterator[Mistake]:
    """Mount points are plain paths, each once, and the root is among them."""
    seen: set[str] = set()
    for index, fs in enumerate(parts.filesystems):
        for place, path in _fields(index, fs):
            text = path_mistake(path) or (f"{path!r} is mounted twice" if path in seen else "")
            if text and path:
                yield Mistake(field=place, text=text)
            seen.add(path)
    wanted = {disk.role for disk in parts.used_disks} != {Role.DATA}
    if wanted and "/" not in seen:
        yield Mistake(field="filesystem", text='none has mount = "/"')


def _fields(index: int, fs: Filesystem) -> Iterator[tuple[str, str]]:
    yield f"filesystem[{index}].mount", fs.mount
    for number, each in enumerate(fs.subvolumes):
        yield f"filesystem[{index}].subvolumes[{number}].mount", each.mount


def path_mistake(path: str) -> str:
    """Return what is wrong with a path in the system; empty: nothing."""
    if path == "/":
        return ""
    words = path.split("/")[1:]
    if not path.startswith("/") or any(word in {"", ".", ".."} for word in words):
        return f"{path!r} is no plain absolute path (such as /var/lib)"
    if not path.isprintable() or any(letter in path for letter in ' "\\#'):
        return f"{path!r} has a letter that fstab cannot carry"
    return ""


def _swap_files(parts: Parts) -> Iterator[Mistake]:
    points = {point for fs in parts.filesystems for point, _, _ in mount_points(fs)}
    for index, value in repeated([each.path for each in parts.swap_files]):
        yield Mistake(field=f"swap_file[{index}].path", text=f"{value!r} is used twice")
    for index, each in enumerate(parts.swap_files):
        text = path_mistake(each.path)
        if not text and each.path in points | {"/"}:
            text = f"{each.path!r} is a mount point"
        if not text and not any(each.path.startswith(f"{point.rstrip('/')}/") for point in points):
            text = f"no filesystem of the layout is mounted above {each.path!r}"
        if text:
            yield Mistake(field=f"swap_file[{index}].path", text=text)
        if each.size < MIN_FS_BYTES[FsType.SWAP]:
            yield Mistake(field=f"swap_file[{index}].size", text="must be at least 1 MiB")
        if each.priority is not None and not 0 <= each.priority <= _MOST_PRIORITY:
            text = f"must be 0 to {_MOST_PRIORITY}"
            yield Mistake(field=f"swap_file[{index}].priority", text=text)
