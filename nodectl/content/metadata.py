"""Owner, mode, times and extended attributes: what an entry says of them, set and compared.

The order matters: a change of owner clears set-id bits and capabilities, so owner, then mode, then
attributes, and the time last, which is also the sign that a file is complete.
"""

import os
import stat
from dataclasses import dataclass

from nodectl.content.beneath import Beneath
from nodectl.content.manifest import Entry, Kind, XAttrs
from nodectl.content.reading import read_xattrs

_OWNED_BY_USERS = b"user."


@dataclass(frozen=True, slots=True, kw_only=True)
class Powers:
    """What this process may set: root everything, a plain user what plain users can."""

    owner: bool
    all_xattrs: bool
    devices: bool

    @classmethod
    def of_this_process(cls) -> "Powers":
        """Ask the kernel who we are."""
        root = os.geteuid() == 0
        return cls(owner=root, all_xattrs=root, devices=root)

    def wanted(self, xattrs: XAttrs) -> XAttrs:
        """Return those attributes that this process can set and compare."""
        if self.all_xattrs or not xattrs:
            return xattrs
        return tuple(pair for pair in xattrs if pair[0].startswith(_OWNED_BY_USERS))


def set_on_descriptor(fd: int, entry: Entry, powers: Powers) -> None:
    """Give an open file or directory all that its entry says."""
    if powers.owner:
        os.fchown(fd, entry.uid, entry.gid)
    os.fchmod(fd, entry.mode)
    set_xattrs(fd, powers.wanted(entry.xattrs), powers)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def set_xattrs(where: int | bytes, wanted: XAttrs, powers: Powers) -> None:
    """Make the attributes of a file exactly `wanted`."""
    present = powers.wanted(read_xattrs(where))
    if present == wanted:
        return
    follow = isinstance(where, int)
    names = {name for name, _ in wanted}
    for name, _ in present:
        if name not in names:
            os.removexattr(where, os.fsdecode(name), follow_symlinks=follow)
    for name, value in wanted:
        if (name, value) not in present:
            os.setxattr(where, os.fsdecode(name), value, follow_symlinks=follow)


def set_on_name(beneath: Beneath, entry: Entry, powers: Powers) -> None:
    """Give a link or special file, which cannot be opened, all that its entry says."""
    directory, name = beneath.place(entry.path)
    if powers.owner:
        os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
    if entry.kind != Kind.SYMLINK:
        # fchmodat follows links; through an O_PATH descriptor it is this very inode or nothing.
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.chmod(f"/proc/self/fd/{fd}", entry.mode)  # noqa: PTH101 - no path of a user
        finally:
            os.close(fd)
    wanted = powers.wanted(entry.xattrs)
    if wanted:
        set_xattrs(beneath.by_descriptor(entry.path), wanted, powers)
    times = (entry.mtime_ns, entry.mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


def same_type(entry: Entry, status: os.stat_result) -> bool:
    """Say whether what stands there is of the entry's kind, and the same device if it is one."""
    if stat.S_IFMT(status.st_mode) != _TYPES.get(Kind(entry.kind)):
        return False
    return entry.kind not in (Kind.CHAR, Kind.BLOCK) or status.st_rdev == entry.size


def differences(entry: Entry, status: os.stat_result, xattrs: XAttrs, powers: Powers) -> list[str]:
    """Name what of owner, mode, time and attributes differs; the type is the same."""
    found = []
    if powers.owner and (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
        found.append(f"owner {status.st_uid}:{status.st_gid}, not {entry.uid}:{entry.gid}")
    mode = stat.S_IMODE(status.st_mode)
    if entry.kind != Kind.SYMLINK and mode != entry.mode:
        found.append(f"mode {mode:04o}, not {entry.mode:04o}")
    if status.st_mtime_ns != entry.mtime_ns:
        found.append(f"mtime {status.st_mtime_ns} ns, not {entry.mtime_ns} ns")
    if powers.wanted(xattrs) != powers.wanted(entry.xattrs):
        found.append("extended attributes")
    return found
