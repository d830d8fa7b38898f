import os
import zipfile
from pathlib import Path

import pytest

from nodectl.errors import SelfInvalid
from nodectl.zipapp.archive import Archive, Damaged, parse_index
from nodectl.zipapp.pack import assemble
from nodectl.zipapp.selfcheck import verify

MEMBERS = {
    "__main__.py": b"print('hello')\n",
    "empty": b"",
    "lib/a.py": b"A = 1\n" * 1000,
    "noise": os.urandom(3000),  # does not shrink, so it is stored
}


def write(path: Path, data: bytes) -> Archive:
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        return Archive(str(path), archive.read("INDEX"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return write(tmp_path / "a.pyz", assemble(MEMBERS, "1.2.3")[0])


def test_every_member_is_read_back(archive: Archive) -> None:
    assert {name: archive.read(name) for name in archive.members} == MEMBERS


def test_other_tools_read_the_zip(archive: Archive) -> None:
    with zipfile.ZipFile(archive.path) as other:
        assert other.testzip() is None
        assert other.namelist() == [*MEMBERS, "INDEX"]
        assert {name: other.read(name) for name in MEMBERS} == MEMBERS


def test_version_and_build_id_come_from_the_index(archive: Archive) -> None:
    assert (archive.version, len(archive.build_id)) == ("1.2.3", 32)


def test_a_missing_member_is_named(archive: Archive) -> None:
    with pytest.raises(FileNotFoundError, match=r"lib/b\.py is not in"):
        archive.read("lib/b.py")


def test_a_process_goes_on_with_the_file_it_started_from(archive: Archive, tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.write_bytes(b"something else")
    newer.replace(archive.path)
    assert archive.read("lib/a.py") == MEMBERS["lib/a.py"]


@pytest.mark.parametrize("text", ["", "nodectl 1\n", "nodectl 1 ab\nonly-a-hash\n"])
def test_an_index_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="unpack"):
        parse_index(text.encode())


def test_the_build_id_changes_with_name_and_content_and_nothing_else() -> None:
    same = assemble(dict(MEMBERS), "1.2.3")
    assert same == assemble(dict(MEMBERS), "1.2.3")
    other_name = {("lib/b.py" if name == "lib/a.py" else name): MEMBERS[name] for name in MEMBERS}
    other_content = MEMBERS | {"empty": b"x"}
    # Where one part ends and the next begins counts too.
    shifted = {"ab": b"c"}, {"a": b"bc"}
    ids = [assemble(members, "1")[1] for members in (MEMBERS, other_name, other_content, *shifted)]
    assert len(set(ids)) == len(ids)


def test_a_whole_archive_verifies(archive: Archive) -> None:
    checked = verify(archive)
    assert (checked.members, checked.bytes_read) == (4, Path(archive.path).stat().st_size)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Be it in a member, between members, in the directory or in the first lines."""
    data, _ = assemble(MEMBERS, "1.2.3")
    whole = write(tmp_path / "whole.pyz", data)
    with zipfile.ZipFile(whole.path) as archive:
        index = archive.read("INDEX")
    path = tmp_path / "bad.pyz"
    for offset in range(0, len(data), 7):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
        with pytest.raises(SelfInvalid) as caught:
            verify(Archive(str(path), index))
        assert caught.value.exit_code == 70
        assert caught.value.hint


def test_a_damaged_member_is_named(tmp_path: Path, archive: Archive) -> None:
    data = bytearray(Path(archive.path).read_bytes())
    data[archive.members["noise"].offset + 1000] ^= 1
    damaged = write(tmp_path / "bad.pyz", bytes(data))
    with pytest.raises(SelfInvalid, match=r"^noise in .* is damaged$"):
        verify(damaged)
    with pytest.raises(Damaged, match=r"^noise in .* is damaged$"):
        damaged.read("noise")


def test_a_truncated_file_is_found(tmp_path: Path, archive: Archive) -> None:
    with zipfile.ZipFile(archive.path) as other:
        index = other.read("INDEX")
    path = tmp_path / "short.pyz"
    path.write_bytes(Path(archive.path).read_bytes()[:500])
    with pytest.raises(SelfInvalid):
        verify(Archive(str(path), index))
