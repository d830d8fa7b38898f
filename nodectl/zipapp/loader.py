"""Imports from nodectl.pyz: plain modules with a cache of their code, native ones from memory.

A finder at the front of `sys.meta_path` knows every module of the zip by name, so no other copy
of a library on the machine can get in between.

Plain modules. The zip holds sources only: code objects differ from Python to Python, and a build
must come out the same on a machine that has one Python and on one that has all four. So the code
of each module is compiled when it is first imported and kept in the private cache folder (one file
for each module: `crc32 (4 bytes, little-endian) | marshal`). Without any folder to write to,
modules are compiled at every start. Measured with Python 3.11: `nodectl version` 0.14 s compiling
all, 0.08 s from the cache; with aiohttp and cryptography 0.5 s and 0.3 s.

Native modules. The dynamic loader cannot read a zip. Where it can be, a module is put into a
`memfd` and loaded as /proc/self/fd/N: nothing on disk, so no noexec mount, read-only root or
stranger's file is in the way. The descriptors are close-on-exec and stay open: the dynamic loader
knows a library by its name, and a number used twice would give the first library again. Where
that fails (no /proc, `vm.memfd_noexec=2`), the module is put into the cache folder, at the first
place that allows exec, and is compared with the archive's bytes before each use.
"""

import errno
import marshal
import os
import sys
import zlib
from collections.abc import Sequence
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import CodeType, ModuleType

from nodectl.zipapp.archive import Archive, set_running, target
from nodectl.zipapp.cachefolder import CacheFolder, open_cache

_CODE_PREFIX = "lib/"
_NATIVE_PREFIX = "native/"
_CRC_BYTES = 4
_MFD_NOEXEC_SEAL = 0x8  # Linux 6.3: may be mapped, but not started as a program


class Finder:
    """Finds the modules of the archive; everything else is left to Python."""

    def __init__(self, archive: Archive) -> None:
        """Take in what the archive has for this Python and architecture."""
        self._archive = archive
        self._codes = CodeCache(archive)
        self._plain: dict[str, str] = {}  # module name -> member
        self._packages: set[str] = set()
        self._native: dict[str, str] = {}
        tag, machine = target()
        folders = (f"{_NATIVE_PREFIX}{tag}-{machine}/", f"{_NATIVE_PREFIX}abi3-{machine}/")
        for member in archive.members:
            if member.startswith(_CODE_PREFIX) and member.endswith(".py"):
                self._add_plain(member)
            elif member.startswith(folders):
                self._native[member.rpartition("/")[2].removesuffix(".so")] = member

    def _add_plain(self, member: str) -> None:
        name = member[len(_CODE_PREFIX) : -len(".py")].replace("/", ".")
        if name.endswith(".__init__"):
            name = name.removesuffix(".__init__")
            self._packages.add(name)
        self._plain[name] = member

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return how to load `fullname`, or None where it is not ours."""
        del path, target
        if (member := self._plain.get(fullname)) is not None:
            is_package = fullname in self._packages
            loader = PlainLoader(self._archive, self._codes, member, is_package=is_package)
            origin = f"{self._archive.path}/{member}"
            spec = _spec(fullname, loader, origin, is_package=is_package)
            if is_package:
                spec.submodule_search_locations = [origin.rpartition("/")[0]]
            return spec
        if (member := self._native.get(fullname)) is not None:
            native = NativeLoader(self._archive, fullname, member)
            return _spec(fullname, native, f"{self._archive.path}/{member}", is_package=False)
        return None

    def is_ours(self, name: str) -> bool:
        """Say whether the archive has the module."""
        return name in self._plain or name in self._native


def _spec(
    name: str, loader: "PlainLoader | NativeLoader", origin: str, *, is_package: bool
) -> ModuleSpec:
    # The loaders are not importlib.abc.Loader by name: importing that costs at every start.
    spec = ModuleSpec(name, loader, origin=origin, is_package=is_package)  # type: ignore[arg-type]
    spec.has_location = True
    return spec


class CodeCache:
    """Code objects by member; the folder is looked for at the first use."""

    def __init__(self, archive: Archive) -> None:
        """Take the archive that the sources are in."""
        self._archive = archive
        self._folder: CacheFolder | None = None
        self._looked = False
        self._suffix = (
            f".{sys.implementation.cache_tag}-{sys.hexversion:x}-o{sys.flags.optimize}.code"
        )

    def get(self, member: str) -> CodeType:
        """Return the code of a member, from the cache or compiled (and then cached)."""
        if not self._looked:
            self._looked = True
            build_id = self._archive.build_id
            self._folder = open_cache(build_id, environ=os.environ, for_exec=False)
        if self._folder is None:
            return self._compile(member)
        name = member.replace("/", ".") + self._suffix
        data = self._folder.read(name)
        if data is not None:
            body = memoryview(data)[_CRC_BYTES:]
            if zlib.crc32(body).to_bytes(_CRC_BYTES, "little") == data[:_CRC_BYTES]:
                code: CodeType = marshal.loads(body)  # noqa: S302 - the folder is ours alone
                return code
        code = self._compile(member)
        packed = marshal.dumps(code)
        self._folder.write(name, zlib.crc32(packed).to_bytes(_CRC_BYTES, "little") + packed)
        return code

    def _compile(self, member: str) -> CodeType:
        # The name in tracebacks is the same wherever the archive lies: the cache outlives moves.
        shown = f"nodectl.pyz/{member}"
        code: CodeType = compile(self._archive.read(member), shown, "exec", dont_inherit=True)
        return code


class PlainLoader:
    """Loads one module from its source or cached code."""

    def __init__(
        self, archive: Archive, codes: CodeCache, member: str, *, is_package: bool
    ) -> None:
        """Take where the module comes from."""
        self._archive = archive
        self._codes = codes
        self._member = member
        self._is_package = is_package
        # The two names that importlib's reader of resources in zips asks for.
        self.archive = archive.path
        folder = member.rpartition("/")[0]
        self.prefix = f"{folder.rpartition('/')[0] if is_package else folder}/"

    def create_module(self, spec: ModuleSpec) -> None:
        """Leave it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(self._codes.get(self._member), module.__dict__)  # noqa: S102 - an import is that

    def get_code(self, fullname: str) -> CodeType:
        """Return the code (asked for by runpy)."""
        del fullname
        return self._codes.get(self._member)

    def get_source(self, fullname: str) -> str:
        """Return the source (asked for by tracebacks)."""
        del fullname
        return self._archive.read(self._member).decode("utf-8")

    def is_package(self, fullname: str) -> bool:
        """Say whether it is a package."""
        del fullname
        return self._is_package

    def get_data(self, path: str) -> bytes:
        """Return a member, named by its full path (asked for by pkgutil)."""
        return self._archive.read(path.removeprefix(f"{self._archive.path}/"))

    def get_resource_reader(self, fullname: str) -> object:
        """Return what importlib.resources reads data files with."""
        from importlib.readers import ZipReader  # noqa: PLC0415 - few need it, and it is slow

        return ZipReader(self, fullname)  # type: ignore[arg-type] # asks for less than it says


class NativeLoader:
    """Loads one native module from memory, else from the cache folder."""

    def __init__(self, archive: Archive, name: str, member: str) -> None:
        """Take where the module comes from."""
        self._archive = archive
        self._member = member
        self._python = ExtensionFileLoader(name, f"{archive.path}/{member}")

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Have the dynamic loader take it in.

        Raises:
            ImportError: no way of loading it works here.
        """
        data = self._archive.read(self._member)
        try:
            return self._load(spec, put_in_memory(spec.name, data))
        except (OSError, ImportError) as exc:
            path = self._put_in_folder(data)
            if path is None:
                raise ImportError(
                    f"cannot load the native module {spec.name}: memory does not allow it ({exc}),"
                    " and there is no private folder that allows exec",
                    name=spec.name,
                ) from exc
            return self._load(spec, path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's own start."""
        self._python.exec_module(module)

    def _load(self, spec: ModuleSpec, path: str) -> ModuleType:
        shown, spec.origin = spec.origin, path
        try:
            return self._python.create_module(spec)
        finally:
            spec.origin = shown

    def _put_in_folder(self, data: bytes) -> str | None:
        folder = open_cache(self._archive.build_id, environ=os.environ, for_exec=True)
        if folder is None:
            return None
        name = self._member.replace("/", ".")
        if folder.read(name) != data and not folder.write(name, data, mode=0o700):
            return None
        return f"{folder.path}/{name}"


def put_in_memory(name: str, data: bytes) -> str:
    """Put a library into a memfd and return the path by which it can be loaded.

    Raises:
        OSError: the kernel does not allow it, or /proc is not mounted.
    """
    if not hasattr(os, "memfd_create"):
        raise OSError(errno.ENOSYS, "this Python was built for a C library without memfd_create")
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:  # Linux before 6.3
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        path = f"/proc/self/fd/{fd}"
        os.stat(path)
    except BaseException:
        os.close(fd)
        raise
    return path


def install(path: str, index: bytes) -> None:
    """Make the archive's modules importable and shut out all others but the standard library."""
    archive = Archive(path, index)
    set_running(archive)
    finder = Finder(archive)
    # What a .pth file of the machine imported before us is another version of the same thing.
    for name in [name for name in sys.modules if finder.is_ours(name)]:
        if not name.startswith("nodectl"):
            del sys.modules[name]
    library = os.path.dirname(os.__file__)
    packed_library = f"python{sys.version_info[0]}{sys.version_info[1]}.zip"
    sys.path[:] = [
        entry
        for entry in sys.path
        if entry == library or entry.endswith(("/lib-dynload", packed_library))
    ]
    sys.meta_path.insert(0, finder)
