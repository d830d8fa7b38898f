"""What a block image can be captured from, and what is refused with one sentence."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from block_lab import MIB, capture, commands, make_image, refused, restore
from commands import Commands
from loop_disks import loop_disk

__all__ = ["commands"]  # a fixture
qemu = pytest.mark.skipif(shutil.which("qemu-nbd") is None, reason="needs qemu-nbd (qemu-utils)")
partclone = pytest.mark.skipif(shutil.which("partclone.xfs") is None, reason="needs partclone")
SECRET = "secret,id=s,data=1234"


def sh(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def left_behind() -> set[str]:
    """Return the folders and servers of captures that are there."""
    listed = subprocess.run(["ps", "-e", "-o", "args="], check=True, capture_output=True, text=True)
    return {line for line in listed.stdout.splitlines() if "qemu-nbd --fork" in line}


# ---------------------------------------------------------------- qcow2


@qemu
@pytest.mark.parametrize(
    "words", [(), ("-c",), ("-o", "compression_type=zstd", "-c"), ("-o", "cluster_size=4096")]
)
def test_a_qcow2_file_is_the_image_that_it_holds(
    commands: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    before = left_behind()
    whole = make_image(tmp_path / "image")
    sh("qemu-img", "convert", "-O", "qcow2", *words, tmp_path / "image", tmp_path / "q")
    from_raw = capture(commands, tmp_path / "image")
    from_qcow2 = capture(commands, tmp_path / "q")
    assert from_qcow2["root"] == from_raw["root"]
    restore(commands, "c", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == whole
    assert not (tmp_path / "c" / "cache").exists()  # no second copy was made
    assert left_behind() == before


@qemu
def test_an_empty_and_an_internally_snapshotted_qcow2_file(
    commands: Commands, tmp_path: Path
) -> None:
    sh("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "q", "10M")
    assert capture(commands, tmp_path / "q")["plain_bytes"] == 0
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 1M", tmp_path / "q")
    sh("qemu-img", "snapshot", "-c", "old", tmp_path / "q")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 2 0 512k", tmp_path / "q")
    capture(commands, tmp_path / "q")
    restore(commands, "c", tmp_path / "out")
    data = b"\2" * (MIB // 2) + b"\1" * (MIB // 2) + bytes(9 * MIB)
    assert (tmp_path / "out").read_bytes() == data


@qemu
def test_qcow2_files_that_take_from_others_are_refused(commands: Commands, tmp_path: Path) -> None:
    make_image(tmp_path / "image")

    def said(path: Path) -> str:
        return refused(commands, 14, "image", "capture-block", "vm", "--device", str(path))

    create = ("qemu-img", "create", "-q", "-f", "qcow2")
    sh(*create, "-b", tmp_path / "image", "-F", "raw", tmp_path / "layer")
    assert "takes a part of its content from another file" in said(tmp_path / "layer")
    sh(*create, "-o", f"data_file={tmp_path}/data,data_file_raw=on", tmp_path / "outside", "4M")
    assert "takes a part of its content from another file" in said(tmp_path / "outside")
    (tmp_path / "image").unlink()  # the one below is gone: the sentence is the same
    assert "takes a part of its content from another file" in said(tmp_path / "layer")


@qemu
def test_an_encrypted_qcow2_file_is_refused(commands: Commands, tmp_path: Path) -> None:
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    words = ("qemu-img", "create", "-q", "-f", "qcow2", "--object", SECRET, "-o", options)
    # On a busy machine qemu-img gives up counting how fast it derives a key.
    for _ in range(10):
        if not subprocess.run([*words, tmp_path / "secret", "4M"], check=False).returncode:
            break
    story = refused(
        commands, 14, "image", "capture-block", "vm", "--device", str(tmp_path / "secret")
    )
    assert "is encrypted, and only its owner has the key" in story


@qemu
@pytest.mark.parametrize("what", ["marked", "tables", "cut", "header", "l1"])
def test_a_damaged_qcow2_file_is_refused(commands: Commands, tmp_path: Path, what: str) -> None:
    make_image(tmp_path / "image")
    path = tmp_path / "bad"
    sh("qemu-img", "convert", "-O", "qcow2", tmp_path / "image", path)
    data = bytearray(path.read_bytes())
    match what:
        case "marked":  # incompatible_features, bit 1: corrupt
            data[79] |= 2
        case "tables":  # the first table of refcounts
            data[0x10000:0x10008] = b"\xff" * 8
        case "cut":
            del data[len(data) // 2 :]
        case "header":
            del data[50:]
        case "l1":  # l1_table_offset
            data[40:48] = (1 << 50).to_bytes(8, "big")
    path.write_bytes(data)
    story = refused(commands, 14, "image", "capture-block", "vm", "--device", str(path))
    assert "is a damaged qcow2 file" in story or "is no valid qcow2 file" in story
    assert len([line for line in story.splitlines() if line.startswith("nodectl: ")]) == 1


@qemu
def test_a_qcow2_file_of_a_running_machine_is_refused(commands: Commands, tmp_path: Path) -> None:
    make_image(tmp_path / "image")
    path = tmp_path / "q"
    sh("qemu-img", "convert", "-O", "qcow2", tmp_path / "image", path)
    words = ["qemu-io", "-f", "qcow2", path]  # holds it for writing, as a machine does
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        assert machine.stdin is not None
        assert machine.stdout is not None
        machine.stdin.write(b"write 0 4k\n")
        machine.stdin.flush()
        assert b"wrote" in machine.stdout.readline() + machine.stdout.readline()
        story = refused(commands, 51, "image", "capture-block", "vm", "--device", str(path))
        assert "is in use by a running machine" in story
        machine.stdin.write(b"quit\n")


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"KDMV\1\0\0\0", "a VMDK file"),
        (b"vhdxfile", "a VHDX file"),
        (b"conectix\0\0\0\2", "a VHD file"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
        (b"\xfd7zXZ\0\0\4", "compressed with xz"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>".ljust(64) + b"\x7f\x10\xda\xbe", "a VDI file"),
    ],
)
def test_other_formats_are_refused(
    commands: Commands, tmp_path: Path, head: bytes, what: str
) -> None:
    (tmp_path / "image").write_bytes(head + bytes(MIB))
    story = refused(
        commands, 14, "image", "capture-block", "vm", "--device", str(tmp_path / "image")
    )
    assert f"is {what}, and neither a raw image nor qcow2" in story


# ---------------------------------------------------------------- files, devices


@pytest.mark.parametrize("size", [1, 511, 4097, 3 * MIB + 513])
def test_a_file_of_an_odd_size(commands: Commands, tmp_path: Path, size: int) -> None:
    (tmp_path / "image").write_bytes(random.Random(size).randbytes(size))
    assert capture(commands, tmp_path / "image")["size"] == size
    restore(commands, "c", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (tmp_path / "image").read_bytes()
    commands.ok("c", "image", "verify", "vm", "--against", str(tmp_path / "out"))


def test_an_empty_file_and_one_that_is_all_hole(commands: Commands, tmp_path: Path) -> None:
    for size in (0, 200 * MIB):
        with (tmp_path / "image").open("wb") as file:
            file.truncate(size)
        assert capture(commands, tmp_path / "image")["plain_bytes"] == 0
        restore(commands, "c", tmp_path / f"out{size}")
        assert (tmp_path / f"out{size}").stat().st_size == size
        assert (tmp_path / f"out{size}").stat().st_blocks == 0


def test_what_is_neither_file_nor_device_is_refused(commands: Commands, tmp_path: Path) -> None:
    words = ("image", "capture-block", "vm", "--device")
    assert "Is a directory" in refused(commands, 11, *words, str(tmp_path))
    assert "neither a file nor a block device" in refused(commands, 11, *words, "/dev/null")


@pytest.mark.root
def test_a_partition_with_ext4_is_captured_without_what_is_free(
    commands: Commands, tmp_path: Path
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    content = random.Random(5).randbytes(4 * MIB)
    with (
        loop_disk(tmp_path / "a.img", 60 * MIB) as disk,
        loop_disk(tmp_path / "b.img", 60 * MIB) as target,
    ):
        for one in (disk, target):
            Path(one.path).write_bytes(random.Random(6).randbytes(60 * MIB))
        sh("mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk.path)
        sh("mount", disk.path, mount)
        (mount / "file").write_bytes(content)
        # Mounted: only --in-use reads it, and then all of it.
        busy = capture(commands, Path(disk.path), "--in-use")
        assert (busy["free_bytes"], busy["plain_bytes"] > 50 * MIB) == (0, True)
        sh("umount", mount)
        done = capture(commands, Path(disk.path))
        assert done["plain_bytes"] < 20 * MIB
        assert done["free_bytes"] > 40 * MIB
        assert capture(commands, Path(disk.path), "--all-blocks")["plain_bytes"] > 50 * MIB
        capture(commands, Path(disk.path))
        restore(commands, "c", target.path, "--yes")
        sh("e2fsck", "-f", "-n", target.path)
        sh("mount", "-o", "ro", target.path, mount)
        try:
            assert (mount / "file").read_bytes() == content
        finally:
            sh("umount", mount)


@pytest.mark.root
def test_a_file_that_is_mounted_elsewhere_is_read_whole(commands: Commands, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "a.img", 40 * MIB) as disk:
        Path(disk.path).write_bytes(random.Random(6).randbytes(40 * MIB))
        sh("mkfs.ext4", "-q", "-F", "-E", "nodiscard", disk.path)
        os.sync()
        assert capture(commands, tmp_path / "a.img")["free_bytes"] == 0
    assert capture(commands, tmp_path / "a.img")["free_bytes"] > 20 * MIB


@partclone
@pytest.mark.root
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_xfs_and_btrfs_are_whole_without_what_is_free(
    commands: Commands, tmp_path: Path, kind: str
) -> None:
    mount, image, out = tmp_path / "mount", tmp_path / "image", tmp_path / "out"
    mount.mkdir()
    size = 320 * MIB
    with image.open("wb") as file:
        file.write(random.Random(6).randbytes(64 * MIB))
        file.truncate(size)
    sh(f"mkfs.{kind}", "-q", "-K", "-f", image)
    sh("mount", "-o", "loop", image, mount)
    for number in range(60):
        (mount / f"file{number}").write_bytes(random.Random(number).randbytes(100_000))
    os.sync()
    for number in range(0, 60, 2):
        (mount / f"file{number}").unlink()
    sh("umount", mount)
    done = capture(commands, image)
    assert done["free_bytes"] > 30 * MIB
    restore(commands, "c", out)
    check = {"xfs": ("xfs_repair", "-n", "-f"), "btrfs": ("btrfs", "check", "--check-data-csum")}
    sh(*check[kind], out)
    sh("mount", "-o", "loop,ro", out, mount)
    try:
        for number in range(1, 60, 2):
            data = random.Random(number).randbytes(100_000)
            assert (mount / f"file{number}").read_bytes() == data
    finally:
        sh("umount", mount)


@pytest.mark.root
def test_a_device_that_errors_while_it_is_read(commands: Commands, tmp_path: Path) -> None:
    """The file behind a loop device becomes shorter: what is gone reads as EIO."""
    with loop_disk(tmp_path / "a.img", 20 * MIB) as disk:
        Path(disk.path).write_bytes(random.Random(3).randbytes(20 * MIB))
        capture(commands, Path(disk.path))
        os.truncate(tmp_path / "a.img", 10 * MIB)
        sh("blockdev", "--flushbufs", disk.path)
        story = refused(commands, 11, "image", "capture-block", "vm", "--device", disk.path)
        assert f"cannot read {disk.path} at byte {10 * MIB}: Input/output error" in story
        assert "the kernel's log" in story
    # What was captured before is whole, and the failed one is no generation.
    commands.ok("c", "store", "verify", "vm")
    assert restore(commands, "c", tmp_path / "out")["size"] == 20 * MIB
    assert (tmp_path / "out").read_bytes() == random.Random(3).randbytes(20 * MIB)


@pytest.mark.root
def test_a_device_that_shrinks_before_it_is_read(commands: Commands, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "a.img", 20 * MIB) as disk:
        Path(disk.path).write_bytes(random.Random(3).randbytes(20 * MIB))
        os.truncate(tmp_path / "a.img", 10 * MIB)
        sh("losetup", "--set-capacity", disk.path)
        assert capture(commands, Path(disk.path))["size"] == 10 * MIB
