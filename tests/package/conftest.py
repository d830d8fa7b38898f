"""One build for the whole session, and a variant of it that runs any code inside."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from package.found_pythons import SUPPORTED, TOO_OLD, found_pythons

from nodectl.zipapp import pack

ROOT = Path(__file__).parents[2]
PROBE = b"import sys\ndef main():\n    exec(sys.argv[1], {})\n"


def build(output: Path, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "build_zipapp.py", "--output", output, *arguments],
        env=dict(os.environ, **environment),
        cwd=output.parent,
        capture_output=True,
        text=True,
        timeout=600,  # the first build of a machine fetches 80 wheels
        check=False,
    )


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built file, in a folder that everybody may read."""
    if given := os.environ.get("NODECTL_TEST_PYZ"):
        return Path(given).resolve()
    folder = readable(tmp_path_factory.mktemp("pyz"))
    done = build(folder / "nodectl.pyz")
    assert done.returncode == 0, done.stderr
    return folder / "nodectl.pyz"


def readable(folder: Path) -> Path:
    """Let plain users into a folder of pytest's."""
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    return folder


@pytest.fixture(scope="session")
def probe(pyz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the same inside but for the command line: it runs its first argument."""
    with zipfile.ZipFile(pyz) as archive:
        members = {
            name: archive.read(name) for name in archive.namelist() if "-aarch64/" not in name
        }
    del members["INDEX"]
    members["lib/nodectl/cli/main.py"] = PROBE
    level, pack.DEFLATE_LEVEL = pack.DEFLATE_LEVEL, 1
    data, _ = pack.assemble(members, "0")
    pack.DEFLATE_LEVEL = level
    path = readable(tmp_path_factory.mktemp("probe")) / "probe.pyz"
    path.write_bytes(data)
    path.chmod(0o755)
    return path


@pytest.fixture
def python(request: pytest.FixtureRequest) -> str:
    """Return a Python of the version that the test is parametrized with."""
    version: str = request.param
    if version not in found_pythons():
        pytest.skip(f"Python {version} is not on this machine")
    return found_pythons()[version]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        metafunc.parametrize("python", SUPPORTED, indirect=True)
    if "old_python" in metafunc.fixturenames:
        metafunc.parametrize("old_python", TOO_OLD, indirect=True)


@pytest.fixture
def old_python(request: pytest.FixtureRequest) -> str:
    """Return a Python that is too old."""
    version: str = request.param
    if version not in found_pythons():
        pytest.skip(f"Python {version} is not on this machine")
    return found_pythons()[version]
