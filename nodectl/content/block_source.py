"""What a block image is captured from: a file, a block device, or a qcow2 file. Read-only.

A qcow2 file is turned into a sparse raw file first, by qemu-img. One that takes bytes from other
files (a backing file, a data file) is refused: those names come from the image, which may come from
anywhere, and would be opened with the rights of who captures.
"""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodectl.content.manifest import Extent
from nodectl.content.reading import Signature, data_extents
from nodectl.errors import (
    CommandFailed,
    DiskBusy,
    FileChanged,
    InvalidInput,
    PathMissing,
    PathUnreadable,
)
from nodectl.run import run

_QCOW2_MAGIC = b"QFI\xfb"
_CONVERT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """An image to read: a path that workers open for themselves."""

    path: Path
    size: int  # bytes
    extents: tuple[Extent, ...]  # where data is, as far as the file system says
    signature: Signature | None  # of a file: what it was when the reading began

    def check_unchanged(self) -> None:
        """Refuse what was read if the file is not what it was.

        Raises:
            FileChanged: it was written to meanwhile.
        """
        if self.signature is not None and Signature.of(self.path.stat()) != self.signature:
            raise FileChanged(
                f"{self.path} changed while it was read", hint="stop what writes to it"
            )


@contextlib.contextmanager
def open_source(path: Path, *, work: Path, in_use: bool = False) -> Iterator[BlockSource]:
    """Yield what to read; `work` is a folder with space for a qcow2 file's content.

    Raises:
        PathMissing, PathUnreadable: as the words say.
        DiskBusy: it is a device that is mounted or otherwise in use, and not `in_use`.
        InvalidInput: a qcow2 file that cannot be captured.
        ToolMissing: qemu-img is not there.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError as exc:
        raise PathMissing(f"there is no {path}") from exc
    except OSError as exc:
        raise PathUnreadable(f"cannot read {path}: {exc.strerror}") from exc
    if stat.S_ISBLK(status.st_mode):
        yield _device(path, in_use=in_use)
    elif not stat.S_ISREG(status.st_mode):
        raise PathUnreadable(f"{path} is neither a file nor a block device")
    elif magic == _QCOW2_MAGIC:
        with _converted(path, work) as raw:
            before = Signature.of(status)
            yield _file(raw)
            if Signature.of(path.stat()) != before:
                raise FileChanged(
                    f"{path} changed while it was read", hint="stop the machine that uses it"
                )
    else:
        yield _file(path)


def _file(path: Path) -> BlockSource:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        size = status.st_size
        return BlockSource(
            path=path, size=size, extents=data_extents(fd, size), signature=Signature.of(status)
        )
    finally:
        os.close(fd)


def _device(path: Path, *, in_use: bool) -> BlockSource:
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if in_use else os.O_EXCL)
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise DiskBusy(
                f"{path} is mounted, or part of something else that is in use",
                hint="unmount it or take a snapshot; --in-use reads it as it is",
            ) from exc
        raise PathUnreadable(f"cannot read {path}: {exc.strerror}") from exc
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)
    return BlockSource(path=path, size=size, extents=((0, size),) if size else (), signature=None)


# ---------------------------------------------------------------- qcow2


@contextlib.contextmanager
def _converted(path: Path, work: Path) -> Iterator[Path]:
    """Yield a raw file with what a qcow2 file holds."""
    _check_qcow2(path)
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="qcow2-", dir=work) as folder:
        raw = Path(folder) / "raw"
        convert = ("qemu-img", "convert", "-f", "qcow2", "-O", "raw", "-S", "4k")
        try:
            run([*convert, str(path), str(raw)], timeout=_CONVERT_S)
        except CommandFailed as exc:
            raise InvalidInput(f"qemu-img cannot read {path}: {exc}") from exc
        yield raw


def _check_qcow2(path: Path) -> None:
    try:
        said = run(["qemu-img", "info", "-f", "qcow2", "--output=json", path]).stdout
    except CommandFailed as exc:
        raise InvalidInput(f"{path} is no valid qcow2 file: {exc}") from exc
    facts: dict[str, Any] = json.loads(said)
    special = facts.get("format-specific", {}).get("data", {})
    if facts.get("backing-filename") or special.get("data-file"):
        raise InvalidInput(
            f"{path} takes a part of its content from another file",
            hint=f"make it whole first: qemu-img convert -O qcow2 {path} whole.qcow2",
        )
    if facts.get("encrypted"):
        raise InvalidInput(
            f"{path} is encrypted, and only its owner has the key",
            hint="decrypt it first with qemu-img convert",
        )
    checked = run(["qemu-img", "check", "-f", "qcow2", path], ok=(0, 1, 2, 3), timeout=_CONVERT_S)
    # Status 3, qemu-img(1): clusters that nothing uses, which harm nothing.
    if special.get("corrupt") or checked.status not in (0, 3):
        raise InvalidInput(
            f"{path} is a damaged qcow2 file", hint=f"qemu-img check {path} tells what is wrong"
        )
