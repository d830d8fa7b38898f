"""Packs: what a damaged or torn one still gives, and writers on a full file system."""

import errno
import os
from pathlib import Path

import pytest
from blake3 import blake3

from nodectl.errors import NoSpace
from nodectl.ids import ChunkId, FrameId
from nodectl.store.disk import DiskStore
from nodectl.store.model import StoredFrame
from nodectl.store.packs import PACK_HEADER, PackedFrame, PackFile, PackWriter, read_runs, scan

RECORD = 76  # bytes of a record before its sealed bytes


def frame(number: int, size: int = 200) -> StoredFrame:
    sealed = number.to_bytes(4, "little") * (size // 4)
    return StoredFrame(FrameId(blake3(sealed).digest()), ChunkId(bytes(32)), size, sealed)


FRAMES = [frame(number) for number in range(5)]


def write(folder: Path) -> tuple[Path, list[PackedFrame]]:
    """Write one pack of `FRAMES`; return it and where they stand."""
    with PackWriter(folder) as writer:
        placed = [writer.append(one) for one in FRAMES]
    (path,) = folder.iterdir()
    return path, placed


def scanned(path: Path, begin: int = 0) -> list[PackedFrame]:
    with path.open("rb") as file:
        return list(scan(file.fileno(), path.stem, begin))


def test_a_pack_is_laid_out_as_documented(tmp_path: Path) -> None:
    path, placed = write(tmp_path)
    data = path.read_bytes()
    assert data[:8] == b"NCPACK\0\1"
    assert data[8:12] == b"NCFR"
    assert data[20:52] == FRAMES[0].frame_id
    assert placed[0].offset == 8 + RECORD
    assert scanned(path) == placed
    assert scanned(path, placed[1].offset + placed[1].sealed_len) == placed[2:]


@pytest.mark.parametrize("damaged", range(5))
@pytest.mark.parametrize("place", [0, 4, 7, 12, 44, RECORD, RECORD + 199])
def test_a_damaged_record_takes_no_other_with_it(tmp_path: Path, damaged: int, place: int) -> None:
    """Magic, length, id or content: the frames before and behind it are found all the same."""
    path, placed = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[placed[damaged].offset - RECORD + place] ^= 0x80
    path.write_bytes(data)
    found = scanned(path)
    kept = [one for one in placed if one is not placed[damaged]]
    if place == 44:  # the chunk id is not under the hash: only what opens the frame sees it
        assert [one.frame_id for one in found] == [one.frame_id for one in placed]
    else:
        assert found == kept


def test_a_magic_across_two_windows_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, placed = write(tmp_path)
    data = bytearray(path.read_bytes())
    data[8] ^= 1
    path.write_bytes(data)
    for window in range(4, 40):
        monkeypatch.setattr("nodectl.store.packs._SCAN_WINDOW", window)
        assert scanned(path) == placed[1:]


def test_no_frame_is_lost_with_the_index_and_a_damaged_record(tmp_path: Path) -> None:
    with DiskStore(tmp_path) as store:
        store.put_many(FRAMES)
    (pack,) = (tmp_path / "packs").iterdir()
    data = bytearray(pack.read_bytes())
    data[8 + RECORD + 200 + RECORD + 5] ^= 1  # in the second frame
    pack.write_bytes(data)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    with DiskStore(tmp_path) as store:
        assert store.missing(one.frame_id for one in FRAMES) == [FRAMES[1].frame_id]
        assert pack.stat().st_size == len(data)
        store.put_many(FRAMES)  # what was damaged can be stored again
        assert store.get(FRAMES[1].frame_id) == FRAMES[1].sealed


@pytest.mark.parametrize("head", [b"NCPACK\0\2", b"\xffCPACK\0\1"])
def test_a_pack_with_another_head_is_never_removed(tmp_path: Path, head: bytes) -> None:
    """A flipped bit, or a pack of a later nodectl."""
    with DiskStore(tmp_path) as store:
        store.put_many(FRAMES)
    (pack,) = (tmp_path / "packs").iterdir()
    pack.write_bytes(head + pack.read_bytes()[8:])
    later = tmp_path / "packs" / "later.pack"
    later.write_bytes(b"NCPACK\0\2" + b"something else" * 100)
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    with DiskStore(tmp_path) as store:
        assert store.missing(one.frame_id for one in FRAMES) == []
    assert later.exists()


@pytest.mark.parametrize("size", range(8))
def test_a_torn_beginning_of_a_pack_is_removed(tmp_path: Path, size: int) -> None:
    with DiskStore(tmp_path):
        pass
    torn = tmp_path / "packs" / "torn.pack"
    torn.write_bytes((PACK_HEADER + b"NCFR")[: size + 1])
    with DiskStore(tmp_path):
        assert not torn.exists()


def _fail_once(monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: int) -> list[int]:
    """Let the `number`-th call of os.`name` fail."""
    real, calls = getattr(os, name), [0]

    def call(*args: object) -> object:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(code, os.strerror(code))
        return real(*args)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("name", ["write", "fdatasync"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_after_a_failed_write_the_store_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, code: int
) -> None:
    """Wherever it fails (the head of a new pack too), what is acknowledged later is there."""
    with DiskStore(tmp_path) as store:
        if number == 2:
            store.put_many(FRAMES[:1])
        _fail_once(monkeypatch, name, 1 if number == 1 else 2 - (name == "fdatasync"), code)
        expected = NoSpace if code != errno.EIO else OSError
        try:
            store.put_many(FRAMES[1:3])
        except (NoSpace, OSError) as exc:
            assert isinstance(exc, expected)  # noqa: PT017 - one variant writes without failing
        monkeypatch.undo()
        store.put_many(FRAMES[1:])
        for one in FRAMES[1:]:
            assert store.get(one.frame_id) == one.sealed
    for path in tmp_path.glob("index.sqlite*"):
        path.unlink()
    with DiskStore(tmp_path) as store:
        assert store.missing(one.frame_id for one in FRAMES[1:]) == []


def test_neighbours_are_read_with_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, placed = write(tmp_path)
    files = {path.stem: PackFile(path)}
    calls = _fail_once(monkeypatch, "pread", 0, 0)
    assert list(read_runs(files, placed)) == [one.sealed for one in FRAMES]
    assert calls == [1]
    assert list(read_runs(files, placed[::-1])) == [one.sealed for one in FRAMES[::-1]]
    assert list(read_runs(files, [])) == []
