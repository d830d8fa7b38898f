"""What a node keeps over a new deployment: from the old disk, no byte of which changes."""

from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, FolderImage, LoopDisk, loop_disk, make_tree, sh

from nodectl.catalog.inventory import Interface, NodeInventory
from nodectl.catalog.site_files import FileKind, FilledFile, SiteFile
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout
from nodectl.disk.probe import probe_contents, probe_disks
from nodectl.events import NullObserver
from nodectl.identity.old_root import OldRoot, read_old_disks
from nodectl.node.clone import CloneReport, CloneWish, clone_onto_disk

pytestmark = pytest.mark.root

MUNGE = FilledFile(
    file=SiteFile(
        name="munge",
        kind=FileKind.SECRET,
        group="all",
        path="etc/munge/munge.key",
        owner="munge",
        mode=0o400,
    ),
    content=b"a key",
)
KEYS = "etc/ssh/ssh_host_*_key"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("image") / "root")
    (root / "etc/ssh").mkdir()
    (root / "etc/ssh/sshd_config").write_text("Port 22\n")
    (root / "etc/ssh/ssh_host_dsa_key").write_text("golden\n")
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nmunge:x:64:65::/:/bin/false\n")
    return root


def clone(disk: LoopDisk, tree: Path, layout: Layout, **wish: object) -> CloneReport:
    asked = CloneWish(
        **{"disks": (disk.path,), "layout": layout, "node_name": "node07", **wish}  # type: ignore[arg-type]
    )
    return clone_onto_disk(
        asked, FolderImage(tree), confirm=lambda _plan: True, observer=NullObserver()
    )


def keys(disk: LoopDisk, folder: Path, partition: int) -> dict[str, bytes]:
    with disk.mounted(partition, folder) as root:
        return {path.name: path.read_bytes() for path in root.glob(KEYS)}


def old_disk(disk: LoopDisk, folder: Path, name: str = "node07") -> OldRoot:
    (facts,) = [one for one in probe_disks() if one.path == disk.path]
    folder.mkdir(exist_ok=True)
    return read_old_disks([probe_contents(facts)], folder, realm_id="realm", name=name)


@pytest.mark.parametrize("kind", [FsType.EXT4, FsType.XFS, FsType.BTRFS])
def test_a_node_that_is_cloned_again_keeps_its_host_keys(
    kind: FsType, tree: Path, tmp_path: Path
) -> None:
    layout = layout_of(("swap", FsType.SWAP, 16 * MIB, ""), ("root", kind, None, "/"))
    with loop_disk(tmp_path / "disk.img", 360 * MIB) as disk:
        first = clone(disk, tree, layout)
        assert disk.is_released()
        assert len(first.host_keys) == 3
        assert all(key.endswith(" (fresh)") for key in first.host_keys)
        old = keys(disk, tmp_path / "mnt", 2)
        assert set(old) == {f"ssh_host_{each}_key" for each in ("rsa", "ecdsa", "ed25519")}

        before = disk.digest()
        found = old_disk(disk, tmp_path / "look")
        assert {path.rsplit("/")[-1] for path in found.files} >= set(old)
        assert disk.digest() == before

        eth0 = Interface(name="eth0", addresses=("10.0.0.7/24",))
        said = NodeInventory(name="node07", interfaces=(eth0,))
        second = clone(disk, tree, layout, inventory=said, files=(MUNGE,))
        assert disk.is_released()
        assert keys(disk, tmp_path / "mnt", 2) == old
        assert set(second.host_keys) == {key.replace("fresh", "kept") for key in first.host_keys}
        assert second.machine_id == first.machine_id
        with disk.mounted(2, tmp_path / "mnt") as root:
            assert "10.0.0.7\tnode07\t" in (root / "etc/hosts").read_text()
            placed = (root / "etc/munge/munge.key").stat()
            assert (placed.st_uid, placed.st_gid, placed.st_mode & 0o777) == (64, 65, 0o400)
            assert "etc/munge/munge.key" in (root / "etc/nodectl/own-files").read_text().split()

        other = clone(disk, tree, layout, node_name="node08")
        assert any("the old disk was that of node07" in note for note in other.notes)
        assert keys(disk, tmp_path / "mnt", 2).keys() == old.keys()
        assert not keys(disk, tmp_path / "mnt", 2).items() & old.items()
        assert "(fresh)" in clone(disk, tree, layout, node_name="node08", keep=False).host_keys[0]


@pytest.mark.parametrize("kind", [FsType.EXT4, FsType.XFS, FsType.BTRFS])
def test_an_old_disk_that_lost_power_is_not_changed_by_the_look(
    kind: FsType, tree: Path, tmp_path: Path
) -> None:
    """A copy of a disk under a mounted filesystem: its journal wants to be replayed."""
    layout = layout_of(("root", kind, None, "/"))
    with loop_disk(tmp_path / "disk.img", 360 * MIB) as disk:
        clone(disk, tree, layout)
        with disk.partitions():
            mnt = tmp_path / "rw"
            mnt.mkdir()
            sh("mount", f"{disk.path}p1", mnt)
            (mnt / "etc/later").write_text("x")
            sh("sync")
            (mnt / "etc/unwritten").write_text("x")
            sh("cp", "--sparse=always", disk.path, tmp_path / "crashed.img")
            sh("umount", mnt)
    with loop_disk(tmp_path / "crashed.img", 0) as disk:
        before = disk.digest()
        found = old_disk(disk, tmp_path / "look")
        assert len(found.files) == 6, found.notes
        assert disk.digest() == before
        assert disk.is_released()


def test_what_cannot_be_read_is_a_note_and_stops_nothing(tree: Path, tmp_path: Path) -> None:
    """A filesystem whose blocks are gone behind an intact superblock."""
    with loop_disk(tmp_path / "disk.img", 96 * MIB) as disk:
        layout = layout_of(("root", FsType.EXT4, None, "/"))
        clone(disk, tree, layout)
        size = 40 * MIB
        with Path(disk.path).open("r+b") as file:
            file.seek(MIB + 4096)  # the group descriptors behind the first block
            file.write(b"\xff" * size)
        found = old_disk(disk, tmp_path / "look")
        assert found.files == {}
        report = clone(disk, tree, layout)
        assert any("nothing was kept" in note for note in report.notes)
        assert "(fresh)" in report.host_keys[0]
        assert disk.is_released()
