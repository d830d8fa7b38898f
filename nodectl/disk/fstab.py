"""fstab(5) of a cloned system: the layout's filesystems with their new UUIDs, the image's the rest.

Pure. What happens to an entry of the image:

- its mount point is one of the layout's: replaced;
- swap on a device: replaced by the layout's swap areas (a swap file stays);
- it names a local device that the layout does not make, and would be needed at boot: kept as a
  comment, for a missing device stops the boot of systemd;
- everything else (network, tmpfs, bind mounts, noauto and nofail entries): kept as it is.
"""

from collections.abc import Iterator, Sequence

from nodectl.disk.kinds import EXT_TYPES, FsType
from nodectl.disk.plan_content import PlannedFilesystem
from nodectl.disk.volumes import Filesystem, SwapFile, mount_points

_HEADER = "# Local filesystems below were written by nodectl from the disk layout."
_DISABLED = "# nodectl: not part of the disk layout: "
_LOCAL_SPECS = ("UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "/dev/")
_MIN_FIELDS = 3
_CHECKED_AT_BOOT = (*EXT_TYPES, FsType.VFAT)


def merge_fstab(
    old: str, filesystems: Sequence[PlannedFilesystem], swap_files: Sequence[SwapFile] = ()
) -> str:
    """Return the fstab for the new disks, made from the image's `old` one (empty: none)."""
    mounts = {point for each in filesystems for point, _, _ in mount_points(each.filesystem)}
    files = {each.path for each in swap_files}
    lines = (_kept(line, mounts, files) for line in old.splitlines())
    kept = [line for line in lines if line is not None]
    while kept and not kept[-1].strip():
        kept.pop()
    new = [*_new_lines(filesystems), *(_swap_line(each) for each in swap_files)]
    return "\n".join([*kept, _HEADER, *new]) + "\n"


def _kept(line: str, mounts: set[str], files: set[str]) -> str | None:
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
        return None if local or spec in files else line
    if (path.rstrip("/") or "/") in mounts:
        return None
    if local and not options & {"noauto", "nofail"}:
        return _DISABLED + line
    return line


def _new_lines(planned: Sequence[PlannedFilesystem]) -> Iterator[str]:
    lines = []
    for each in planned:
        fs = each.filesystem
        if fs.type is FsType.SWAP:
            options = ",".join(fs.mount_options) or "sw"
            yield f"UUID={each.uuid} none swap {options} 0 0"
        for point, subvolume, words in mount_points(fs):
            options = ",".join([*words, *([f"subvol={subvolume}"] if subvolume else [])])
            text = (
                f"UUID={each.uuid} {point} {fs.type} {options or 'defaults'} "
                f"0 {_pass_number(fs, point)}"
            )
            lines.append((point.rstrip("/").count("/"), point, text))
    yield from (text for _, _, text in sorted(lines))


def _swap_line(file: SwapFile) -> str:
    options = "sw" if file.priority is None else f"sw,pri={file.priority}"
    return f"{file.path} none swap {options} 0 0"


def _pass_number(filesystem: Filesystem, point: str) -> int:
    """Return fsck's order: root first, then the others; xfs and btrfs check themselves."""
    if filesystem.type not in _CHECKED_AT_BOOT:
        return 0
    return 1 if point == "/" else 2
