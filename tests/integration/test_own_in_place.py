"""A restore in place leaves a node what makes it itself, and does not bring the image's back."""

from pathlib import Path

from inventory_samples import NODES

from nodectl.content.capture import CaptureOptions, capture_tree
from nodectl.content.frame import FrameCodec
from nodectl.content.restore import RestoreOptions, restore_tree
from nodectl.content.tree import TreeManifest
from nodectl.content.verify import verify_tree
from nodectl.events import NullObserver
from nodectl.identity.apply import apply_identity, check_identity
from nodectl.identity.own import Owner, plan_own
from nodectl.store.disk import DiskStore
from nodectl.trust.keys import RealmKey

CODEC = FrameCodec(RealmKey(secret=b"k" * 32).content_keys())
QUIET = NullObserver()


def test_a_node_stays_itself_over_a_restore_in_place(tmp_path: Path) -> None:
    golden, node = tmp_path / "golden", tmp_path / "node"
    for folder in ("etc/ssh", "etc/network", "etc/NetworkManager/system-connections", "usr/sbin"):
        (golden / folder).mkdir(parents=True)
    (golden / "etc/ssh/sshd_config").write_text("Port 22\n")
    (golden / "etc/ssh/ssh_host_dsa_key").write_text("golden\n")
    (golden / "etc/hostname").write_text("golden\n")
    (golden / "etc/network/interfaces").write_text("auto golden\n")
    (golden / "usr/sbin/NetworkManager").write_text("")
    (golden / "etc/NetworkManager/system-connections/lan.nmconnection").write_text("golden\n")
    with DiskStore(tmp_path / "store") as store:
        captured = capture_tree(golden, store, CODEC, CaptureOptions(), QUIET)
        image = TreeManifest.open(captured.root, store, CODEC)

        def restore() -> None:
            restore_tree(image, node, lambda: DiskStore(store.folder), RestoreOptions(), QUIET)

        node.mkdir()
        restore()
        owner = Owner(realm_id="realm", name="node07", inventory=NODES["everything"])
        plan = plan_own(node, owner)
        apply_identity(node, plan)
        (node / "usr/sbin/drifted").write_text("x")
        restore()
        check_identity(node, plan)
        assert not (node / "usr/sbin/drifted").exists()
        assert not (node / "etc/network/interfaces").exists()
        report = verify_tree(image, node, lambda: DiskStore(store.folder), QUIET)
        assert [str(one) for one in report.differences] == []
