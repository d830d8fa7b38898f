"""What programs need, beside what readelf(1) says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodectl.installer.elf import parse_elf

PROGRAMS = [Path(p) for p in (sys.executable, "/bin/sh", "/usr/bin/env") if Path(p).exists()]


@pytest.mark.parametrize("path", PROGRAMS, ids=str)
def test_a_program_needs_what_readelf_says(path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf (binutils) is not here")
    real = path.resolve()
    said = subprocess.run(
        ["readelf", "--dynamic", "--program-headers", "--wide", real],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = parse_elf(real.read_bytes())
    assert found is not None
    assert list(found.needed) == re.findall(r"\(NEEDED\).*\[(.+)\]", said)
    assert [found.interpreter] == re.findall(r"interpreter: (.+)\]", said)
    wanted = re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", said)
    assert list(found.search) == [part for text in wanted for part in text.split(":")]


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100)])
def test_what_is_no_64_bit_program_is_none(data: bytes) -> None:
    assert parse_elf(data) is None


def test_a_program_cut_anywhere_or_with_any_byte_changed_is_read_without_an_error() -> None:
    data = Path("/bin/sh").resolve().read_bytes()
    for length in range(0, 2048, 7):
        parse_elf(data[:length])
    for at in range(0, 1024, 3):
        parse_elf(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
