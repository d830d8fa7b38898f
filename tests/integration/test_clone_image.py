"""A captured image onto a loop disk: the store's restore and verify, and rsync's judgement."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from disk_samples import layout_of
from loop_disks import MIB, LoopDisk, loop_disk
from trees import make_everything, rsync_differences

from nodectl.content.capture import CaptureOptions, capture_tree
from nodectl.content.frame import FrameCodec
from nodectl.content.restore import RestoreOptions, restore_tree
from nodectl.content.tree import TreeManifest
from nodectl.content.verify import verify_tree
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout
from nodectl.events import NullObserver, Observer
from nodectl.node.clone import CloneReport, CloneWish, FillResult, clone_onto_disk
from nodectl.store.disk import DiskStore
from nodectl.trust.keys import RealmKey

pytestmark = pytest.mark.root

CODEC = FrameCodec(RealmKey(secret=b"k" * 32).content_keys())
QUIET = NullObserver()


@dataclass
class StoredImage:
    """An image whose frames are all in a store on this machine."""

    manifest: TreeManifest
    folder: Path
    realm_id: str = "realm"
    kept_bytes: int = 0
    node_name: str = "node"

    @property
    def plain_bytes(self) -> int:
        return self.manifest.block.plain_bytes

    def open_store(self) -> DiskStore:
        return DiskStore(self.folder, catch_up=False)

    def restore(self, target: Path, observer: Observer) -> FillResult:
        report = restore_tree(self.manifest, target, self.open_store, RestoreOptions(), observer)
        return FillResult(entries=report.entries, plain_bytes=report.written_bytes)

    def verify(
        self, target: Path, *, ignored: frozenset[str], extra: frozenset[str]
    ) -> Sequence[str]:
        report = verify_tree(self.manifest, target, self.open_store, QUIET)
        allowed = ignored | extra
        return [str(each) for each in report.differences if os.fsdecode(each.path) not in allowed]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "tree"
    path.mkdir()
    make_everything(path)
    (path / "etc").mkdir()
    (path / "etc/fstab").write_text("UUID=old / xfs defaults 0 0\n")
    return path


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoredImage]:
    folder = tmp_path_factory.mktemp("state") / "store"
    with DiskStore(folder) as store:
        report = capture_tree(tree, store, CODEC, CaptureOptions(), QUIET)
        yield StoredImage(TreeManifest.open(report.root, store, CODEC), folder)


def clone(disk: LoopDisk, layout: Layout, image: StoredImage) -> CloneReport:
    wish = CloneWish(disks=(disk.path,), layout=layout, node_name="node07")
    return clone_onto_disk(wish, image, confirm=lambda _plan: True, observer=QUIET)


@pytest.mark.parametrize("kind", [FsType.EXT4, FsType.XFS, FsType.BTRFS])
def test_everything_arrives_on_a_disk(
    kind: FsType, image: StoredImage, tree: Path, tmp_path: Path
) -> None:
    layout = layout_of(("swap", FsType.SWAP, 16 * MIB, ""), ("root", kind, None, "/"))
    with loop_disk(tmp_path / "disk.img", 480 * MIB) as disk:
        report = clone(disk, layout, image)
        assert report.verified
        assert report.plain_bytes > 0
        with disk.mounted(2, tmp_path / "mnt") as root:
            differing = [
                line
                for line in rsync_differences(tree, root)
                if not any(name in line for name in ("etc/", "lost+found"))
            ]
            assert differing == []
            holes = (root / "all-hole").stat()
            assert (holes.st_size, holes.st_blocks) == (10 * MIB, 0)


def test_filesystems_beneath_and_where_the_image_has_no_folder(
    image: StoredImage, tree: Path, tmp_path: Path
) -> None:
    """/a-b is the image's, /srv/new is only the layout's."""
    layout = layout_of(
        ("ab", FsType.EXT4, 16 * MIB, "/a-b"),
        ("new", FsType.EXT4, 16 * MIB, "/srv/new"),
        ("root", FsType.EXT4, None, "/"),
    )
    with loop_disk(tmp_path / "disk.img", 160 * MIB) as disk:
        report = clone(disk, layout, image)
        assert set(report.filesystems) == {"/", "/a-b", "/srv/new"}
        with disk.mounted(1, tmp_path / "mnt") as inner:
            assert (inner / "f").read_text() == (tree / "a-b/f").read_text()
        with disk.mounted(3, tmp_path / "mnt") as root:
            assert (root / "srv/new").is_dir()
            fstab = (root / "etc/fstab").read_text()
    assert [line.split()[1] for line in fstab.splitlines() if line.startswith("UUID")] == [
        "/",
        "/a-b",
        "/srv/new",
    ]
