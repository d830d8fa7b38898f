"""What build_zipapp.py makes: the same bytes each time, small enough, nothing missing."""

import struct
import subprocess
import zipfile
from pathlib import Path

import pytest
from package.conftest import ROOT, build
from package.found_pythons import found_pythons

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]

MIB = 1 << 20
EM_AARCH64, EM_X86_64 = 183, 62


def members(path: Path, prefix: str) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if name.startswith(prefix)}


def test_two_builds_are_the_same_byte_for_byte(pyz: Path, tmp_path: Path) -> None:
    """Whatever the hash seed, the time zone, the language and the rights of new files."""
    other = tmp_path / "other.pyz"
    done = build(other, PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert other.read_bytes() == pyz.read_bytes()
    assert other.stat().st_mode & 0o777 == 0o755


def test_the_sizes_hold(pyz: Path, tmp_path: Path) -> None:
    slim = tmp_path / "slim.pyz"
    done = build(slim, "--python", "3.11", "--arch", "x86_64")
    assert done.returncode == 0, done.stderr
    assert pyz.stat().st_size <= 40 * MIB
    assert slim.stat().st_size <= 14 * MIB
    assert {name.split("/")[1] for name in members(slim, "native/")} == {
        "abi3-x86_64",
        "cp311-x86_64",
    }


def test_every_target_has_the_same_native_modules(pyz: Path) -> None:
    found: dict[str, set[str]] = {}
    for name in members(pyz, "native/"):
        _, folder, module = name.split("/")
        found.setdefault(folder, set()).add(module)
    for kind in ("cp311", "cp312", "cp313", "cp314"):
        for arch in ("x86_64", "aarch64"):
            assert found[f"{kind}-{arch}"] == found["cp311-x86_64"]
    assert found["abi3-x86_64"] == found["abi3-aarch64"]
    assert "aiohttp._http_parser.so" in found["cp311-x86_64"]


def test_native_modules_are_for_the_architecture_they_lie_under(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        for name in archive.namelist():
            if name.startswith("native/"):
                (machine,) = struct.unpack_from("<H", archive.read(name), 18)
                assert machine == (EM_AARCH64 if "-aarch64/" in name else EM_X86_64), name


def test_a_file_for_another_architecture_says_so_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "aarch64.pyz"
    done = build(other, "--python", "3.11", "--arch", "aarch64")
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([other, "version"], capture_output=True, text=True, check=False)
    assert ran.returncode == 71
    assert ran.stderr.count("\n") == 1
    assert "it carries Linux aarch64" in ran.stderr


def test_licences_of_all_that_is_inside_are_inside(pyz: Path) -> None:
    licensed = {name.split("/")[1].split("-")[0] for name in members(pyz, "licences/")}
    locked = {
        line.split()[1].split("-")[0]
        for line in (ROOT / "nodectl/zipapp/wheels.lock").read_text().splitlines()
        if not line.startswith("#")
    }
    assert locked <= licensed


def test_a_missing_wheel_is_named_in_one_line(tmp_path: Path) -> None:
    done = build(tmp_path / "out.pyz", "--wheels", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/aiohappyeyeballs-" in done.stderr
    assert "is missing or is not the locked one" in done.stderr
    assert not (tmp_path / "out.pyz").exists()


def test_a_python_too_old_to_build_is_told_in_one_line(old_python: str) -> None:
    if old_python == found_pythons().get("2.7"):
        pytest.skip("python3 is what the command says")
    done = subprocess.run(
        [old_python, ROOT / "build_zipapp.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "needs Python 3.11 or newer" in done.stderr
