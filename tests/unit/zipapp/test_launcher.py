"""The launcher's decisions. That it parses on old Pythons is shown in tests/package."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nodectl.zipapp import launcher

HERE = ("3.11", "x86_64")


class Replaced(Exception):
    """Stands for the process becoming another program."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Make up a machine: what Python runs, and which others there are (name -> usable)."""

    def make(
        running: tuple[str, str] | None = HERE, *, others: dict[str, bool] | None = None
    ) -> list[list[str]]:
        started: list[list[str]] = []

        def execv(path: str, argv: list[str]) -> None:
            started.append([Path(path).name, *argv[1:]])
            raise Replaced

        for name, usable in (others or {}).items():
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\nexit {0 if usable else 127}\n")
            path.chmod(0o755)
        monkeypatch.setattr(launcher, "this_target", lambda: running)
        monkeypatch.setattr(launcher, "machine", lambda: "x86_64")
        monkeypatch.setattr(launcher, "PLACES", ())
        monkeypatch.setattr(os, "execv", execv)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv(launcher.GUARD, "")
        monkeypatch.setattr(sys, "argv", ["nodectl.pyz", "version"])
        return started

    return make


def failure(capsys: pytest.CaptureFixture[str], targets: list[tuple[str, str]]) -> str:
    with pytest.raises(SystemExit) as caught:
        launcher.check_platform("/a/nodectl.pyz", targets)
    assert caught.value.code == 71
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_python_with_native_modules_goes_on(machine: Callable[..., object]) -> None:
    machine()
    launcher.check_platform("/a/nodectl.pyz", [HERE])


def test_the_newest_usable_python_takes_over(
    machine: Callable[..., list[list[str]]],
) -> None:
    """A name alone proves nothing; one that the file has nothing for is not tried."""
    started = machine(
        ("3.9", "x86_64"),
        others={"python3.14": True, "python3.13": False, "python3.12": True, "python3.11": True},
    )
    with pytest.raises(Replaced):
        launcher.check_platform(
            "/a/nodectl.pyz", [(f"3.{minor}", "x86_64") for minor in (11, 12, 13)]
        )
    assert started == [["python3.12", "/a/nodectl.pyz", "version"]]
    assert os.environ[launcher.GUARD]


def test_the_name_by_which_it_was_called_stays(
    machine: Callable[..., list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = machine(None, others={"python3.11": True})
    link = tmp_path / "ifup"
    link.touch()
    monkeypatch.setattr(sys, "argv", [str(link), "tap0"])
    with pytest.raises(Replaced):
        launcher.check_platform("/a/nodectl.pyz", [HERE])
    assert started == [["python3.11", str(link), "tap0"]]


@pytest.mark.parametrize("others", [{}, {"python3.11": False}], ids=["none", "unusable"])
def test_where_there_is_no_usable_python_one_line_says_what_to_install(
    machine: Callable[..., object], capsys: pytest.CaptureFixture[str], others: dict[str, bool]
) -> None:
    machine(("3.9", "x86_64"), others=others)
    line = failure(capsys, [HERE, ("3.12", "x86_64")])
    assert "cannot run this file; install Python 3.11 or 3.12 (Debian" in line


def test_two_pythons_do_not_call_each_other_in_a_circle(
    machine: Callable[..., list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = machine(("3.9", "x86_64"), others={"python3.11": True})
    monkeypatch.setenv(launcher.GUARD, "1")
    failure(capsys, [HERE])
    assert started == []


def test_another_architecture_gets_one_line(
    machine: Callable[..., object], capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    line = failure(capsys, [("3.11", "aarch64")])
    assert "no native modules for linux on x86_64; it carries Linux aarch64" in line


@pytest.mark.parametrize(
    ("glibc", "words"), [((2, 17), "has glibc 2.17;"), (None, "has a C library not glibc;")]
)
def test_another_c_library_gets_one_line(
    machine: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    glibc: tuple[int, int] | None,
    words: str,
) -> None:
    machine()
    monkeypatch.setattr(launcher, "glibc_version", lambda: glibc)
    assert words in failure(capsys, [HERE])


def test_this_glibc_is_known() -> None:
    version = launcher.glibc_version()
    assert version is not None
    assert version >= launcher.GLIBC_MINIMUM
