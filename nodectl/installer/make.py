"""Make an installer: gather, write the archive, compress, describe; and find one that was made."""

import contextlib
import gzip
import json
import lzma
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard
from blake3 import blake3

from nodectl.errors import AlreadyThere, InstallerUnfit, PathUnreadable
from nodectl.events import Observer, step
from nodectl.fsio import fsync_folder
from nodectl.installer.cpio import write_cpio
from nodectl.installer.gather import Gathered, gather
from nodectl.installer.model import DETAILS, INITRD, KERNEL, SIZE_MAX, Installer
from nodectl.installer.pyz import Nodectl
from nodectl.units import format_size

_ZSTD_LEVEL = 19
_QUICK_LEVEL = 3
_ZSTD_THREADS = 2  # the same bytes wherever it is made: jobs are cut by their number
_XZ_PRESET = 6
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeWish:
    """What is asked."""

    target: Path  # holds kernel, first root and their description in the end
    root: Path  # of the system that kernel, modules, Python and programs are taken from
    nodectl: Nodectl  # runs in it
    kernel: str = ""  # its version, where the tree has several; empty: the newest
    overwrite: bool = False  # take the place of one that is there
    quick: bool = False  # compress less


def make_installer(wish: MakeWish, observer: Observer) -> Installer:
    """Make an installer; its folder appears whole or not at all.

    Raises:
        AlreadyThere: there is one, and it may not be overwritten.
        InstallerUnfit: the tree lacks something, or the result is too large.
    """
    target, root, nodectl = wish.target, wish.root, wish.nodectl
    if target.exists() and not wish.overwrite:
        raise AlreadyThere(
            f"there is an installer in {target}", hint="--overwrite makes another in its place"
        )
    with step(observer, "gather"):
        found = gather(root, nodectl.path.read_bytes(), kernel=wish.kernel)
    with _building(target) as building:
        with step(observer, f"compress with {found.compression}"):
            unpacked = _write_initrd(building / INITRD, found, quick=wish.quick)
        kernel_bytes = _kernel_bytes(root, found.kernel_path)
        (building / KERNEL).write_bytes(kernel_bytes)
        files = {name: building / name for name in (KERNEL, INITRD)}
        made = Installer(
            nodectl=nodectl.version,
            build_id=nodectl.build_id,
            machine=nodectl.machine,
            kernel=found.kernel,
            python=found.python,
            made_on=found.made_on,
            blake3={name: _digest(path) for name, path in files.items()},
            sizes={name: path.stat().st_size for name, path in files.items()},
            unpacked=unpacked,
            lacks=found.lacks,
        )
        if made.sizes[INITRD] > SIZE_MAX:
            raise InstallerUnfit(
                f"the installer's first root has {format_size(made.sizes[INITRD])}, more than the "
                f"{format_size(SIZE_MAX)} that small machines can hold",
                hint="make it from a system with fewer firmware files (--root)",
            )
        (building / DETAILS).write_text(made.text())
    return made


def read_installer(folder: Path, *, whole: bool = False) -> Installer:
    """Return what is said of the installer in a folder; with `whole` its files are compared.

    Raises:
        InstallerUnfit: there is none, or its files are not those that were made.
    """
    try:
        document = json.loads((folder / DETAILS).read_bytes())
    except (OSError, ValueError) as exc:
        raise InstallerUnfit(
            f"there is no installer in {folder}", hint="make one: nodectl cloner make-installer"
        ) from exc
    made = Installer.from_json(document)
    for name, size in made.sizes.items():
        path = folder / name
        right = path.is_file() and path.stat().st_size == size
        if not right or (whole and _digest(path) != made.blake3[name]):
            raise InstallerUnfit(
                f"{path} is not the file that was made",
                hint="make it again: nodectl cloner make-installer --overwrite",
            )
    return made


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    """Yield a folder that takes the place of `target` when the block ends well."""
    building = target.with_name(f".{target.name}.building-{os.getpid()}")
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    building.mkdir(parents=True, mode=0o755)
    try:
        yield building
        for path in building.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(building)
        if target.exists():
            target.rename(old)
        building.rename(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _kernel_bytes(root: Path, path: str) -> bytes:
    try:
        return (root / path.lstrip("/")).read_bytes()
    except OSError as exc:
        raise PathUnreadable(f"the kernel {path} of {root} cannot be read: {exc.strerror}") from exc


def _write_initrd(path: Path, found: Gathered, *, quick: bool) -> int:
    """Write the compressed archive; return its length before."""
    with path.open("wb") as file:
        match found.compression:
            case "zstd":
                packer = zstandard.ZstdCompressor(
                    level=_QUICK_LEVEL if quick else _ZSTD_LEVEL,
                    threads=_ZSTD_THREADS,
                    write_checksum=True,
                )
                with packer.stream_writer(file, closefd=False) as stream:
                    return write_cpio(found.entries, stream.write)
            case "xz":  # the kernel knows no other check than CRC32
                return _through(lzma.LZMACompressor(check=lzma.CHECK_CRC32,
                                                    preset=0 if quick else _XZ_PRESET),
                                found, file)  # fmt: skip
            case _:
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    return write_cpio(found.entries, packed.write)


def _through(packer: lzma.LZMACompressor, found: Gathered, file: BinaryIO) -> int:
    def write(data: bytes) -> None:
        file.write(packer.compress(data))

    length = write_cpio(found.entries, write)
    file.write(packer.flush())
    return length


def _digest(path: Path) -> str:
    digest = blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
