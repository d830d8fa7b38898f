"""Block images as users have them: files, qcow2 files and loop disks, through real commands."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from block_lab import capture, commands, make_image, refused, restore
from commands import Commands
from loop_disks import loop_disk

from nodectl.store.disk import DiskStore

MIB = 1 << 20
__all__ = ["commands"]  # a fixture


def test_an_image_comes_back_and_an_update_writes_the_difference(
    commands: Commands, tmp_path: Path
) -> None:
    image, out = tmp_path / "image", tmp_path / "out"
    whole = make_image(image)
    done = capture(commands, image)
    assert (done["size"], done["plain_bytes"]) == (24 * MIB, 7 * MIB)
    assert capture(commands, image)["new_frames"] == 0

    first = restore(commands, "c", out)
    assert out.read_bytes() == whole
    assert out.stat().st_blocks * 512 < 8 * MIB  # holes stay holes
    assert (first["written_bytes"], first["kept_bytes"]) == (7 * MIB, 0)

    with image.open("r+b") as file:  # the next generation: some blocks anew, some cleared
        file.seek(10 * MIB + 4096)
        file.write(b"new" * 3000)
        file.seek(MIB)
        file.write(bytes(4096))
    capture(commands, image)
    assert commands.run("c", "image", "verify", "vm", "--against", str(out)).returncode == 24
    second = restore(commands, "c", out)
    assert out.read_bytes() == image.read_bytes()
    assert 0 < second["written_bytes"] < 2 * MIB
    assert "byte for byte" in commands.ok("c", "image", "verify", "vm", "--against", str(out))

    commands.fails("c", 18, "image", "restore", "vm", str(out))  # nobody to ask
    commands.fails("c", 10, "image", "restore", "vm", str(tmp_path))
    commands.fails("c", 10, "image", "capture-block", "x", "--device", str(tmp_path / "none"))


def test_a_flipped_byte_in_the_store_stops_a_restore(commands: Commands, tmp_path: Path) -> None:
    make_image(tmp_path / "image")
    capture(commands, tmp_path / "image")
    with DiskStore(tmp_path / "c" / "store") as store:
        row = max(store.index.rows(), key=lambda row: row.sealed_len)
        with (store.packs / f"{row.pack}.pack").open("r+b") as file:
            file.seek(row.offset + 1000)
            file.write(b"\xaa\x55")
    refused(commands, 21, "image", "restore", "vm", str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_a_node_gets_it_from_the_swarm_and_an_older_copy_saves_most(
    commands: Commands, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    whole = make_image(image)
    total = capture(commands, image)["new_bytes"]
    commands.serve("c", "--controller", "--no-scrub")
    token = commands.ok("c", "token", "create").strip()
    commands.ok("n1", "join", "--token", token, "--name", "n1")
    got = restore(commands, "n1", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == whole
    assert got["fetched_bytes"] >= total * 0.95
    assert got["seeded_bytes"] == 0

    # The same node on a new disk, with an older copy of the image on it: its store is lost.
    commands.ok(
        "n2", "join", "--token", commands.ok("c", "token", "create").strip(), "--name", "n2"
    )
    again = restore(commands, "n2", tmp_path / "out")
    assert again["written_bytes"] == 0
    assert again["fetched_bytes"] < total // 100

    # And pushed, as any other image.
    node, _ = commands.serve("n2", "--no-scrub")
    commands.ok("c", "swarm", "push", "vm", "--nodes", "n2")
    node.terminate()
    node.wait(timeout=30)
    commands.ok("n2", "store", "verify", "vm")


@pytest.mark.root
def test_a_device_is_captured_and_written(commands: Commands, tmp_path: Path) -> None:
    rng = random.Random(3)
    with (
        loop_disk(tmp_path / "a.img", 20 * MIB) as source,
        loop_disk(tmp_path / "b.img", 24 * MIB) as target,
        loop_disk(tmp_path / "c.img", 16 * MIB) as small,
    ):
        data = rng.randbytes(5 * MIB) + bytes(15 * MIB)
        Path(source.path).write_bytes(data)
        Path(target.path).write_bytes(rng.randbytes(24 * MIB))
        behind = Path(target.path).read_bytes()[20 * MIB :]
        done = capture(commands, Path(source.path))
        assert (done["size"], done["plain_bytes"]) == (20 * MIB, 5 * MIB)

        before = small.digest()
        story = refused(commands, 52, "image", "restore", "vm", small.path, "--yes")
        assert "nothing was written" in story
        assert small.digest() == before

        wrote = restore(commands, "c", target.path, "--discard")
        assert wrote["written_bytes"] == 5 * MIB
        assert Path(target.path).read_bytes() == data + behind  # what lies behind is not touched
        assert restore(commands, "c", target.path)["written_bytes"] == 0


@pytest.mark.root
def test_a_device_in_use_is_refused(commands: Commands, tmp_path: Path) -> None:
    make_image(tmp_path / "image", size=30 * MIB)
    capture(commands, tmp_path / "image")
    mount = tmp_path / "mount"
    mount.mkdir()
    with loop_disk(tmp_path / "a.img", 40 * MIB) as disk:
        subprocess.run(["mkfs.ext4", "-q", disk.path], check=True)
        subprocess.run(["mount", disk.path, mount], check=True)
        try:
            (mount / "file").write_bytes(b"precious")
            os.sync()
            refused(commands, 51, "image", "restore", "vm", disk.path, "--yes")
            refused(commands, 51, "image", "capture-block", "x", "--device", disk.path)
            assert (mount / "file").read_bytes() == b"precious"
        finally:
            subprocess.run(["umount", mount], check=True)
        commands.ok("c", "image", "capture-block", "x", "--device", disk.path)


def used(folder: Path) -> int:
    """Return the bytes in use on a file system."""
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.root
@pytest.mark.parametrize(
    "make", [("mkfs.xfs", "-q", "-m", "reflink=1"), ("mkfs.btrfs", "-q")], ids=["xfs", "btrfs"]
)
def test_a_new_file_shares_blocks_with_an_older_copy(
    commands: Commands, tmp_path: Path, make: tuple[str, ...]
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    image = tmp_path / "image"
    make_image(image)
    capture(commands, image)
    with loop_disk(tmp_path / "fs.img", 320 * MIB) as disk:
        subprocess.run([*make, disk.path], check=True)
        subprocess.run(["mount", disk.path, mount], check=True)
        try:
            restore(commands, "c", mount / "old")
            before = used(mount)
            done = restore(commands, "c", mount / "new", "--seed", str(mount / "old"))
            assert done["written_bytes"] == 0
            assert (mount / "new").read_bytes() == image.read_bytes()
            assert used(mount) - before < MIB

            with image.open("r+b") as file:  # the next generation shares what did not change
                file.seek(MIB)
                file.write(b"new" * 1000)
            capture(commands, image)
            done = restore(commands, "c", mount / "next", "--seed", str(mount / "old"))
            assert 0 < done["written_bytes"] < MIB
            assert (mount / "next").read_bytes() == image.read_bytes()
            assert used(mount) - before < 2 * MIB
        finally:
            subprocess.run(["umount", mount], check=True)


def test_an_older_copy_that_cannot_be_shared_is_no_obstacle(
    commands: Commands, tmp_path: Path
) -> None:
    whole = make_image(tmp_path / "image")
    capture(commands, tmp_path / "image")
    (tmp_path / "other").write_bytes(random.Random(9).randbytes(30 * MIB))  # of anything
    restore(commands, "c", tmp_path / "out", "--seed", str(tmp_path / "other"))
    assert (tmp_path / "out").read_bytes() == whole
    none = str(tmp_path / "none")
    words = ("image", "restore", "vm", str(tmp_path / "new"), "--seed", none)
    assert f"cannot read the seed {none}" in refused(commands, 11, *words)
    assert not (tmp_path / "new").exists()


def test_holes_of_an_existing_file_are_punched(commands: Commands, tmp_path: Path) -> None:
    whole = make_image(tmp_path / "image")
    capture(commands, tmp_path / "image")
    out = tmp_path / "out"
    out.write_bytes(random.Random(8).randbytes(12 * MIB) + bytes(20 * MIB))  # too long as well
    done = restore(commands, "c", out, "--yes")
    assert done["cleared_bytes"] > 5 * MIB
    assert out.read_bytes() == whole
    assert out.stat().st_blocks * 512 < 8 * MIB
    assert restore(commands, "c", out, "--yes")["cleared_bytes"] == 0


@pytest.mark.root
@pytest.mark.parametrize("words", [("--discard",), ()])
def test_a_device_gets_its_holes_discarded_when_asked(
    commands: Commands, tmp_path: Path, words: tuple[str, ...]
) -> None:
    whole = make_image(tmp_path / "image")
    capture(commands, tmp_path / "image")
    with loop_disk(tmp_path / "a.img", 24 * MIB) as disk:
        Path(disk.path).write_bytes(random.Random(8).randbytes(24 * MIB))
        os.sync()
        restore(commands, "c", disk.path, "--yes", *words)
        assert Path(disk.path).read_bytes() == whole
        os.sync()
        allocated = (tmp_path / "a.img").stat().st_blocks * 512
        assert allocated < 9 * MIB if words else allocated > 20 * MIB


@pytest.mark.root
def test_a_device_with_unreadable_places_is_told(commands: Commands, tmp_path: Path) -> None:
    """The file behind a loop device is shorter than it was: its end can not be read."""
    (tmp_path / "image").write_bytes(random.Random(3).randbytes(20 * MIB))
    capture(commands, tmp_path / "image")
    with loop_disk(tmp_path / "a.img", 20 * MIB) as disk:
        restore(commands, "c", disk.path, "--yes")
        os.truncate(tmp_path / "a.img", 10 * MIB)
        subprocess.run(["blockdev", "--flushbufs", disk.path], check=True)
        words = ("image", "verify", "vm", "--against", disk.path)
        done = commands.run("c", *words)
        assert done.returncode == 24
        assert "differs from vm" in done.stderr


@pytest.mark.root
def test_holes_that_cannot_be_read_are_told_and_written_anew(
    commands: Commands, tmp_path: Path
) -> None:
    """Zeros up to half of a 1 MiB piece, and from there on nothing that could be read."""
    data = random.Random(3).randbytes(4 * MIB)
    (tmp_path / "image").write_bytes(data + bytes(16 * MIB))
    capture(commands, tmp_path / "image")
    with loop_disk(tmp_path / "a.img", 20 * MIB) as disk:
        restore(commands, "c", disk.path, "--yes")
        (tmp_path / "a.img").write_bytes(data + bytes(6 * MIB + MIB // 2))  # as it was, but short
        subprocess.run(["blockdev", "--flushbufs", disk.path], check=True)
        with (
            Path(disk.path).open("rb", buffering=0) as file,
            pytest.raises(OSError, match="Input/output error"),
        ):
            os.pread(file.fileno(), 4096, 15 * MIB)
        words = ("image", "verify", "vm", "--against", disk.path)
        assert "differs from vm" in refused(commands, 24, *words)

        cleared = restore(commands, "c", disk.path, "--yes")["cleared_bytes"]
        assert 9 * MIB < cleared <= 10 * MIB
        assert "byte for byte" in commands.ok("c", *words)


@pytest.mark.root
def test_a_device_that_takes_no_writes_is_told(commands: Commands, tmp_path: Path) -> None:
    """The file behind it has holes, and its file system has no room left to fill them."""
    (tmp_path / "image").write_bytes(random.Random(3).randbytes(20 * MIB))
    capture(commands, tmp_path / "image")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True)
    try:
        with loop_disk(small / "a.img", 20 * MIB) as disk:
            story = refused(commands, 61, "image", "restore", "vm", disk.path, "--yes")
            assert f"cannot write to {disk.path}: Input/output error" in story
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_tree_command_says_that_it_is_a_block_image(commands: Commands, tmp_path: Path) -> None:
    make_image(tmp_path / "image")
    capture(commands, tmp_path / "image")
    listed = json.loads(commands.ok("c", "image", "list", "--json"))
    assert json.dumps(listed).count("block") >= 1
