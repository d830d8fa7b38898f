"""What is taken from a tree: files, the links that lead to them, their libraries."""

import os
import struct
from pathlib import Path

import pytest

from nodectl.errors import PathMissing
from nodectl.installer.tree import Missing, Taken


def elf(*needed: str, interpreter: str = "", runpath: str = "", machine: int = 62) -> bytes:
    """Return the smallest ELF file that says this."""
    strings = b"\0"
    offsets = {}
    for text in (*needed, runpath):
        offsets[text] = len(strings)
        strings += text.encode() + b"\0"
    base = 64 + 3 * 56
    interp_at = base
    interp = interpreter.encode() + b"\0"
    strings_at = interp_at + len(interp)
    dynamic_at = strings_at + len(strings)
    tags = [(1, offsets[each]) for each in needed]
    tags += [(29, offsets[runpath])] if runpath else []
    tags += [(5, strings_at), (0, 0)]
    dynamic = b"".join(struct.pack("<qQ", *tag) for tag in tags)
    size = dynamic_at + len(dynamic)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0,
                       64, 56, 3, 0, 0, 0)  # fmt: skip
    kinds = [(1, 0, size), (2, dynamic_at, len(dynamic)), (3, interp_at, len(interp))]
    if not interpreter:
        kinds[2] = (0, 0, 0)
    programs = b"".join(
        struct.pack("<IIQQQQQQ", kind, 4, at, at, at, length, length, 1)
        for kind, at, length in kinds
    )
    return head + programs + interp + strings + dynamic


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tree as distributions have it: /bin and /lib are links into /usr."""
    for name in ("bin", "lib64", "lib/x86_64-linux-gnu/private"):
        (tmp_path / "usr" / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    libraries = tmp_path / "usr/lib/x86_64-linux-gnu"
    (tmp_path / "usr/lib64/ld.so.2").write_bytes(elf())
    (libraries / "libc.so.6").write_bytes(elf())
    (libraries / "libz.so.1.2").write_bytes(elf("libc.so.6"))
    (libraries / "libz.so.1").symlink_to("libz.so.1.2")
    (libraries / "private/libown.so").write_bytes(elf("libz.so.1"))
    return tmp_path


def add(root: Path, name: str, data: bytes) -> None:
    (root / "usr/bin" / name).write_bytes(data)
    (root / "usr/bin" / name).chmod(0o755)


def paths(taken: Taken) -> set[str]:
    return {entry.path for entry in taken.entries()}


def test_a_program_comes_with_links_loader_and_libraries_at_any_depth(root: Path) -> None:
    add(root, "tool", elf("libown.so", interpreter="/lib64/ld.so.2",
                          runpath="$ORIGIN/../lib/x86_64-linux-gnu/private"))  # fmt: skip
    (root / "usr/bin/alias").symlink_to("/bin/tool")
    taken = Taken(root)
    assert taken.take("/bin/alias") == "/usr/bin/tool"
    assert paths(taken) == {
        "bin", "lib", "lib64", "usr/bin/alias", "usr/bin/tool", "usr/lib64/ld.so.2",
        "usr/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libz.so.1",
        "usr/lib/x86_64-linux-gnu/libz.so.1.2", "usr/lib/x86_64-linux-gnu/private/libown.so",
    }  # fmt: skip
    assert taken.missing == []


def test_what_is_missing_is_all_named(root: Path) -> None:
    add(root, "one", elf("libnone.so.1", interpreter="/lib64/ld-none.so"))
    add(root, "two", elf("libc.so.6", machine=183))
    taken = Taken(root)
    taken.take("/usr/bin/one")
    taken.take("/usr/bin/two")
    taken.entries()
    assert set(map(_words, taken.missing)) == {
        "libnone.so.1 /usr/bin/one",
        "/lib64/ld-none.so /usr/bin/one",
        "libc.so.6 /usr/bin/two",  # the one that is there is of another architecture
    }


def _words(one: Missing) -> str:
    return f"{one.name} {one.needed_by}"


def test_links_do_not_lead_out_of_the_tree_nor_in_a_circle(root: Path) -> None:
    (root / "usr/bin/outside").symlink_to("/etc/hostname")
    (root / "usr/bin/above").symlink_to("../../../../../../etc/hostname")
    (root / "usr/bin/circle").symlink_to("circle")
    taken = Taken(root)
    for name in ("outside", "above", "circle", "absent"):
        assert taken.take(f"/bin/{name}") is None
    assert paths(taken) == set()


def test_folders_of_ld_so_conf_are_looked_into(root: Path) -> None:
    (root / "etc/ld.so.conf.d").mkdir(parents=True)
    (root / "etc/ld.so.conf.d/x.conf").write_text("# a comment\n/opt/x\n")
    (root / "opt/x").mkdir(parents=True)
    (root / "opt/x/libx.so").write_bytes(elf())
    add(root, "tool", elf("libx.so"))
    taken = Taken(root)
    taken.take("/usr/bin/tool")
    assert "opt/x/libx.so" in paths(taken)


def test_a_tree_that_is_none_and_a_device_in_one(root: Path) -> None:
    with pytest.raises(PathMissing):
        Taken(root / "absent")
    os.mkfifo(root / "usr/bin/pipe")
    taken = Taken(root)
    taken.take("/usr/bin/pipe")
    assert paths(taken) == set()
