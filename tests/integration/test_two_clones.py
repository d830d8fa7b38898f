"""Two clones of one image are two nodes, and a node that is cloned again is the same node.

Each row of the identity table is held against real clones, made by real processes on loop disks; a
row that cannot be seen there says where it is.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Commands
from loop_disks import MIB, LoopDisk, loop_disk, make_tree

from nodectl.identity.rows import ROWS

pytestmark = [pytest.mark.root, pytest.mark.slow]

GOLDEN = "of the golden machine\n"


@dataclass(frozen=True, kw_only=True)
class Clone:
    """What stands on a clone's disk: path -> content, of all regular files."""

    files: dict[str, bytes]
    uuid: str

    def has(self, start: str) -> dict[str, bytes]:
        return {path: data for path, data in self.files.items() if path.startswith(start)}


@dataclass(frozen=True, kw_only=True)
class Clones:
    one: Clone  # node07
    other: Clone  # node08, of the same image
    again: Clone  # node07, cloned again onto the same disk


Check = Callable[[Clones], None]


def _derived(*paths: str) -> Check:
    """Return a check that the files differ between nodes, and never between deployments."""

    def check(clones: Clones) -> None:
        for path in paths:
            assert clones.one.files[path] != clones.other.files[path], path
            assert clones.one.files[path] == clones.again.files[path], path

    return check


def _host_keys(clones: Clones) -> None:
    one, other, again = (
        {path: data for path, data in each.has("etc/ssh/ssh_host_").items() if "pub" not in path}
        for each in (clones.one, clones.other, clones.again)
    )
    assert len(one) == 3
    assert one == again
    assert not set(one.values()) & set(other.values())


def _random_seed(clones: Clones) -> None:
    path = "var/lib/systemd/random-seed"
    seeds = {each.files[path] for each in (clones.one, clones.other, clones.again)}
    assert len(seeds) == 3


def _network(clones: Clones) -> None:
    one, other = (
        b"".join(each.has("etc/systemd/network/").values()) for each in (clones.one, clones.other)
    )
    assert (b"10.0.0.7/24" in one, b"10.0.0.8/24" in other) == (True, True)
    assert (b"10.0.0.8" in one, b"10.0.0.99" in one) == (False, False)  # the image had .99


def _names_of_cards(clones: Clones) -> None:
    assert b"52:54:00:00:00:07" in b"".join(clones.one.has("etc/systemd/network/").values())
    assert b"52:54:00:00:00:08" in b"".join(clones.other.has("etc/systemd/network/").values())


def _filesystems(clones: Clones) -> None:
    assert clones.one.uuid != clones.other.uuid
    for each in (clones.one, clones.other, clones.again):
        assert each.uuid.encode() in each.files["etc/fstab"]


def _hosts(clones: Clones) -> None:
    assert b"node07" in clones.one.files["etc/hosts"]
    assert b"node08" not in clones.one.files["etc/hosts"]
    assert b"10.0.0.8\tnode08" in clones.other.files["etc/hosts"]


def _of_the_image(path: str) -> Check:
    def check(clones: Clones) -> None:
        assert clones.one.files[path] == clones.other.files[path] == b"of the image\n"

    return check


def _only_sealed(_clones: Clones) -> None:
    """What is left out of the image is looked at for every row; this one has no more."""


CHECKS: dict[str, Check | str] = {
    "hostname": _derived("etc/hostname"),
    "machine-id": _derived("etc/machine-id"),
    "SSH host keys": _host_keys,
    "network configuration": _network,
    "names of network cards": _names_of_cards,
    "DHCP leases and client ids": _only_sealed,
    "ids of filesystems, partitions, md, LVM and LUKS": _filesystems,
    "fstab": _filesystems,
    "boot loader and its entries": "tests/guest/test_boot.py: each clone's menu has its own root",
    "initramfs": "tests/guest/test_boot.py: made anew for a root on RAID and on LUKS",
    "random seed": _random_seed,
    "credential secret of systemd": _only_sealed,
    "iSCSI initiator name": _derived("etc/iscsi/initiatorname.iscsi"),
    "NVMe host NQN and id": _derived("etc/nvme/hostnqn", "etc/nvme/hostid"),
    "InfiniBand node description, IPoIB client id": "no such card here; follows the host name",
    "BMC, RAID controller and firmware settings": "in no file of a system",
    "hosts file": _hosts,
    "secrets of a group": "test_site_files.py: a clone gets its group's; none is in an image",
    "site files": "test_site_files.py: filled in for each node",
    "enrolment with other services": _only_sealed,
    "ids of telemetry and of overlay networks": _only_sealed,
    "subscription ids": _only_sealed,
    "cloud-init's instance": _only_sealed,
    "logs, mail and histories": _only_sealed,
    "time zone, locale, console": _of_the_image("etc/timezone"),
    "SELinux labels": "no SELinux here; tests/unit/identity/test_own.py has the types",
    "capabilities, ACLs, attributes, hard links, holes": "test_round_trip.py and test_demo.py",
}


def sealed_paths() -> dict[str, str]:
    """Return a file for each pattern that images leave out: path -> row."""
    return {
        pattern.strip("/").replace("*", "golden").replace("?", "1"): row.item
        for row in ROWS
        for pattern in row.sealed
    }


def golden_tree(root: Path) -> Path:
    make_tree(root)
    for path in sealed_paths():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.write_text(GOLDEN)
    others = {
        "etc/os-release": "ID=debian\n",
        "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
        "etc/ssh/sshd_config": "Port 22\n",
        "etc/timezone": "of the image\n",
        "etc/systemd/network/golden.network": "[Network]\nAddress=10.0.0.99/24\n",
        "usr/lib/systemd/systemd-networkd": "",
    }
    for path, text in others.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def look(disk: LoopDisk, folder: Path, uuid: str) -> Clone:
    with disk.mounted(1, folder) as root:
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and not path.is_symlink() and "nodectl/store" not in str(path)
        }
    return Clone(files=files, uuid=uuid)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clones]:
    folder = tmp_path_factory.mktemp("clones")
    commands = Commands(folder)
    try:
        yield made(folder, commands)
    finally:
        commands.end()


def made(folder: Path, commands: Commands) -> Clones:
    tree = golden_tree(folder / "tree")
    commands.ok("c", "init", "--realm", "lab", "--node", "c", "--listen", "127.0.0.1:0")
    commands.ok("c", "image", "capture", "golden", "--tree", str(tree))
    commands.serve("c", "--controller")
    for number in (7, 8):
        card = f"eth0,mac=52:54:00:00:00:0{number},address=10.0.0.{number}/24"
        commands.ok("c", "node", "add", f"node0{number}", "--interface", card,
                    "--attribute", "network-renderer=networkd")  # fmt: skip
    found: list[Clone] = []
    with (
        loop_disk(folder / "one.img", 128 * MIB) as one,
        loop_disk(folder / "other.img", 128 * MIB) as other,
    ):
        for disk, name in ((one, "node07"), (other, "node08"), (one, "node07")):
            words = ("--disk", disk.path, "--hostname", name, "--yes", "--json")
            report = json.loads(commands.ok("c", "clone", "golden", *words).splitlines()[-1])
            found.append(look(disk, folder / "mnt", report["filesystems"]["/"]))
    first, second, third = found
    return Clones(one=first, other=second, again=third)


def test_every_row_is_here() -> None:
    assert set(CHECKS) == {row.item for row in ROWS}


@pytest.mark.parametrize("item", [item for item, check in CHECKS.items() if callable(check)])
def test_a_row_of_the_identity(item: str, clones: Clones) -> None:
    check = CHECKS[item]
    assert callable(check)
    check(clones)
    for path in [path for path, row in sealed_paths().items() if row == item]:
        for each in (clones.one, clones.other, clones.again):
            assert GOLDEN.encode() not in each.files.get(path, b""), path


def test_nothing_of_the_golden_machine_is_anywhere(clones: Clones) -> None:
    for each in (clones.one, clones.other, clones.again):
        assert [path for path, data in each.files.items() if GOLDEN.encode() in data] == []
    assert os.geteuid() == 0
