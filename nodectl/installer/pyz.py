"""Which nodectl.pyz goes into an installer."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from nodectl.errors import InvalidInput
from nodectl.zipapp.archive import INDEX, parse_index, running, target


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodectl:
    """A nodectl.pyz, and what is said of it."""

    path: Path
    version: str
    build_id: str
    machine: str  # the architecture that the installer is for


def nodectl_of(given: Path | None) -> Nodectl:
    """Return the file that is named, or the one that runs.

    Raises:
        InvalidInput: this program does not run from one, and none is named; or it is none.
    """
    archive = running()
    path = given or (Path(archive.path) if archive is not None else None)
    if path is None:
        raise InvalidInput(
            "this nodectl does not run from nodectl.pyz, which an installer carries",
            hint="build it (python3 build_zipapp.py) and name it with --pyz",
        )
    try:
        with zipfile.ZipFile(path) as file:
            version, build_id, _ = parse_index(file.read(INDEX))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as exc:
        raise InvalidInput(f"{path} is no nodectl.pyz: {exc}") from exc
    return Nodectl(path=path, version=version, build_id=build_id, machine=target()[1])
