"""fstab(5) of a cloned system: the layout's filesystems with their new UUIDs, the image's the rest.

Pure. What happens to an entry of the image:

- its mount point is one of the layout's: replaced;
- swap on a device: replaced by the layout's swap areas (a swap file stays);
- it names a local device that the layout does not make, and would be needed at boot: kept as a
  comment, for a missing device stops the boot of systemd;
- everything else (network, tmpfs, bind mounts, noauto and nofail entries): kept as it is.
"""

from collections.abc import Iterator, Sequence

from nodectl.disk.model import Filesystem, FsType
from nodectl.disk.plan import PlannedPartition

_HEADER = "# Local filesystems below were written by nodectl from the disk layout."
_DISABLED = "# nodectl: not part of the disk layout: "
_LOCAL_SPECS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")
_MIN_FIELDS = 3
_CHECKED_AT_BOOT = (FsType.EXT4, FsType.VFAT)


def merge_fstab(old: str, partitions: Sequence[PlannedPartition]) -> str:
    """Return the fstab for the new disk, made from the image's `old` one (empty: none)."""
    mounts = {each.filesystem.mount for each in partitions if each.filesystem}
    kept = [line for line in (_kept(line, mounts) for line in old.splitlines()) if line is not None]
    while kept and not kept[-1].strip():
        kept.pop()
    return "\n".join([*kept, _HEADER, *_new_lines(partitions)]) + "\n"


def _kept(line: str, mounts: set[str]) -> str | None:
    """Return what becomes of a line; None: it goes."""
    if line == _HEADER:
        return None
    fields = line.split()
    if len(fields) < _MIN_FIELDS or fields[0].startswith("#"):
        return line
    spec, path, kind = fields[0].strip('"'), fields[1], fields[2]
    options = set(fields[3].split(",")) if len(fields) > _MIN_FIELDS else set()
    local = spec.startswith(_LOCAL_SPECS)
    if kind == FsType.SWAP:
        return None if local else line
    if (path.rstrip("/") or "/") in mounts:
        return None
    if local and not options & {"noauto", "nofail"}:
        return _DISABLED + line
    return line


def _new_lines(partitions: Sequence[PlannedPartition]) -> Iterator[str]:
    filesystems = [(each, each.filesystem) for each in partitions if each.filesystem]
    filesystems.sort(key=lambda pair: (pair[1].mount.rstrip("/").count("/"), pair[1].mount))
    for planned, filesystem in filesystems:
        if filesystem.type is FsType.SWAP:
            yield f"UUID={planned.fs_uuid} none swap sw 0 0"
        elif filesystem.mount:
            options = ",".join(filesystem.mount_options) or "defaults"
            yield (
                f"UUID={planned.fs_uuid} {filesystem.mount} {filesystem.type} {options} "
                f"0 {_pass_number(filesystem)}"
            )


def _pass_number(filesystem: Filesystem) -> int:
    """Return fsck's order: root first, then the others; xfs and btrfs check themselves."""
    if filesystem.type not in _CHECKED_AT_BOOT:
        return 0
    return 1 if filesystem.mount == "/" else 2
