"""Makes a boot plan so in a mounted tree, and reads back what its start will need.

The tree's own programs run in `boot/inside.py`. A step that fails names itself; doing all of them
again is always right.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from nodectl.boot.initramfs import builtin_names
from nodectl.boot.inside import Inside, entered
from nodectl.boot.model import BootPlace
from nodectl.boot.plan import (
    BootPlan,
    BootStep,
    CopyLoader,
    RemoveFile,
    RunInside,
    WriteText,
)
from nodectl.boot.probe import initramfs_modules, initramfs_path
from nodectl.boot.texts import names_root
from nodectl.errors import BootFailed, UnsafePath
from nodectl.events import Observer, step
from nodectl.fsio import folder_beneath, read_beneath, write_beneath

_LOADER_LIMIT = 1 << 28
_CONFIG_LIMIT = 1 << 22
_ESP_MODE = 0o755  # vfat refuses to take the x bit away
_GRUB_CONFIGS = ("boot/grub/grub.cfg", "boot/grub2/grub.cfg")


def apply_boot(
    root: Path, plan: BootPlan, place: BootPlace, device: str, observer: Observer
) -> None:
    """Carry out the plan's steps in the mounted tree; `device` is where its root stands.

    Raises:
        ToolMissing, CommandFailed: a program of the tree is missing or failed.
        BootFailed: something does not read back as it should.
        NotBootable, UnsafePath: the tree has links where folders belong.
    """
    with entered(root, device=device, uuid=place.root_uuid) as inside:
        apply_steps(root, plan.steps, inside, observer)


def apply_steps(root: Path, steps: Iterable[BootStep], inside: Inside, observer: Observer) -> None:
    """Carry out steps in a tree that was entered.

    Raises:
        NodectlError: as `apply_boot`.
    """
    with _opened(root) as root_fd:
        for each in steps:
            with step(observer, step_words(each)):
                _apply(each, inside, root_fd)


@contextlib.contextmanager
def _opened(root: Path) -> Iterator[int]:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield root_fd
    finally:
        os.close(root_fd)


def step_words(each: BootStep) -> str:
    """Return a step in words for progress and errors."""
    match each:
        case WriteText():
            return f"write /{each.path}"
        case RemoveFile():
            return f"remove /{each.path}"
        case RunInside():
            words = [word for word in each.argv if "=" not in word or word.startswith("-")]
            return f"run {words[1] if words[0] == 'env' else words[0]} ({words[-1]})"
        case CopyLoader():
            return f"copy /{each.source} to /{each.target}"


def _apply(each: BootStep, inside: Inside, root_fd: int) -> None:
    match each:
        case WriteText():
            _write(root_fd, each.path, each.text.encode("utf-8", "surrogateescape"))
        case RemoveFile():
            _remove(root_fd, each.path)
        case RunInside():
            inside.run(each.argv, timeout=each.timeout)
        case CopyLoader():
            _copy(root_fd, each)


def _write(root_fd: int, path: str, data: bytes) -> None:
    folder = path.rpartition("/")[0]
    with folder_beneath(root_fd, folder, make=True):
        pass
    is_on_esp = "/loader/" in f"/{path}" or "/EFI/" in path
    write_beneath(root_fd, path, data, mode=_ESP_MODE if is_on_esp else 0o644)


def _remove(root_fd: int, path: str) -> None:
    parent, _, name = path.rpartition("/")
    with contextlib.suppress(FileNotFoundError), folder_beneath(root_fd, parent) as folder:
        os.unlink(name, dir_fd=folder)


def _copy(root_fd: int, each: CopyLoader) -> None:
    data = read_beneath(root_fd, each.source, limit=_LOADER_LIMIT)
    if not data:
        raise BootFailed(f"the tree has no /{each.source}, which should be started by firmware")
    try:
        there = read_beneath(root_fd, each.target, limit=_LOADER_LIMIT)
    except FileNotFoundError:
        there = None
    if there != data:
        _write(root_fd, each.target, data)


def check_boot(root: Path, plan: BootPlan, place: BootPlace) -> None:
    """Read back from the mounted tree what its start needs: loaders, menu, initramfs, drivers.

    Raises:
        BootFailed: something is not there, or not as it should be.
    """
    with _opened(root) as root_fd:
        missing = [path for path in plan.files if not _has(root_fd, path)]
        if missing:
            names = ", ".join(f"/{path}" for path in missing)
            raise BootFailed(f"{names} should be there after the loaders were installed")
        for version in plan.kernels:
            _check_initramfs(root_fd, version, place.drivers)
        if plan.has_menu:
            _check_menu(root_fd, place)


def _check_initramfs(root_fd: int, version: str, drivers: frozenset[str]) -> None:
    lacking = _lacking(root_fd, version, drivers)
    if lacking:
        raise BootFailed(
            f"the initramfs of kernel {version} lacks {', '.join(lacking)}, "
            "without which it cannot reach its root",
            hint="look at /etc/initramfs-tools/modules, or dracut.conf.d, of the image",
        )


def _has(root_fd: int, path: str) -> bool:
    try:
        return bool(read_beneath(root_fd, path, limit=_LOADER_LIMIT))
    except (FileNotFoundError, UnsafePath):
        return False


def _lacking(root_fd: int, version: str, drivers: frozenset[str]) -> list[str]:
    if initramfs_path(root_fd, version) is None:
        raise BootFailed(f"kernel {version} has no initramfs after it was made")
    inside = initramfs_modules(root_fd, version)
    if inside is None:
        return []  # a compression that is not read here; its own program made it without an error
    try:
        builtin = read_beneath(
            root_fd, f"usr/lib/modules/{version}/modules.builtin", limit=_CONFIG_LIMIT
        )
    except FileNotFoundError:
        builtin = None
    known = builtin_names((builtin or b"").decode("utf-8", "replace"))
    return sorted(drivers - inside - known)


def _check_menu(root_fd: int, place: BootPlace) -> None:
    """Find a menu of GRUB that starts a kernel with the root by its UUID, or by BLS entries."""
    for path in _GRUB_CONFIGS:
        try:
            data = read_beneath(root_fd, path, limit=_CONFIG_LIMIT)
        except FileNotFoundError:
            continue
        if data is None:
            continue
        text = data.decode("utf-8", "replace")
        if "blscfg" in text or names_root(text, place.root_uuid):
            return
        raise BootFailed(
            f"/{path} does not start a kernel with root=UUID={place.root_uuid}",
            hint="look at /etc/default/grub and /etc/grub.d of the image",
        )
    raise BootFailed("the tree has no grub.cfg after it was written")
