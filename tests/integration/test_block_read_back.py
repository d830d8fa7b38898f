"""What was written to a target is read back, and only that; a foreign target is not read first."""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from nodectl.content import block_restore
from nodectl.content.block import BlockManifest
from nodectl.content.block_capture import capture_block
from nodectl.content.block_compare import BlockJob
from nodectl.content.block_restore import BlockRestoreOptions, BlockRestoreReport, restore_block
from nodectl.content.block_source import SourceOptions, open_source
from nodectl.content.frame import FrameCodec
from nodectl.errors import ReadBackFailed
from nodectl.events import NullObserver
from nodectl.store.disk import DiskStore
from nodectl.units import MIB

SIZE = 24 * MIB  # some four jobs
BAD = 15 * MIB  # where a block is changed, or goes wrong

Restore = Callable[[Path], BlockRestoreReport]


@pytest.fixture
def data() -> bytes:
    return random.Random(5).randbytes(SIZE)


@pytest.fixture
def restore(tmp_path: Path, codec: FrameCodec, data: bytes) -> Iterator[Restore]:
    (tmp_path / "image").write_bytes(data)
    with DiskStore(tmp_path / "store") as store:
        with open_source(tmp_path / "image", SourceOptions()) as source:
            report = capture_block(source, store, codec, NullObserver())
        manifest = BlockManifest.open(report.root, store, codec)

        def open_store() -> DiskStore:
            return DiskStore(tmp_path / "store", catch_up=False)

        yield lambda target: restore_block(
            manifest, target, open_store, BlockRestoreOptions(), NullObserver()
        )


def _changed(data: bytes) -> bytes:
    return data[:BAD] + bytes([data[BAD] ^ 1]) + data[BAD + 1 :]


def _spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk take something else at one place than it was given."""
    write = block_restore._write

    def spoiled(fd: int, plain: bytes, offset: int) -> None:
        write(fd, plain, offset)
        if offset <= BAD < offset + len(plain):
            os.pwrite(fd, bytes([plain[BAD - offset] ^ 1]), BAD)

    monkeypatch.setattr(block_restore, "_write", spoiled)


def test_a_new_file_that_is_not_what_was_written_is_not_left(
    restore: Restore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch)
    with pytest.raises(ReadBackFailed, match="1 ranges read back differ"):
        restore(tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "store"]


def test_a_block_that_does_not_stay_is_found_among_those_that_were_right(
    restore: Restore, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.write_bytes(_changed(data))
    _spoil(monkeypatch)
    with pytest.raises(ReadBackFailed, match="1 ranges read back differ"):
        restore(target)


def test_only_what_was_written_is_read_back(
    restore: Restore, tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back: list[list[BlockJob]] = []
    compare = block_restore.compare

    def watched(
        manifest: BlockManifest, path: Path, jobs: Iterable[BlockJob], *others: object
    ) -> list[tuple[int, int]]:
        read_back.append(list(jobs))
        return compare(manifest, path, read_back[-1], *others)  # type: ignore[arg-type]

    monkeypatch.setattr(block_restore, "compare", watched)
    target = tmp_path / "target"
    restore(target)
    target.write_bytes(_changed(data))
    done = restore(target)
    restore(target)
    whole, one, nothing = read_back
    assert sum(chunk.ref.plain_len for job in whole for chunk in job.chunks) == SIZE
    (job,) = one
    assert job.chunks[0].offset <= BAD <= job.chunks[-1].offset + job.chunks[-1].ref.plain_len
    assert nothing == []
    assert 0 < done.written_bytes < MIB
    assert target.read_bytes() == data


def test_over_something_else_all_is_written_and_right(
    restore: Restore, tmp_path: Path, data: bytes
) -> None:
    target = tmp_path / "target"
    target.write_bytes(random.Random(6).randbytes(SIZE))
    assert restore(target).written_bytes == SIZE
    assert target.read_bytes() == data
    # The second half is there already: what is found so counts as kept, and all is right.
    target.write_bytes(random.Random(7).randbytes(SIZE // 2) + data[SIZE // 2 :])
    done = restore(target)
    assert done.written_bytes + done.kept_bytes == SIZE
    assert done.kept_bytes > 0
    assert target.read_bytes() == data
