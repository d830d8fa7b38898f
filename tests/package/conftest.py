"""One build for the whole session, and a variant of it that runs any code inside."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
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
def shared_folder() -> Iterator[Path]:
    """Return a folder that everybody may read: pytest's own ones are for one user."""
    with tempfile.TemporaryDirectory(prefix="nodectl-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' caches out of the machine's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session")
def pyz(shared_folder: Path) -> Path:
    """Return the built file: NODECTL_TEST_PYZ where it is given, else a new one."""
    if given := os.environ.get("NODECTL_TEST_PYZ"):
        return Path(given).resolve()
    done = build(shared_folder / "nodectl.pyz")
    assert done.returncode == 0, done.stderr
    return shared_folder / "nodectl.pyz"


@pytest.fixture(scope="session")
def probe(pyz: Path, shared_folder: Path) -> Path:
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
    path = shared_folder / "probe.pyz"
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
