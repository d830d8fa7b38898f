"""The Pythons of this machine: on PATH, by NODECTL_TEST_PYTHONS, and pyenv's if it is there."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SUPPORTED = ("3.11", "3.12", "3.13", "3.14")
TOO_OLD = ("2.7", "3.6", "3.7", "3.8", "3.9", "3.10")


def _programs() -> Iterator[str]:
    yield from filter(None, os.environ.get("NODECTL_TEST_PYTHONS", "").split(os.pathsep))
    for version in (*SUPPORTED, *TOO_OLD):
        if program := shutil.which(f"python{version}", path=f"/usr/bin:{os.environ['PATH']}"):
            yield program
    if shutil.which("pyenv"):
        done = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True)
        yield from map(str, sorted(Path(done.stdout.strip(), "versions").glob("*/bin/python")))


@functools.cache
def found_pythons() -> dict[str, str]:
    """Return a program for each version ("3.11") that runs."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    found: dict[str, str] = {}
    for program in _programs():
        try:
            done = subprocess.run(
                [program, "-c", code], capture_output=True, text=True, check=True, timeout=20
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        found.setdefault(done.stdout.strip(), program)
    return found
