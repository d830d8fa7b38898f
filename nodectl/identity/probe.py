"""What stands in a tree that matters for an identity; read without following links out of it."""

import fnmatch
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nodectl.disk.config_files import LAYOUT_FILES, LVM_DEVICES_FOLDER
from nodectl.errors import UnsafePath
from nodectl.fsio import folder_beneath, read_beneath
from nodectl.identity.hostkeys import CONFIG, CONFIG_FOLDER, configured_paths
from nodectl.identity.model import TreeFacts
from nodectl.identity.network.plan import CONFIGURATION, NAMING, PROGRAMS, UNITS

FILE_MAX = 1 << 20  # bytes of a file that is read
_MATCHES_MAX = 10_000
_TEXTS = (
    *LAYOUT_FILES,
    "etc/passwd",
    "etc/group",
    "etc/hosts",
    "etc/HOSTNAME",
    "etc/sysconfig/network",
    "etc/conf.d/hostname",
    "etc/os-release",
    "usr/lib/os-release",
    CONFIG,
    f"{CONFIG_FOLDER}/*.conf",
)
_FOLDERS = ("etc/iscsi", "etc/nvme", "var/lib/dbus", "var/lib/systemd", LVM_DEVICES_FOLDER)
_FILES = (
    "etc/ssh/ssh_host_*",
    "usr/lib/systemd/system/systemd-networkd.service",
    "lib/systemd/system/systemd-networkd.service",
)


def probe_tree(root_fd: int) -> TreeFacts:
    """Look at the tree below a folder.

    Raises:
        UnsafePath: /etc of the tree is a link.
    """
    _refuse_linked_etc(root_fd)
    texts = {}
    for pattern in (*_TEXTS, *CONFIGURATION, *NAMING):
        for path in matches(root_fd, pattern):
            data = read_or_none(root_fd, path)
            if data is not None:
                texts[path] = data.decode("utf-8", "surrogateescape")
    return TreeFacts(
        texts=texts,
        folders=frozenset(path for path in _FOLDERS if is_folder(root_fd, path)),
        files=_found(root_fd, _FILES),
        configuration=_found(root_fd, CONFIGURATION),
        naming=_found(root_fd, NAMING),
        programs=frozenset(name for name, paths in PROGRAMS.items() if _found(root_fd, paths)),
        enabled=frozenset(
            name
            for name, unit in UNITS.items()
            if _found(root_fd, (f"etc/systemd/system/*.wants/{unit}",))
        ),
    )


def _found(root_fd: int, patterns: Iterable[str]) -> frozenset[str]:
    return frozenset(path for pattern in patterns for path in matches(root_fd, pattern))


def _refuse_linked_etc(root_fd: int) -> None:
    try:
        with folder_beneath(root_fd, "etc"):
            pass
    except FileNotFoundError:
        pass


def is_folder(root_fd: int, path: str) -> bool:
    """Say whether a path is a folder of the tree, without a link on the way."""
    try:
        with folder_beneath(root_fd, path):
            return True
    except (FileNotFoundError, UnsafePath):
        return False


def read_or_none(root_fd: int, path: str) -> bytes | None:
    """Return a regular file; None where there is none, or it is absurdly large."""
    try:
        return read_beneath(root_fd, path, limit=FILE_MAX)
    except (UnsafePath, ValueError, PermissionError):
        return None


def matches(root_fd: int, pattern: str) -> Iterator[str]:
    """Yield the paths of a tree that a pattern means: `*` is within a name, no link is followed."""
    yield from _matches(root_fd, "", pattern.split("/"))


def _matches(root_fd: int, before: str, parts: list[str]) -> Iterator[str]:
    first, rest = parts[0], parts[1:]
    try:
        with folder_beneath(root_fd, before) as folder:
            names = _names(folder, first)
    except (FileNotFoundError, UnsafePath, PermissionError):
        return
    for name in names:
        path = f"{before}/{name}" if before else name
        if rest:
            yield from _matches(root_fd, path, rest)
        else:
            yield path


def _names(folder: int, pattern: str) -> list[str]:
    if "*" not in pattern:
        try:
            os.stat(pattern, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return []
        return [pattern]
    found = fnmatch.filter(os.listdir(folder), pattern)
    return sorted(name for name in found if not name.startswith("."))[:_MATCHES_MAX]


def sealed_of(tree: Path) -> tuple[str, ...]:
    """Return what an image of this very tree leaves out besides: host keys in other places."""
    root_fd = opened(tree)
    try:
        facts = probe_tree(root_fd)
    finally:
        os.close(root_fd)
    paths = configured_paths(facts.texts)
    return tuple(f"/{name}" for path in paths for name in (path, f"{path}.pub"))


def opened(root: Path) -> int:
    """Open a tree's root folder for the functions of this room."""
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
