"""The lock file against what the project asks for."""

import re
import tomllib
from pathlib import Path

import pytest

from nodectl.zipapp.wheels import PYTHONS, Wheel, all_targets, is_packed, native_member, read_lock

ROOT = Path(__file__).parents[3]


def names(wheels: list[Wheel]) -> list[str]:
    return sorted(wheel.filename.split("-")[0] for wheel in wheels)


@pytest.mark.parametrize("target", all_targets(), ids="-".join)
def test_every_target_has_one_wheel_of_every_library(target: tuple[str, str]) -> None:
    wheels = read_lock()
    assert names([wheel for wheel in wheels if wheel.fits(*target)]) == sorted(set(names(wheels)))


def test_every_direct_dependency_is_locked_within_its_bounds() -> None:
    from packaging.requirements import Requirement  # noqa: PLC0415

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(wheel.requirement.split("==") for wheel in read_lock())
    for text in project["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(locked[wanted.name]), text


def test_hashes_are_whole() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{64}", wheel.sha256) for wheel in read_lock())


def test_pydantic_stays_out() -> None:
    """It would be 2 MB of native code per target and 70 ms of every start."""
    assert not [name for name in names(read_lock()) if "pydantic" in name]


@pytest.mark.parametrize(
    ("tags", "fitting"),
    [
        ("py3-none-any", PYTHONS),
        ("cp312-cp312-manylinux2014_x86_64", ("3.12",)),
        ("cp312-abi3-manylinux_2_28_x86_64", ("3.12", "3.13", "3.14")),
        ("cp312-cp312-manylinux2014_aarch64", ()),
    ],
)
def test_wheels_fit_by_their_tags(tags: str, fitting: tuple[str, ...]) -> None:
    wheel = Wheel(f"some_lib-1.0-{tags}.whl", "")
    assert tuple(python for python in PYTHONS if wheel.fits(python, "x86_64")) == fitting
    assert wheel.requirement == "some-lib==1.0"


@pytest.mark.parametrize(
    ("name", "member"),
    [
        (
            "aiohttp/_http_parser.cpython-311-x86_64-linux-gnu.so",
            "native/cp311-x86_64/aiohttp._http_parser.so",
        ),
        ("c/_rust.abi3.so", "native/abi3-x86_64/c._rust.so"),
        ("_b.cpython-314-x86_64-linux-gnu.so", "native/cp314-x86_64/_b.so"),
    ],
)
def test_native_modules_are_kept_by_full_name(name: str, member: str) -> None:
    assert native_member(name, "x86_64") == member


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("aiohttp/web.py", True),
        ("aiohttp/_http_parser.pyx", False),
        ("aiohttp-3.14.5.dist-info/METADATA", False),
        ("aiohttp-3.14.5.dist-info/licenses/LICENSE.txt", True),
        ("zstandard/_cffi.cpython-311-x86_64-linux-gnu.so", False),
        ("zstandard/backend_c.cpython-311-x86_64-linux-gnu.so", True),
        ("_cffi_backend.cpython-311-x86_64-linux-gnu.so", True),
        ("pygments/lexers/python.py", False),
        ("pygments/lexers/__init__.py", True),
    ],
)
def test_what_nothing_loads_stays_out(name: str, *, packed: bool) -> None:
    assert is_packed(name) is packed
