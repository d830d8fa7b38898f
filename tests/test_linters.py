"""Each tool that judges the text of the code, as a test of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
_BIN = Path(sys.executable).parent
_PROSE = ("nodectl", "tests", "bench", "docs", "README.md", "CHANGELOG.md", "build_zipapp.py")
_NOT_OURS = {"dist", "build"}


def _passes(*argv: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{argv[0]} ended with {done.returncode}:\n{done.stdout}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    _passes(_BIN / "ruff", "check", "--quiet", "--output-format=concise", ".")


def test_every_file_is_formatted() -> None:
    _passes(_BIN / "ruff", "format", "--check", ".")


def test_mypy_strict_finds_nothing() -> None:
    _passes(sys.executable, "-m", "mypy")


def test_modules_import_only_what_they_may() -> None:
    _passes(_BIN / "lint-imports")


def test_words_are_spelled_right() -> None:
    _passes(_BIN / "codespell", *(name for name in _PROSE if (REPOSITORY / name).exists()))


def _is_shell(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and first.split()[-1].rpartition(b"/")[2] in {b"sh", b"bash"}


def test_shell_scripts_parse() -> None:
    scripts = [
        path
        for top in REPOSITORY.iterdir()
        if top.name not in _NOT_OURS and (not top.name.startswith(".") or top.name == ".ci")
        for path in (top.rglob("*") if top.is_dir() else [top])
        if path.is_file() and not path.is_symlink() and _is_shell(path)
    ]
    assert REPOSITORY / "tests" / "run" in scripts
    for script in scripts:
        _passes("bash", "-n", script)
