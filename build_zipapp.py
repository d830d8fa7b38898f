#!/usr/bin/env python3
"""Build nodectl.pyz: one file with nodectl and every library it needs, for several Pythons.

    python3 build_zipapp.py                              everything, to dist/nodectl.pyz
    python3 build_zipapp.py --python 3.11 --arch x86_64  a slim one
    python3 build_zipapp.py --lock                       choose the newest wheels that
                                                         pyproject.toml allows, lock them

Needs nothing but the standard library and pip. Wheels are fetched once, by exact name and SHA-256
(nodectl/zipapp/wheels.lock), into ~/.cache/nodectl-build. Two builds are the same byte for byte:
names sorted, dates and modes fixed, native modules stripped here and not by the machine's
binutils. The layout of the file:

    __main__.py            nodectl/zipapp/launcher.py
    TARGETS                "3.11 x86_64" and so on: what native modules are inside
    lib/                   plain Python, shared by all
    licences/              the licence texts of what is inside
    native/cp311-x86_64/   native modules by full module name; abi3-x86_64 those for every Python
    INDEX                  offsets and hashes of all others: see nodectl/zipapp/archive.py

The first line makes it a program, the second carries the SHA-256 of all that follows it.
"""
# This file has to parse on Python 3.6, so that an old one can say what is wrong.

import sys

if sys.version_info < (3, 11):
    sys.exit(
        "build_zipapp.py: needs Python 3.11 or newer to build, this is %s; "
        "call it with python3.11 or newer" % sys.version.split()[0]
    )

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nodectl.zipapp.pack import assemble, strip_native
from nodectl.zipapp.wheels import (
    ARCHES,
    LOCK,
    NOT_PACKED,
    PYTHONS,
    Wheel,
    all_targets,
    is_packed,
    native_member,
    read_lock,
)

ROOT = Path(__file__).resolve().parent
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


class BuildError(Exception):
    """Why nothing was built, in one line."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# ---- wheels ---------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return where wheels are kept between builds."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nodectl-build" / "wheels"


def sha256_of(path: Path) -> str:
    """Return the hash of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_whole(path: Path, sha256: str) -> bool:
    """Say whether the file is there and is the locked one."""
    return path.is_file() and sha256_of(path) == sha256


def has_pip(python: str) -> bool:
    """Say whether this Python can run pip."""
    argv = [python, "-m", "pip", "--version"]
    try:
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def find_pip() -> list[str]:
    """Return how to call pip; any Python's pip can fetch for any other.

    Raises:
        BuildError: there is none, and it cannot be installed from here.
    """
    pythons = (sys.executable, "/usr/bin/python3")
    for python in pythons:
        if has_pip(python):
            return [python, "-m", "pip"]
    can_install = os.geteuid() == 0 and shutil.which("apt-get")
    if can_install:
        say("pip is missing: installing python3-pip and python3-venv")
        install = ["apt-get", "install", "--yes", "-qq", "python3-pip", "python3-venv"]
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        subprocess.run(["apt-get", "update", "-qq"], env=environment, check=False, stdout=2)
        subprocess.run(install, env=environment, check=False, stdout=2)
        for python in pythons:
            if has_pip(python):
                return [python, "-m", "pip"]
    raise BuildError("pip is missing; type: sudo apt install python3-pip python3-venv")


def pip_download(
    pip: list[str], target: tuple[str, str], folder: Path, arguments: list[str]
) -> None:
    """Have pip fetch wheels for a target that need not be this machine.

    Raises:
        BuildError: pip failed; its own words went to stderr before.
    """
    python, arch = target
    abi = "cp" + python.replace(".", "")
    argv = [*pip, "download", "--quiet", "--only-binary=:all:", "--disable-pip-version-check"]
    argv += ["--implementation", "cp", "--python-version", python]
    argv += [word for name in (abi, "abi3", "none") for word in ("--abi", name)]
    argv += [word for name in PLATFORMS for word in ("--platform", f"{name}_{arch}")]
    done = subprocess.run([*argv, "--dest", str(folder), *arguments], check=False, text=True,
                          stdout=2, stderr=subprocess.PIPE)  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise BuildError(f"pip could not fetch the wheels for Python {python} on {arch}")


def fetch(wheels: list[Wheel], targets: list[tuple[str, str]]) -> Path:
    """Return a folder that holds the wheels, each checked against its hash.

    Raises:
        BuildError: some could not be fetched.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    missing = [wheel for wheel in wheels if not is_whole(folder / wheel.filename, wheel.sha256)]
    pip = find_pip() if missing else []
    for target in targets:
        wanted = [wheel for wheel in missing if wheel.fits(*target)]
        if not wanted:
            continue
        say(f"fetching {len(wanted)} wheels for Python {target[0]} on {target[1]}")
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            requirements = Path(temporary) / "requirements.txt"
            lines = [f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n" for wheel in wanted]
            requirements.write_text("".join(lines))
            arguments = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
            pip_download(pip, target, Path(temporary), arguments)
            for path in Path(temporary).glob("*.whl"):
                path.replace(folder / path.name)
        missing = [wheel for wheel in missing if wheel not in wanted]
    check_wheels(folder, wheels)
    return folder


def check_wheels(folder: Path, wheels: list[Wheel]) -> None:
    """Compare every wheel with the lock.

    Raises:
        BuildError: one is missing or another one.
    """
    for wheel in wheels:
        if not is_whole(folder / wheel.filename, wheel.sha256):
            raise BuildError(f"{folder / wheel.filename} is missing or is not the locked one")


def write_lock() -> None:
    """Let pip choose the newest wheels for every target, and write them to the lock file.

    Raises:
        BuildError: two targets got different versions of one library.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pip = find_pip()
    found: dict[str, str] = {}
    versions: dict[str, str] = {}
    for python, arch in all_targets():
        say(f"choosing wheels for Python {python} on {arch}")
        with tempfile.TemporaryDirectory() as folder:
            pip_download(pip, (python, arch), Path(folder), project["dependencies"])
            hashes = {path.name: sha256_of(path) for path in Path(folder).glob("*.whl")}
        for filename in hashes:
            name, version = filename.split("-")[:2]
            if versions.setdefault(name, version) != version:
                raise BuildError(f"{name}: {version} and {versions[name]} were both chosen")
        found |= hashes
    head = "# What nodectl.pyz is made of; written by `python3 build_zipapp.py --lock`.\n"
    names = sorted(name for name in found if name.split("-")[0] not in NOT_PACKED)
    LOCK.write_text(head + "".join(f"{found[name]}  {name}\n" for name in names))
    say(f"{LOCK}: {len(names)} wheels")


# ---- members --------------------------------------------------------------------------------


def wheel_members(path: Path) -> dict[str, bytes]:
    """Return what goes into the file from one wheel."""
    members = {}
    platform = path.name.removesuffix(".whl").rpartition("-")[2]
    arch = next((arch for arch in ARCHES if platform.endswith(arch)), "")
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if name.endswith("/") or not is_packed(name):
                continue
            if ".dist-info/" in name:
                project, _, rest = name.partition(".dist-info/")
                members[f"licences/{project}/{rest.removeprefix('licenses/')}"] = wheel.read(name)
            elif name.endswith(".so"):
                members[native_member(name, arch)] = strip_native(wheel.read(name))
            else:
                members[f"lib/{name}"] = wheel.read(name)
    return members


def own_members() -> dict[str, bytes]:
    """Return nodectl itself."""
    members = {"licences/nodectl/LICENSE": (ROOT / "LICENSE").read_bytes()}
    for path in sorted((ROOT / "nodectl").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.is_file() and "__pycache__" not in name and "/." not in name:
            members[f"lib/{name}"] = path.read_bytes()
    members["__main__.py"] = members.pop("lib/nodectl/zipapp/launcher.py")
    return members


def collect(wheels: list[Wheel], folder: Path, targets: list[tuple[str, str]]) -> dict[str, bytes]:
    """Return all members but the index, sorted by name.

    Raises:
        BuildError: two wheels for the same place differ in their plain Python.
    """
    members = own_members()
    members["TARGETS"] = "".join(f"{python} {arch}\n" for python, arch in targets).encode()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(wheel_members, [folder / wheel.filename for wheel in wheels]))
    for name, data in (item for part in parts for item in part.items()):
        if members.setdefault(name, data) != data:
            raise BuildError(f"two wheels differ in {name}")
    for name in members:
        package = f"{name.rpartition('/')[0]}/__init__.py"
        if re.fullmatch(r"lib/.+/[^/]+\.py", name) and package not in members:
            raise BuildError(f"{package} is missing: the loader knows no namespace packages")
    return dict(sorted(members.items()))


# ---- the whole ---------------------------------------------------------------------------------


def write_program(path: Path, data: bytes) -> None:
    """Put the file in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Build nodectl.pyz, one file with all it needs.",
        epilog="Exit codes: 0 built, 1 not built (one line says why), 2 wrong usage.",
    )
    parser.add_argument(
        "--python",
        action="append",
        choices=PYTHONS,
        metavar="3.N",
        help="only for this Python; may be repeated (default: 3.11 to 3.14)",
    )
    parser.add_argument(
        "--arch",
        action="append",
        choices=ARCHES,
        help="only for this architecture; may be repeated (default: both)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "dist" / "nodectl.pyz",
        help="where to (default: dist/nodectl.pyz)",
    )
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="DIR",
        help="take the locked wheels from here; nothing is fetched",
    )
    parser.add_argument("--lock", action="store_true",
                        help="write the lock file anew instead of building")  # fmt: skip
    return parser.parse_args()


def build(options: argparse.Namespace) -> None:
    """Build the file that the options ask for."""
    began = time.monotonic()
    targets = [
        (python, arch)
        for python, arch in all_targets()
        if python in (options.python or PYTHONS) and arch in (options.arch or ARCHES)
    ]
    wheels = [wheel for wheel in read_lock() if any(wheel.fits(*target) for target in targets)]
    if options.wheels:
        check_wheels(options.wheels, wheels)
    folder = options.wheels or fetch(wheels, targets)
    say(f"packing {len(wheels)} wheels for {len(targets)} targets")
    members = collect(wheels, folder, targets)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    data, build_id = assemble(members, version)
    write_program(options.output, data)
    say(f"{options.output}: nodectl {version}, build {build_id}, {len(data) / 2**20:.1f} MiB,"
        f" {len(members)} members, {time.monotonic() - began:.1f} s")  # fmt: skip


def main() -> int:
    """Do what the command line asks; return the exit status."""
    options = parse_arguments()
    try:
        if options.lock:
            write_lock()
        else:
            build(options)
    except (BuildError, OSError, ValueError) as error:
        say(f"build_zipapp.py: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
