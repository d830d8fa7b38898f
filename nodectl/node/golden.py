"""A golden machine, looked at before it is captured: its disks, its directories, how much it is."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nodectl.disk.model import Layout
from nodectl.node.disk_layout import capture_layout


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFolder:
    """A file system that belongs to the image."""

    path: str  # in the tree; "/" is its top
    used_bytes: int  # of the whole file system, what is left out of the image too
    plain_mount: bool  # False: the folder is no mount point, and shares a larger file system


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What an image would be made of."""

    layout: Layout
    remarks: tuple[str, ...]  # what the layout cannot express
    folders: tuple[GoldenFolder, ...]  # the top first

    @property
    def mounts(self) -> tuple[str, ...]:
        """Return the mount points below the top, as paths in the tree."""
        return tuple(one.path for one in self.folders[1:])

    @property
    def used_bytes(self) -> int:
        """Return at most how many plain bytes the image has."""
        return sum(one.used_bytes for one in self.folders)


def look_at_golden(tree: Path, layout: Layout | None, *, without: Sequence[str] = ()) -> Golden:
    """Look at the machine this is, or at a tree and the layout that was written for it.

    Args:
        tree: the top of the system; "/" is the running one.
        layout: None: the layout of this machine's disks.
        without: disks of this machine, paths or serials, that do not belong to it.

    Raises:
        NeedsRoot: only root may read disks.
        DiskMissing: a disk that is named is not there.
    """
    remarks: tuple[str, ...] = ()
    if layout is None:
        layout, remarks = capture_layout((), without=without)
    wanted = sorted(
        {one.mount for one in layout.filesystems if one.mount not in ("", "/")}
        | {
            f"/{sub.mount.strip('/')}"
            for one in layout.filesystems
            for sub in one.subvolumes
            if sub.mount.strip("/")
        }
    )
    mounts = [path for path in wanted if os.path.ismount(tree / path.strip("/"))]
    return Golden(
        layout=layout,
        remarks=remarks,
        folders=tuple(_folder(tree, path) for path in ("/", *mounts)),
    )


def _folder(tree: Path, path: str) -> GoldenFolder:
    place = tree / path.strip("/")
    status = os.statvfs(place)
    return GoldenFolder(
        path=path,
        used_bytes=(status.f_blocks - status.f_bfree) * status.f_frsize,
        plain_mount=os.path.ismount(place),
    )
