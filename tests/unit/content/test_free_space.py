"""What is free: of ext file systems and partitions, only where it is certain."""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from nodectl.content.block_source import without
from nodectl.content.chunker import CHUNK_LEAST
from nodectl.content.free_space import free_of_domain, free_ranges

MIB = 1 << 20
ext = pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="needs mkfs.ext4 (e2fsprogs)")


def make_ext(path: Path, size: int, *words: str, kind: str = "ext4") -> None:
    tree = path.with_name("tree")
    tree.mkdir(exist_ok=True)
    (tree / "file").write_bytes(random.Random(1).randbytes(3 * MIB))
    path.write_bytes(random.Random(2).randbytes(size))  # what a disk held before
    sh(f"mkfs.{kind}", "-q", "-F", "-E", "nodiscard", *words, "-d", tree, path)


def sh(*argv: str | Path, **keywords: object) -> str:
    done = subprocess.run(argv, check=True, capture_output=True, text=True, **keywords)
    return done.stdout


def without_free(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    for begin, length in free_ranges(path, len(data)):
        data[begin : begin + length] = bytes(length)
    return bytes(data)


@ext
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ext4", ()),
        ("ext4", ("-b", "1024")),
        ("ext4", ("-O", "^64bit,^metadata_csum,meta_bg,^resize_inode")),
        ("ext3", ()),
        ("ext2", ("-b", "2048")),
    ],
)
def test_a_file_system_is_whole_without_what_it_calls_free(
    tmp_path: Path, kind: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "image"
    make_ext(path, 48 * MIB, *words, kind=kind)
    free = free_ranges(path, 48 * MIB)
    assert sum(length for _, length in free) > 20 * MIB
    assert list(free) == sorted(free)
    path.write_bytes(without_free(path))
    sh("e2fsck", "-f", "-n", path)
    sh("debugfs", "-R", f"dump /file {tmp_path}/out", path)
    assert (tmp_path / "out").read_bytes() == random.Random(1).randbytes(3 * MIB)


@ext
@pytest.mark.parametrize("kind", ["ext4", "ext3"])
def test_what_an_empty_journal_holds_is_of_no_use(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    make_ext(path, 48 * MIB, "-b", "4096", kind=kind)
    words = sh("debugfs", "-R", "blocks <8>", path).split()
    head, *used = (int(word) * 4096 for word in words)
    with path.open("r+b") as file:
        for offset in used if kind == "ext4" else ():
            file.seek(offset)
            file.write(random.Random(offset).randbytes(4096))  # of transactions long done
    free = free_ranges(path, 48 * MIB)
    covered = {at for begin, length in free for at in range(begin, begin + length, 4096)}
    assert head not in covered
    assert covered.isdisjoint(used) if kind == "ext3" else covered.issuperset(used)
    path.write_bytes(without_free(path))
    sh("e2fsck", "-f", "-n", path)
    assert b"Journal start:            0" in sh("dumpe2fs", "-h", path).encode()


@ext
def test_partitions_are_looked_into(tmp_path: Path) -> None:
    inner, disk = tmp_path / "inner", tmp_path / "disk"
    make_ext(inner, 32 * MIB)
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    sh("sfdisk", "--quiet", disk, input="label: gpt\nstart=4MiB, size=32MiB\n,\n")
    with disk.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(inner.read_bytes())
    moved = [(begin + 4 * MIB, length) for begin, length in free_ranges(inner, 32 * MIB)]
    assert moved
    assert free_ranges(disk, 64 * MIB) == tuple(moved)


@ext
def test_a_superblock_from_before_a_partition_table_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_ext(path, 32 * MIB)
    assert free_ranges(path, 32 * MIB)
    sh("sfdisk", "--quiet", "--wipe=never", path, input="label: dos\nstart=2048\n")
    assert free_ranges(path, 32 * MIB) == ()


@ext
@pytest.mark.parametrize(
    "request_",
    ["feature needs_recovery", "set_super_value state 2", "set_super_value free_blocks_count 77"],
)
def test_a_file_system_that_is_not_clean_is_not_believed(tmp_path: Path, request_: str) -> None:
    path = tmp_path / "image"
    make_ext(path, 32 * MIB)
    sh("debugfs", "-w", "-R", request_, path)
    assert free_ranges(path, 32 * MIB) == ()


@ext
def test_one_that_counts_in_clusters_is_read_whole(tmp_path: Path) -> None:
    make_ext(tmp_path / "image", 48 * MIB, "-O", "bigalloc")
    assert free_ranges(tmp_path / "image", 48 * MIB) == ()


@ext
def test_one_that_is_larger_than_its_place_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    make_ext(path, 32 * MIB)
    with path.open("r+b") as file:
        file.truncate(31 * MIB)
    assert free_ranges(path, 31 * MIB) == ()


def test_what_is_no_file_system_has_nothing_free(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(random.Random(1).randbytes(MIB))
    assert free_ranges(path, MIB) == ()
    assert free_ranges(tmp_path / "none", MIB) == ()


def test_without_tools_nothing_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodectl.run._SEARCH_PATH", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "image").write_bytes(bytes(MIB))
    assert free_ranges(tmp_path / "image", MIB) == ()


DOMAIN = """\
# Domain logfile created by partclone
0x5000     ?
#      pos        size  status
0x00000000  0x00001000  +
0x00001000  0x00002000  ?
0x00003000  0x00002000  +
"""


def test_a_domain_log_is_read_strictly() -> None:
    assert list(free_of_domain(DOMAIN, 0x5000)) == [(0x1000, 0x2000)]
    with pytest.raises(ValueError, match="domain log"):
        list(free_of_domain(DOMAIN, 0x4000))
    with pytest.raises(ValueError, match="domain log"):
        list(free_of_domain(DOMAIN.replace("0x00003000  ", "0x00004000  "), 0x9000))


def test_what_is_left_out_is_as_long_as_a_chunk() -> None:
    least = CHUNK_LEAST
    assert without(((0, 10 * least),), ()) == (((0, 10 * least),), 0)
    assert without(((0, 10 * least),), ((least, least),)) == (
        ((0, least), (2 * least, 8 * least)),
        least,
    )
    assert without(((0, 10 * least),), ((least, least - 1),)) == (((0, 10 * least),), 0)
    # One gap over two extents, one behind all, one from the start.
    extents = ((0, 3 * least), (5 * least, 3 * least))
    free = ((0, least), (2 * least, 4 * least), (9 * least, least))
    assert without(extents, free) == (((least, least), (6 * least, 2 * least)), 3 * least)
    assert without(((0, least),), ((0, least),)) == ((), least)


def test_a_finely_holed_file_is_a_bounded_number_of_extents() -> None:
    extents = tuple((at, 4096) for at in range(0, 64 * MIB, 8192))
    assert without(extents, ()) == (((0, 64 * MIB - 4096),), 0)
