"""Makes an identity plan so beneath a tree, records it, and reads it back."""

import contextlib
import errno
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nodectl.content.own_files import OWN_FILES, encode_own_files
from nodectl.errors import ReadBackFailed
from nodectl.fsio import folder_beneath, link_beneath, read_beneath, remove_beneath, write_beneath
from nodectl.identity.labels import selinux_label
from nodectl.identity.model import FileAction, IdentityPlan, MakeLink, RemoveFile, WriteFile
from nodectl.identity.probe import opened

_READ_MAX = 64 << 20
_LABEL = "security.selinux"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedIdentity:
    """What was done; paths have no leading "/"."""

    machine_id: str
    paths: frozenset[str]  # of every action, and the record itself
    made: frozenset[str]  # folders that the image did not have
    host_keys: tuple[str, ...]
    notes: tuple[str, ...]


def apply_identity(root: Path, plan: IdentityPlan) -> AppliedIdentity:
    """Do what the plan says beneath the mounted target `root`, following no link out of it.

    Raises:
        UnsafePath: a folder of the target is a link; nothing was written through it.
    """
    made: set[str] = set()
    root_fd = opened(root)
    try:
        labelled = is_labelled(root_fd)
        for action in (*plan.actions, _record(plan)):
            made |= _prepare(root_fd, action)
            _act(root_fd, action, labelled=labelled)
    finally:
        os.close(root_fd)
    return AppliedIdentity(
        machine_id=plan.machine_id,
        paths=frozenset(action.path for action in plan.actions) | {OWN_FILES},
        made=frozenset(made),
        host_keys=plan.host_keys,
        notes=plan.notes,
    )


def check_identity(root: Path, plan: IdentityPlan) -> None:
    """Read everything back.

    Raises:
        ReadBackFailed: something is not what the plan says.
    """
    root_fd = opened(root)
    try:
        for action in (*plan.actions, _record(plan)):
            if not _is_done(root_fd, action):
                raise ReadBackFailed(f"/{action.path} on the disk is not what was written")
    finally:
        os.close(root_fd)


def _record(plan: IdentityPlan) -> WriteFile:
    """Return the list of the node's own files; with it a restore in place leaves them alone."""
    paths = frozenset(action.path for action in plan.actions)
    return WriteFile(path=OWN_FILES, data=encode_own_files(paths), item="the list of own files")


def _act(root_fd: int, action: FileAction, *, labelled: bool) -> None:
    match action:
        case WriteFile():
            owner = (action.uid, action.gid) if os.geteuid() == 0 else None
            label = selinux_label(action.path) if labelled else b""
            write_beneath(
                root_fd, action.path, action.data, mode=action.mode, owner=owner, label=label
            )
        case MakeLink():
            link_beneath(root_fd, action.path, action.target)
        case RemoveFile():
            remove_beneath(root_fd, action.path)


def _prepare(root_fd: int, action: FileAction) -> set[str]:
    """Make the folders that an action needs, and return them."""
    if isinstance(action, RemoveFile):
        return set()
    folders = [str(each) for each in PurePosixPath(action.path).parents][-2::-1]
    return {path for path in folders if _make_folder(root_fd, path)}


def _make_folder(root_fd: int, path: str) -> bool:
    """Make a folder unless it is there; the one that it is made in keeps its times."""
    try:
        with folder_beneath(root_fd, path):
            return False
    except FileNotFoundError:
        pass
    with folder_beneath(root_fd, str(PurePosixPath(path).parent)) as parent:
        before = os.fstat(parent)
        with folder_beneath(root_fd, path, make=True):
            os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def is_labelled(root_fd: int) -> bool:
    """Say whether the tree has SELinux labels: then new files need theirs."""
    with contextlib.suppress(OSError), folder_beneath(root_fd, "etc") as folder:
        return bool(os.getxattr(folder, _LABEL))
    return False


def _is_done(root_fd: int, action: FileAction) -> bool:
    match action:
        case WriteFile():
            return (
                read_beneath(root_fd, action.path, limit=_READ_MAX) == action.data
                and _mode(root_fd, action.path) == action.mode
            )
        case MakeLink():
            return _link(root_fd, action.path) == action.target
        case RemoveFile():
            return _mode(root_fd, action.path) is None


def _mode(root_fd: int, path: str) -> int | None:
    parent, _, name = path.rpartition("/")
    try:
        with folder_beneath(root_fd, parent) as folder:
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & 0o7777
    except FileNotFoundError:
        return None


def _link(root_fd: int, path: str) -> str | None:
    parent, _, name = path.rpartition("/")
    try:
        with folder_beneath(root_fd, parent) as folder:
            return os.readlink(name, dir_fd=folder)
    except OSError as exc:
        if exc.errno in {errno.ENOENT, errno.EINVAL}:
            return None
        raise
