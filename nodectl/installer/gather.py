"""Look at a tree and take what an installer is made of; every lack is found before any is told."""

import io
import json
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from nodectl.errors import InstallerUnfit
from nodectl.installer import contents, cpio, drivers
from nodectl.installer.contents import Program
from nodectl.installer.elf import parse_elf
from nodectl.installer.tree import Taken

_PYC_HEAD = struct.Struct("<4sIII")  # magic, flags, mtime and size of the source (PEP 552)
_MODULE_MAX = 64 << 20  # bytes of one kernel module
_PYZ = "nodectl.pyz"
_EM = {62: "x86_64", 183: "aarch64"}
_VERSION_PARTS = re.compile(r"\d+|\D+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What was taken, and what is said of it."""

    entries: tuple[cpio.Entry, ...]
    kernel: str  # version
    kernel_path: str  # in the tree
    python: str
    made_on: str
    lacks: tuple[str, ...]  # optional programs
    compression: str  # "zstd", "xz" or "gzip": what the kernel unpacks


def gather(
    root: Path, pyz: bytes, *, kernel: str = "", pause_s: int = contents.PAUSE_S
) -> Gathered:
    """Take everything from the tree at `root`; `kernel` names a version where it has several.

    Raises:
        InstallerUnfit: something that is needed is missing: all of it is named.
    """
    taken = Taken(root)
    lacks: list[str] = []
    for path in contents.TOP_LINKS:
        taken.take(path)
    programs = _take_programs(taken, lacks)
    udevd = next((p for p in contents.UDEVD if taken.take(p)), "")
    if not udevd:
        lacks.append("systemd-udevd (package udev, or systemd-udev)")
    _take_udev(taken)
    python = _take_python(taken, lacks)
    version, kernel_path = _kernel(taken, kernel, lacks)
    if version:
        _take_modules(taken, version, lacks)
    for path in (*contents.SMALL_FILES, *_later_libraries(taken)):
        taken.take(path)
    for path in contents.LOCALES:
        taken.take_all(path)
    for library in native_needs(pyz, f"cp{python.rpartition('python')[2].replace('.', '')}"):
        taken.need(library, by=_PYZ)
    _put_own(taken, pyz, programs, udevd=udevd, python=python, pause_s=pause_s)
    entries = taken.entries()
    lacks += sorted({f"{one.name}, which {one.needed_by} needs" for one in taken.missing})
    if lacks:
        raise InstallerUnfit(
            f"{root} lacks what an installer needs: {'; '.join(lacks)}",
            hint="install the packages named, and run this again",
        )
    return Gathered(
        entries=entries,
        kernel=version,
        kernel_path=kernel_path,
        python=python.rpartition("python")[2],
        made_on=_pretty_name(taken.text("/etc/os-release")),
        lacks=tuple(each.name for each in contents.PROGRAMS if each.name not in programs),
        compression=_compression(taken.text(f"/boot/config-{version}")
                                 or taken.text(f"/lib/modules/{version}/config")),
    )  # fmt: skip


def native_needs(pyz: bytes, tag: str) -> tuple[str, ...]:
    """Return the libraries that the native modules of a nodectl.pyz need, for one Python."""
    found: set[str] = set()
    with zipfile.ZipFile(io.BytesIO(pyz)) as archive:
        for name in archive.namelist():
            if not name.startswith((f"native/{tag}-", "native/abi3-")):
                continue
            elf = parse_elf(archive.read(name))
            if elf is not None and _EM.get(elf.machine) == os.uname().machine:
                found |= set(elf.needed)
    return tuple(sorted(found))


def _on_path(taken: Taken, name: str) -> str | None:
    paths = (f"{folder}/{name}" for folder in contents.SEARCH_PATH)
    return next((path for path in paths if taken.exists(path)), None)


def _take_programs(taken: Taken, lacks: list[str]) -> dict[str, str]:
    """Take the programs; return where each is."""
    found: dict[str, str] = {}
    for program in contents.PROGRAMS:
        path = _on_path(taken, program.name)
        if path is None:
            if program.required:
                lacks.append(_lack(program))
            continue
        taken.take(path)
        found[program.name] = path
        for name in program.links:
            other = _on_path(taken, name)
            if other is not None:
                taken.take(other)
    return found


def _lack(program: Program) -> str:
    packages = dict.fromkeys((program.debian, program.redhat))
    return f"the program {program.name} (package {', or '.join(packages)})"


def _take_udev(taken: Taken) -> None:
    for folder in contents.UDEV_FOLDERS:
        for name in contents.UDEV_PROGRAMS:
            taken.take(f"{folder}/{name}")
        for name in contents.UDEV_RULES:
            taken.take(f"{folder}/rules.d/{name}")


def _later_libraries(taken: Taken) -> Iterable[str]:
    for name in contents.LOADED_LATER:
        place = taken.library(name)
        if place:
            yield place


def _take_python(taken: Taken, lacks: list[str]) -> str:
    """Take the best Python that nodectl.pyz runs on, with its library; return its path."""
    for version in contents.PYTHON_VERSIONS:
        for folder in contents.PYTHON_FOLDERS:
            path = f"{folder}/python{version}"
            real = taken.find(path)
            if real is None or taken.is_folder(path):
                continue
            prefix = real.removesuffix(f"/bin/python{version}").removesuffix("/libexec")
            places = [f"{prefix}/{lib}/python{version}" for lib in ("lib64", "lib")]
            found = [p for p in places if taken.exists(f"{p}/os.py") or taken.exists(f"{p}/os.pyc")]
            if not found:
                continue
            taken.take(path)
            for place in places:
                _take_library(taken, place, version.replace(".", ""))
            return path
    names = ", ".join(reversed(contents.PYTHON_VERSIONS))
    lacks.append(f"Python ({names}) with its library (package python3, or python3.11)")
    return ""


def _take_library(taken: Taken, place: str, tag: str) -> None:
    """Take a standard library: what is compiled in place of its source, where it is current."""
    for name in taken.names(f"{place}/lib-dynload"):
        if not name.startswith(contents.PYTHON_MODULES_LEFT):
            taken.take(f"{place}/lib-dynload/{name}")
    _take_sources(taken, place, tag)


def _take_sources(taken: Taken, place: str, tag: str) -> None:
    for name in taken.names(place):
        path = f"{place}/{name}"
        if name in contents.PYTHON_LEFT or name.startswith("config-"):
            continue
        if taken.is_folder(path):
            _take_sources(taken, path, tag)
        elif name.endswith(".py"):
            _take_source(taken, place, name, tag)
        elif name.endswith(".pyc"):
            taken.take(path)


def _take_source(taken: Taken, place: str, name: str, tag: str) -> None:
    """Take a module: what Python compiled it to, if that is of this very source."""
    stem = name.removesuffix(".py")
    cached = f"{place}/__pycache__/{stem}.cpython-{tag}.pyc"
    if taken.exists(cached):
        data = taken.read(cached)
        magic, flags, mtime, size = _PYC_HEAD.unpack_from(data)
        status = taken.status(f"{place}/{name}")
        if flags == 0 and (mtime, size) == (int(status.st_mtime) & 0xFFFFFFFF, status.st_size):
            head = _PYC_HEAD.pack(magic, 0, 0, 0)  # its time says nothing without its source
            real = taken.find(f"{place}/{name}") or ""
            taken.put(cpio.file(f"{real.lstrip('/')}c", head + data[_PYC_HEAD.size :]))
            return
    taken.take(f"{place}/{name}")


def _kernel(taken: Taken, wanted: str, lacks: list[str]) -> tuple[str, str]:
    """Return the version of the kernel and where it is."""
    versions = [
        name
        for name in taken.names("/lib/modules")
        if taken.exists(f"/lib/modules/{name}/modules.dep")
    ]
    if wanted:
        versions = [wanted] if wanted in versions else []
    for version in sorted(versions, key=_natural, reverse=True):
        for path in (f"/boot/vmlinuz-{version}", f"/lib/modules/{version}/vmlinuz"):
            if taken.exists(path):
                return version, path
    named = f"the kernel {wanted}" if wanted else "a kernel"
    lacks.append(f"{named} with its modules, in /boot or /lib/modules (package linux-image-amd64, "
                 "or kernel-core)")  # fmt: skip
    return "", ""


def _natural(version: str) -> list[tuple[int, str]]:
    parts = _VERSION_PARTS.findall(version)
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _take_modules(taken: Taken, version: str, lacks: list[str]) -> None:
    place = f"/lib/modules/{version}"
    chosen = drivers.chosen_modules(drivers.parse_dep(taken.text(f"{place}/modules.dep")))
    missing = drivers.without_hardware(chosen, taken.text(f"{place}/modules.builtin"))
    lacks += [f"modules for {what} in {place}" for what in missing]
    for name in taken.names(place):
        if name.startswith("modules."):
            taken.take(f"{place}/{name}")
    for path in chosen:
        if taken.take(f"{place}/{path}") is None:
            continue
        if "/drivers/" in path:
            _take_firmware(taken, unpacked_module(path, taken.read(f"{place}/{path}")))


def _take_firmware(taken: Taken, module: bytes) -> None:
    for name in drivers.wanted_firmware(module):
        for suffix in ("", ".xz", ".zst"):
            taken.take(f"/lib/firmware/{name}{suffix}")


def unpacked_module(path: str, data: bytes) -> bytes:
    """Return a kernel module as it is loaded; an empty text where it cannot be unpacked."""
    try:
        if path.endswith(".xz"):
            return lzma.decompress(data)
        if path.endswith(".gz"):
            return zlib.decompress(data, 16 + zlib.MAX_WBITS)
        if path.endswith(".zst"):
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=_MODULE_MAX)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError):
        return b""
    return data


def _put_own(
    taken: Taken, pyz: bytes, programs: dict[str, str], *, udevd: str, python: str, pause_s: int
) -> None:
    words = {
        "busybox": programs.get("busybox", ""),
        "udevd": udevd,
        "python": python,
        "pause": str(pause_s),
    }
    taken.put(cpio.file("init", contents.INIT.format(**words).encode(), 0o755))
    script = contents.DHCP_SCRIPT.format(busybox=words["busybox"]).encode()
    # Through the links at the top: /usr may be one of them.
    taken.put(cpio.file(contents.DHCP_SCRIPT_PATH.lstrip("/"), script, 0o755))
    taken.put(cpio.file(_PYZ, pyz, 0o755))
    for name in contents.FOLDERS:
        if not taken.has(name):
            taken.put(cpio.folder(name))
    shell = cpio.link("bin/sh", words["busybox"])
    taken.put(shell if not taken.exists("/bin") or not taken.is_link("/bin")
              else cpio.link("usr/bin/sh", words["busybox"]))  # fmt: skip
    taken.put(cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
    taken.put(cpio.file("etc/group", b"root:x:0:\ndisk:x:6:\ntty:x:5:\n"))
    taken.put(cpio.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n"))
    about = json.dumps({"python": python, "busybox": words["busybox"]}, sort_keys=True)
    taken.put(cpio.file(contents.DETAILS_PATH.lstrip("/"), about.encode()))


def _pretty_name(text: str) -> str:
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return "unknown"


def _compression(config: str) -> str:
    """Return what a kernel with this configuration unpacks best; gzip where nothing is known."""
    lines = set(config.splitlines())
    for name, option in (("zstd", "CONFIG_RD_ZSTD=y"), ("xz", "CONFIG_RD_XZ=y")):
        if option in lines:
            return name
    return "gzip"
