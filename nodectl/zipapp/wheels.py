"""Which wheels nodectl.pyz is made of, and which parts of them go into it.

`wheels.lock`, beside this file, has a line `<sha256 hex>  <file name>` for each wheel; the name
says for which Python and architecture it is (PEP 427).
"""

import fnmatch
from pathlib import Path
from typing import NamedTuple

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
ARCHES = ("x86_64", "aarch64")
LOCK = Path(__file__).with_name("wheels.lock")

# Declared by a library, loaded by nothing of ours.
NOT_PACKED = frozenset({"pycparser"})  # cffi needs it to parse C, and only its C part is used

# Parts of wheels that stay out: (why they can, what).
DROPPED = (
    ("not read at run time", ("*.dist-info/*", "*.typed", "*.pyi", "*.hash")),
    ("sources of native modules", ("*.c", "*.h", "*.pyx", "*.pxd", "*.pxi")),
    ("only cffi's native part is loaded, by cryptography", ("cffi/*",)),
    ("the cffi back end, beside the C one", ("zstandard/_cffi*", "zstandard/backend_cffi.py")),
    ("for tests", ("multidict/_testcapi*", "aiohttp/pytest_plugin.py", "aiohttp/test_utils.py")),
    ("no websockets here; the Python ones do", ("aiohttp/_websocket/*.so",)),
    # Processor time of 1000 small requests and of 300 of 1 MiB over loopback, without the C part:
    # parser 1.2 and 2.9 times as much, multidict 2.0 and 1.2, yarl 1.1, these two 1.0.
    ("no faster than Python", ("aiohttp/_http_writer*.so", "frozenlist/_frozenlist*.so")),
    ("typer's own command", ("typer/__main__.py", "typer/cli.py", "typer/testing.py")),
    ("nothing is coloured by syntax", ("pygments/lexers/*", "pygments/styles/*")),
    ("nothing is coloured by syntax", ("pygments/formatters/*", "pygments/__main__.py")),
)
KEPT = (
    "*.dist-info/LICEN*", "*.dist-info/licenses/*", "*.dist-info/NOTICE*", "*.dist-info/AUTHORS*",
    "pygments/lexers/__init__.py", "pygments/lexers/_mapping.py",
    "pygments/styles/__init__.py", "pygments/styles/_mapping.py",
    "pygments/formatters/__init__.py", "pygments/formatters/_mapping.py",
)  # fmt: skip


class Wheel(NamedTuple):
    """One line of the lock file, and what its file name says."""

    filename: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The exact version, as pip wants it."""
        name, version = self.filename.split("-")[:2]
        return f"{name.replace('_', '-')}=={version}"

    def fits(self, python: str, arch: str) -> bool:
        """Say whether this Python on this architecture can use it."""
        tags, abis, platforms = self.filename[: -len(".whl")].split("-")[-3:]
        if platforms != "any" and not platforms.endswith(arch):
            return False
        mine = "cp" + python.replace(".", "")
        if "abi3" in abis.split("."):
            return int(tags[3:]) <= int(mine[3:])
        return mine in tags.split(".") or "none" in abis.split(".")


def read_lock() -> list[Wheel]:
    """Return the locked wheels."""
    wheels = []
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith("#"):
            digest, filename = line.split()
            wheels.append(Wheel(filename, digest))
    return wheels


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    """Say whether one of the shell patterns fits; `*` also covers slashes."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_packed(name: str) -> bool:
    """Say whether this part of a wheel goes into the file."""
    return matches(name, KEPT) or not any(matches(name, what) for _, what in DROPPED)


def native_member(name: str, arch: str) -> str:
    """Return the member's name for a wheel's "aiohttp/_http_parser.cpython-311-....so"."""
    module, _, tags = name.replace("/", ".").removesuffix(".so").partition(".cpython-")
    if ".libs/" in name:
        raise ValueError(f"{name} brings a library of its own, which cannot load from memory")
    if tags:
        return f"native/cp{tags.split('-')[0]}-{arch}/{module}.so"
    return f"native/abi3-{arch}/{module.removesuffix('.abi3')}.so"


def all_targets() -> list[tuple[str, str]]:
    """Return every (python, arch) that there is."""
    return [(python, arch) for python in PYTHONS for arch in ARCHES]
