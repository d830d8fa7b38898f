"""What a block image is captured from: a file, a block device, or a qcow2 file. Read-only.

A qcow2 file is read through `qemu-nbd`, so no second copy of it is needed. One that takes bytes
from other files (a backing file, a data file) is refused: those names come from the image, which
may come from anywhere, and would be opened with the rights of who captures.

Read is what may hold data: not the holes of a file, not what qcow2 has never stored, and not what a
clean file system calls free (see free_space.py).
"""

import contextlib
import errno
import json
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nodectl.content.chunker import CHUNK_LEAST
from nodectl.content.free_space import free_ranges
from nodectl.content.manifest import Extent
from nodectl.content.nbd import NbdReader
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
_MAP_S = 3600.0  # for what reads a qcow2 file's tables, and nothing else of it
_HEAD = 512
# Offset, bytes, what such a file is: captured as they are they would be no disk.
_NOT_RAW = (
    (0, b"KDMV", "a VMDK file"),
    (0, b"vhdxfile", "a VHDX file"),
    (0, b"conectix", "a VHD file"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI file"),
    (0, b"\x1f\x8b\x08", "compressed with gzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
)


class Reader(Protocol):
    """Reads an image; one for each worker."""

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill the beginning of a view; return how many bytes, 0 at the end of the image.

        Raises:
            OSError: the disk, or who reads it for us, cannot.
        """
        ...

    def close(self) -> None:
        """Let go of the image."""
        ...


class FileReader:
    """Reads a file or a device."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fill the beginning of a view."""
        return os.preadv(self._fd, [view], offset)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """An image to read."""

    path: Path  # as the user named it
    size: int  # bytes
    extents: tuple[Extent, ...]  # where there may be data
    signature: Signature | None  # of a file: what it was when the reading began
    free_bytes: int = 0  # of what a file system calls free, left out
    socket: Path | None = None  # of the NBD server that reads it

    def open(self) -> Reader:
        """Open it once more."""
        return FileReader(self.path) if self.socket is None else NbdReader(self.socket)

    def check_unchanged(self) -> None:
        """Refuse what was read if the file is not what it was.

        Raises:
            FileChanged: it was written to meanwhile.
        """
        if self.signature is not None and Signature.of(self.path.stat()) != self.signature:
            raise FileChanged(
                f"{self.path} changed while it was read", hint="stop what writes to it"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How to read."""

    in_use: bool = False  # a device although it is mounted
    all_blocks: bool = False  # what a file system calls free as well


@contextlib.contextmanager
def open_source(path: Path, options: SourceOptions) -> Iterator[BlockSource]:
    """Yield what to read.

    Raises:
        PathMissing, PathUnreadable: as the words say.
        DiskBusy: it is a device that is mounted or otherwise in use, and not `in_use`; or a qcow2
            file that a running machine uses.
        InvalidInput: a file that cannot be captured as it is.
        ToolMissing: qemu-img is not there.
    """
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError as exc:
        raise PathMissing(f"there is no {path}") from exc
    except OSError as exc:
        raise PathUnreadable(f"cannot read {path}: {exc.strerror}") from exc
    if stat.S_ISBLK(status.st_mode):
        with _device(path, options) as source:
            yield source
    elif not stat.S_ISREG(status.st_mode):
        raise PathUnreadable(f"{path} is neither a file nor a block device")
    elif head.startswith(_QCOW2_MAGIC):
        with _qcow2(path) as source:
            yield source
    else:
        _refuse_others(path, head)
        yield _file(path, options)


def _refuse_others(path: Path, head: bytes) -> None:
    for offset, magic, what in _NOT_RAW:
        if head[offset:].startswith(magic):
            raise InvalidInput(
                f"{path} is {what}, and neither a raw image nor qcow2",
                hint="unpack it, or turn it into qcow2 with qemu-img convert -O qcow2",
            )


def _file(path: Path, options: SourceOptions) -> BlockSource:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        size = status.st_size
        extents = data_extents(fd, size)
    finally:
        os.close(fd)
    alone = not options.all_blocks and not _is_attached(status)
    free = free_ranges(path, size) if alone else ()
    wanted, left_out = without(extents, free)
    return BlockSource(
        path=path,
        size=size,
        extents=wanted,
        signature=Signature.of(status),
        free_bytes=left_out,
    )


def _is_attached(status: os.stat_result) -> bool:
    """Say whether a loop device shows the file, whose file system may be in use there."""
    for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            backing = Path(loop.read_text().removesuffix("\n")).stat()
            if (backing.st_dev, backing.st_ino) == (status.st_dev, status.st_ino):
                return True
    return False


@contextlib.contextmanager
def _device(path: Path, options: SourceOptions) -> Iterator[BlockSource]:
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if options.in_use else os.O_EXCL)
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        if exc.errno == errno.EBUSY:
            raise DiskBusy(
                f"{path} is mounted, or part of something else that is in use",
                hint="unmount it or take a snapshot; --in-use reads it as it is",
            ) from exc
        raise PathUnreadable(f"cannot read {path}: {exc.strerror}") from exc
    try:  # held open: nobody mounts it meanwhile
        size = os.lseek(fd, 0, os.SEEK_END)
        alone = not options.all_blocks and not options.in_use
        free = free_ranges(path, size) if alone else ()
        wanted, left_out = without(((0, size),) if size else (), free)
        yield BlockSource(path=path, size=size, extents=wanted, signature=None, free_bytes=left_out)
    finally:
        os.close(fd)


def without(extents: Iterable[Extent], free: Iterable[Extent]) -> tuple[tuple[Extent, ...], int]:
    """Return the extents without what is free, and how many bytes that leaves out. Pure.

    Both are in order and do not overlap. A gap that is shorter than the least chunk is read like
    its neighbours: that bounds what one range of the image can have in extents.
    """
    wanted: list[Extent] = []
    left_out = 0
    waiting = iter(free)
    gap = next(waiting, None)
    for begin, length in extents:
        at, end = begin, begin + length
        while gap is not None and gap[0] < end:
            first, behind = max(at, gap[0]), min(end, sum(gap))
            if behind - first >= CHUNK_LEAST:
                left_out += behind - first
                _join(wanted, at, first)
                at = behind
            if sum(gap) > end:
                break
            gap = next(waiting, None)
        _join(wanted, at, end)
    return tuple(wanted), left_out


def _join(extents: list[Extent], begin: int, end: int) -> None:
    """Add an extent, as a part of the last one if only a short gap lies between."""
    if begin >= end:
        return
    if extents and begin - sum(extents[-1]) < CHUNK_LEAST:
        begin = extents.pop()[0]
    extents.append((begin, end - begin))


# ---------------------------------------------------------------- qcow2


@contextlib.contextmanager
def _qcow2(path: Path) -> Iterator[BlockSource]:
    """Serve what a qcow2 file holds while the block runs."""
    signature = Signature.of(path.stat())
    _check_qcow2(path)
    extents = _mapped(path)
    with tempfile.TemporaryDirectory(prefix="nodectl-") as folder:
        socket = Path(folder) / "nbd"
        serve = ("qemu-nbd", "--fork", "--read-only", "--format=qcow2", "--shared=0")
        _qemu(path, *serve, f"--socket={socket}")
        # It ends when its last client has gone: this one stays to the end, however we end.
        keeper = NbdReader(socket)
        try:
            wanted, _ = without(extents, ())
            yield BlockSource(
                path=path, size=keeper.size, extents=wanted, signature=signature, socket=socket
            )
        finally:
            keeper.close()


def _mapped(path: Path) -> list[Extent]:
    """Return where a qcow2 file has stored anything that is not zeros."""
    told = json.loads(_qemu(path, "qemu-img", "map", "-f", "qcow2", "--output=json"))
    return [(one["start"], one["length"]) for one in told if not one["zero"]]


def _qemu(path: Path, *words: str, ok: tuple[int, ...] = (0,)) -> bytes:
    """Run a tool of qemu on a qcow2 file; return what it said.

    Raises:
        DiskBusy: another program has the file open for writing.
        InvalidInput: the tool finds no valid qcow2 in it.
    """
    try:
        return run([*words, path.absolute()], ok=ok, timeout=_MAP_S).stdout
    except CommandFailed as exc:
        if '" lock' in str(exc):  # QEMU locks the files that it uses
            raise DiskBusy(
                f"{path} is in use by a running machine",
                hint="stop the machine, or capture a snapshot of its disk",
            ) from exc
        raise InvalidInput(f"{path} is no valid qcow2 file: {exc}") from exc


def _check_qcow2(path: Path) -> None:
    said = _qemu(path, "qemu-img", "info", "-f", "qcow2", "--output=json")
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
    sound = False
    # Status 3, qemu-img(1): clusters that nothing uses, which harm nothing.
    check = ("qemu-img", "check", "-f", "qcow2", "--output=json")
    with contextlib.suppress(ValueError):  # it says no JSON when it cannot even begin
        found = json.loads(_qemu(path, *check, ok=(0, 1, 2, 3)))
        sound = not found.get("corruptions") and not found.get("check-errors")
    if special.get("corrupt") or not sound:
        raise InvalidInput(
            f"{path} is a damaged qcow2 file", hint=f"qemu-img check {path} tells what is wrong"
        )
