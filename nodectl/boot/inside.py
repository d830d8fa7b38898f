"""Runs programs of a mounted tree with that tree as their root.

They see /dev, /proc, /sys and udev's database of the running system, in a mount namespace of their
own: nothing of that shows outside, and all of it is gone when the block ends or nodectl is killed.
Each program has a process namespace too, so that what it leaves running ends with it.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nodectl.errors import NotBootable
from nodectl.fsio import folder_beneath
from nodectl.run import Completed, held, run

_FOLDERS = ("dev", "proc", "sys", "run", "tmp")
_SHARED = ("/run/udev", "/run/lvm", "/run/cryptsetup")
_BY_UUID = Path("/dev/disk/by-uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """A tree whose programs can be run."""

    root: Path
    enter: tuple[str, ...]  # how its mount namespace is entered

    def run(self, argv: tuple[str, ...], *, timeout: float) -> Completed:
        """Run a program of the tree to its end.

        Raises:
            ToolMissing, CommandFailed: as `nodectl.run.run`.
        """
        ends_with_us = (
            "setpriv",
            "--pdeathsig",
            "KILL",
        )  # else kill -9 of nodectl leaves it at work
        alone = ("unshare", "--pid", "--fork", "--kill-child")
        words = [*ends_with_us, *self.enter, *alone, "chroot", str(self.root), *argv]
        return run(words, timeout=timeout)


@contextlib.contextmanager
def entered(root: Path, *, device: str, uuid: str) -> Iterator[Inside]:
    """Prepare the tree at `root`, whose filesystem `uuid` stands on `device`.

    Raises:
        NotBootable: /dev, /proc, ... of the tree are missing, or links that lead elsewhere.
    """
    if root == Path("/"):
        yield Inside(root=root, enter=())  # the running system has all of it
        return
    _check_folders(root)
    with held(["unshare", "--mount", "--propagation", "private", "cat"]) as pid:
        enter = ("nsenter", f"--mount=/proc/{pid}/ns/mnt")
        for name in ("dev", "sys"):
            run([*enter, "mount", "--rbind", f"/{name}", root / name])
        run([*enter, "mount", "--types", "proc", "proc", root / "proc"])
        for name in ("run", "tmp"):
            run([*enter, "mount", "--types", "tmpfs", "nodectl", root / name])
        for shared in _SHARED:
            if Path(shared).is_dir():
                place = f"{root}{shared}"
                run([*enter, "mkdir", place])
                run([*enter, "mount", "--bind", shared, place])
        with _named_by_uuid(enter, root, device, uuid):
            yield Inside(root=root, enter=enter)


def _check_folders(root: Path) -> None:
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in _FOLDERS:
            with folder_beneath(root_fd, name):
                pass
    except FileNotFoundError as exc:
        raise NotBootable(f"the tree has no folder {exc.filename}, no system runs so") from exc
    finally:
        os.close(root_fd)


@contextlib.contextmanager
def _named_by_uuid(enter: tuple[str, ...], root: Path, device: str, uuid: str) -> Iterator[None]:
    """Give the root's device its link by UUID where no udev made it.

    grub-mkconfig writes root=/dev/sda2 into the menu when that link is missing.
    """
    if (_BY_UUID / uuid).exists():
        yield
        return
    made = [path for path in (_BY_UUID.parent, _BY_UUID) if not path.exists()]
    for path in made:  # in the devtmpfs that all share; a mount on them is ours alone
        path.mkdir(mode=0o755)
    try:
        place = root / _BY_UUID.relative_to("/")
        run([*enter, "mount", "--types", "tmpfs", "nodectl", place])
        run([*enter, "ln", "--symbolic", device, place / uuid])
        yield
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # udev has begun to use it
                path.rmdir()
