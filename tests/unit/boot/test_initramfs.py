"""Archives of the kinds that kernels start with."""

import gzip
import lzma

import pytest
import zstandard
from guest.system import cpio

from nodectl.boot.initramfs import builtin_names, initramfs_names, module_names

FILES = {
    "init": (0o100755, b"#!/bin/sh\n"),
    "usr/lib/modules/6.1/kernel/drivers/block/virtio_blk.ko": (0o100644, b"x" * 5000),
    "usr/lib/modules/6.1/kernel/drivers/md/dm-crypt.ko.xz": (0o100644, b"y"),
}
EARLY = cpio({"kernel/x86/microcode/GenuineIntel.bin": (0o100644, b"m" * 3000)})
PACKED = {
    "as it is": lambda data: data,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("early", [b"", EARLY, EARLY + bytes(508)])
def test_names_and_modules(kind: str, early: bytes) -> None:
    names = initramfs_names(early + PACKED[kind](cpio(FILES)))
    assert names is not None
    assert "init" in names
    assert module_names(names) == {"virtio_blk", "dm_crypt"}


def test_another_compression_is_not_guessed() -> None:
    assert initramfs_names(EARLY + b"\x02\x21\x4c\x18" + bytes(100)) is None


@pytest.mark.parametrize("kind", PACKED)
def test_a_damaged_one_is_refused(kind: str) -> None:
    data = PACKED[kind](cpio(FILES))
    with pytest.raises(ValueError, match=r"cut off|damaged|newc"):
        initramfs_names(data[: len(data) // 2])


def test_builtin_drivers() -> None:
    text = "kernel/fs/ext4/ext4.ko\nkernel/drivers/md/md-mod.ko\n"
    assert builtin_names(text) == {"ext4", "md_mod"}
