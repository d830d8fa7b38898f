"""The archive that becomes a kernel's first root, read back by other programs."""

import io
import shutil
import subprocess
from pathlib import Path

import pytest

from nodectl.installer.cpio import Entry, file, folder, link, write_cpio


def packed(*entries: Entry) -> bytes:
    out = io.BytesIO()
    length = write_cpio(entries, out.write)
    assert length == len(out.getvalue())
    return out.getvalue()


SCENE = (
    file("usr/bin/tool", b"#!/bin/sh\n", 0o755),
    link("bin", "usr/bin"),
    file("etc/empty", b""),
    folder("proc", 0o555),
    file("init", b"x" * 4097, 0o755),
)


def test_the_same_entries_give_the_same_bytes_in_any_order() -> None:
    assert packed(*SCENE) == packed(*reversed(SCENE))


def test_folders_come_before_what_is_in_them() -> None:
    data = packed(file("a/b/c", b""))
    assert data.index(b"a\0") < data.index(b"a/b\0") < data.index(b"a/b/c\0")


def test_another_program_unpacks_it(tmp_path: Path) -> None:
    program = shutil.which("cpio") or shutil.which("busybox")
    if program is None:
        pytest.skip("neither cpio nor busybox is here")
    words = [program] if program.endswith("cpio") else [program, "cpio"]
    done = subprocess.run(
        [*words, "-idm"], input=packed(*SCENE), cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "usr/bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "bin").readlink() == Path("usr/bin")
    assert (tmp_path / "init").stat().st_size == 4097
    assert (tmp_path / "proc").stat().st_mode & 0o777 == 0o555
    assert (tmp_path / "etc/empty").read_bytes() == b""


@pytest.mark.parametrize("path", ["", "/etc/x", "../x", "a//b", "a/../b", "./a"])
def test_a_path_that_is_not_beneath_the_root_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        packed(file(path, b""))


def test_one_path_twice_a_way_through_a_file_and_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        packed(file("a", b""), file("a", b"x"))
    with pytest.raises(ValueError, match="no folder"):
        packed(link("a", "b"), file("a/b", b""))
    with pytest.raises(ValueError, match="3 bytes, not 4"):
        packed(Entry(path="a", mode=0o100644, size=4, read=lambda: b"123"))
