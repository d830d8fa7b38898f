"""What this program is and how to start it again: version, build id, its own command."""

import sys
from pathlib import Path
from typing import NamedTuple

from nodectl.zipapp.archive import running, target

SOURCE = "source"  # the build id of a program that runs from a checkout or an installed package
_ROOT = Path(__file__).resolve().parents[2]


class Identity(NamedTuple):
    """What `nodectl version` prints."""

    version: str
    build_id: str  # 32 hex digits, or SOURCE
    python: str  # "3.11.2"
    architecture: str  # "x86_64"


def identity() -> Identity:
    """Say what runs."""
    archive = running()
    if archive is None:
        version, build_id = _source_version(), SOURCE
    else:
        version, build_id = archive.version, archive.build_id
    return Identity(version, build_id, sys.version.split()[0], target()[1])


def _source_version() -> str:
    # Imported here: from nodectl.pyz neither is needed, and they cost 15 ms of its start.
    import tomllib  # noqa: PLC0415
    from importlib import metadata  # noqa: PLC0415

    project = _ROOT / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text())["project"]["version"])
    return metadata.version("nodectl")


def self_command() -> list[str]:
    """Return the words that start this same program again; the caller appends arguments.

    Works from any folder, from nodectl.pyz (also when it was called through a link), from a
    checkout and from an installed package. From nodectl.pyz, Python is told to ignore its
    environment variables and the user's own packages (`-I`), as the archive has all it needs.
    """
    archive = running()
    if archive is not None:
        return [sys.executable, "-I", archive.path]
    code = (
        f"import sys; sys.path.insert(0, {str(_ROOT)!r}); sys.argv[0] = 'nodectl'; "
        "from nodectl.cli.main import main; main()"
    )
    return [sys.executable, "-c", code]
