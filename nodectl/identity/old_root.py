"""The system that stands on a disk before it is overwritten: what of its identity is taken over.

Each filesystem is attached read-only and mounted read-only without replaying its journal, so that
looking at a disk changes no byte of it; nothing on it can be run. Only a system that was this node
is taken from: its hostname or machine-id says so. Of volumes on LVM, md or LUKS nothing is read.
"""

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nodectl.disk.facts import DiskFacts, PartitionFacts
from nodectl.disk.mounts import mount, uninterrupted, unmount_beneath
from nodectl.errors import CommandFailed, ToolMissing, UnsafePath
from nodectl.fsio import folder_beneath
from nodectl.identity.derived import derive_machine_id
from nodectl.identity.hostkeys import CONFIG, CONFIG_FOLDER, configured_paths
from nodectl.identity.model import KeptFile
from nodectl.identity.probe import matches, opened, read_or_none
from nodectl.identity.rows import kept_patterns
from nodectl.run import run

_SAFE = "ro,nosuid,nodev,noexec"
_WITHOUT_REPLAY = {  # ext4(5), xfs(5), btrfs(5)
    "ext2": _SAFE,
    "ext3": f"{_SAFE},noload",
    "ext4": f"{_SAFE},noload",
    "xfs": f"{_SAFE},norecovery,nouuid",
    "btrfs": f"{_SAFE},rescue=nologreplay",
}
_NOT_READ = {"LVM2_member", "linux_raid_member", "crypto_LUKS"}
_SUBVOLUMES = ("", "@", "root", "@rootfs")  # of btrfs: Ubuntu, Fedora, Debian
_DETACH_S = 10.0
_POLL_S = 0.05
_FILES_MAX = 200
_TOTAL_MAX = 8 << 20  # bytes of all that is kept


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRoot:
    """What was found."""

    files: Mapping[str, KeptFile] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()


NOTHING = OldRoot()


def read_old_disks(
    disks: Iterable[DiskFacts], folder: Path, *, realm_id: str, name: str
) -> OldRoot:
    """Return what the old system on some disks leaves to the node; `folder` is an empty one.

    What cannot be read is a note, never an error: the disks are about to be overwritten anyway.
    """
    found: list[OldSystem] = []
    notes: list[str] = []
    for disk in disks:
        for part in disk.contents.partitions if disk.contents else ():
            _read_partition(disk, part, folder, found, notes)
    return choose_old_root(found, notes, realm_id=realm_id, name=name)


def _read_partition(
    disk: DiskFacts,
    part: PartitionFacts,
    folder: Path,
    found: "list[OldSystem]",
    notes: list[str],
) -> None:
    """Add the systems on a partition to `found`, and what could not be read to `notes`."""
    kinds = {each.type for each in part.signatures}
    kind = next(iter(kinds & _WITHOUT_REPLAY.keys()), "")
    if kinds & _NOT_READ:
        notes.append(f"nothing was kept from {part.path} ({', '.join(sorted(kinds))})")
    if not kind:
        return
    try:
        with _mounted(disk, part, kind, folder) as places:
            found += [one for one in map(_system_at, places) if one is not None]
    except (CommandFailed, ToolMissing, OSError) as exc:
        notes.append(f"nothing was kept from {part.path}: {str(exc).splitlines()[0]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldSystem:
    """A system on the old disk."""

    hostname: str
    machine_id: str
    files: Mapping[str, KeptFile] = field(repr=False)
    notes: tuple[str, ...] = ()


def choose_old_root(
    found: list[OldSystem], notes: list[str], *, realm_id: str, name: str
) -> OldRoot:
    """Return the files of the one system that was this node."""
    mine = derive_machine_id(realm_id, name)
    own = [one for one in found if one.machine_id == mine]
    own = own or [one for one in found if _short(one.hostname) == _short(name)]
    if len(own) == 1:
        return OldRoot(files=own[0].files, notes=(*notes, *own[0].notes))
    if own:
        notes = [*notes, f"{len(own)} systems on the old disk say that they are {name}: none kept"]
    elif found:
        others = ", ".join(sorted(one.hostname or "a system without a name" for one in found))
        notes = [*notes, f"the old disk was that of {others}: nothing was kept from it"]
    return OldRoot(notes=tuple(notes))


def _short(hostname: str) -> str:
    return hostname.partition(".")[0].lower()


def _system_at(place: Path) -> OldSystem | None:
    try:
        root_fd = opened(place)
    except OSError:
        return None
    try:
        return read_old_root(root_fd)
    finally:
        os.close(root_fd)


def read_old_root(root_fd: int) -> OldSystem | None:
    """Return the system whose root is a folder; None where there is none."""
    if next(matches(root_fd, "etc/passwd"), None) is None:
        return None
    texts = {
        path: (read_or_none(root_fd, path) or b"").decode("utf-8", "replace")
        for pattern in (CONFIG, f"{CONFIG_FOLDER}/*.conf", "etc/hostname", "etc/machine-id")
        for path in matches(root_fd, pattern)
    }
    patterns = [pattern for pattern, _ in kept_patterns()]
    patterns += [name for path in configured_paths(texts) for name in (path, f"{path}.pub")]
    files: dict[str, KeptFile] = {}
    notes, total = [], 0
    for pattern in patterns:
        for path in matches(root_fd, pattern):
            file = _read_file(root_fd, path)
            if file is None or not file.data:
                notes.append(f"/{path} of the old disk could not be kept: it is no file, or empty")
            elif len(files) < _FILES_MAX and total + len(file.data) <= _TOTAL_MAX:
                total += len(file.data)
                files[path] = file
    return OldSystem(
        hostname=texts.get("etc/hostname", "").strip()[:255],
        machine_id=texts.get("etc/machine-id", "").strip(),
        files=files,
        notes=tuple(notes),
    )


def _read_file(root_fd: int, path: str) -> KeptFile | None:
    data = read_or_none(root_fd, path)
    if data is None:
        return None
    parent, _, name = path.rpartition("/")
    try:
        with folder_beneath(root_fd, parent) as folder:
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (OSError, UnsafePath):
        return None
    mode = stat.S_IMODE(found.st_mode) & 0o777
    return KeptFile(data=data, mode=mode, uid=found.st_uid, gid=found.st_gid)


@contextlib.contextmanager
def _mounted(
    disk: DiskFacts, part: PartitionFacts, kind: str, folder: Path
) -> Iterator[list[Path]]:
    """Mount one filesystem and yield where a system's root may be in it."""
    argv = [
        "losetup", "--find", "--show", "--read-only",
        "--offset", str(part.start), "--sizelimit", str(part.size), disk.path,
    ]  # fmt: skip
    loop = run(argv).stdout.decode().strip()
    try:
        mount(["mount", "--types", kind, "--options", _WITHOUT_REPLAY[kind], loop, folder])
        yield [folder / name for name in (_SUBVOLUMES if kind == "btrfs" else ("",))]
    finally:
        with uninterrupted():
            unmount_beneath(folder)
            _detach(loop)


def _detach(loop: str) -> None:
    """Detach a loop device and wait until it is: the disk must be free for what comes next."""
    run(["losetup", "--detach", loop])
    backing = Path("/sys/block", loop.removeprefix("/dev/"), "loop/backing_file")
    deadline = time.monotonic() + _DETACH_S
    while backing.exists():
        if time.monotonic() > deadline:
            raise CommandFailed(f"{loop} stayed in use by another program")
        time.sleep(_POLL_S)
