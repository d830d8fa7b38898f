"""Layouts that need device-mapper, md or vfat, made by the real tools; runs only in a guest.

The disks are those that tests/guest/test_disk_stack.py attaches. Everything is judged by another
look at the machine, or by a tool that nodectl did not use to make it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from facts_files import write_facts

from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan, PlanWish
from nodectl.disk.probe import probe_contents, probe_machine
from nodectl.disk.probe_stack import probe_stack
from nodectl.disk.survey import look_and_plan
from nodectl.disk.text import format_layout, parse_layout
from nodectl.errors import DiskBusy
from nodectl.events import Event, NullObserver, StepFinished
from nodectl.node.disk_layout import apply_layout, capture_layout

if not os.environ.get("NODECTL_IN_GUEST"):
    pytest.skip("runs only in a guest", allow_module_level=True)

KEY = Path("/etc/cryptsetup-keys.d/secret.key")
SERIALS = ("ONE", "TWO", "THREE", "FOUR")

STACK = """
schema = 2
name = "stack"

[[disk]]
id = "one"
match = { serial = "ONE" }

[[disk]]
id = "two"
match = { serial = "TWO" }

[[disk]]
id = "three"
match = { serial = "THREE" }
table = "mbr"

[[disk]]
id = "four"
match = { serial = "FOUR", sector = 4096 }
sector = 4096

[[partition]]
id = "esp"
disk = "one"
type = "esp"
size = "64MiB"

[[partition]]
id = "m1"
disk = "one"
type = "raid"
size = "rest"

[[partition]]
id = "m2"
disk = "two"
type = "raid"
size = "rest"

[[partition]]
id = "boot"
disk = "three"
type = "linux"
size = "48MiB"
flags = ["active"]

[[partition]]
id = "l1"
disk = "three"
type = "lvm"
size = "160MiB"
logical = true

[[partition]]
id = "l2"
disk = "three"
type = "swap"
size = "rest"
logical = true

[[partition]]
id = "b1"
disk = "four"
type = "linux"
size = { min = "128MiB" }

[[raid]]
id = "mirror"
level = "raid1"
devices = ["m1", "m2"]

[[luks]]
id = "secret"
device = "mirror"
key_file = "/etc/cryptsetup-keys.d/secret.key"
pbkdf = "pbkdf2"
cipher = "aes-xts-plain64"
key_bits = 512
sector = 512

[[volume_group]]
id = "vg0"
devices = ["secret"]

[[volume_group]]
id = "vg1"
devices = ["l1"]

[[logical_volume]]
id = "root"
group = "vg0"
size = "40%"

[[logical_volume]]
id = "var"
group = "vg0"
size = "rest"

[[logical_volume]]
id = "pool"
group = "vg1"
kind = "thin-pool"
size = "100MiB"

[[logical_volume]]
id = "thin"
group = "vg1"
kind = "thin"
pool = "pool"
size = "400MiB"

[[filesystem]]
volume = "esp"
type = "vfat"
label = "ESP"
mount = "/boot/efi"

[[filesystem]]
volume = "boot"
type = "ext3"
label = "boot"
mount = "/boot"

[[filesystem]]
volume = "root"
type = "ext4"
label = "root"
mount = "/"

[[filesystem]]
volume = "var"
type = "ext4"
mount = "/var"

[[filesystem]]
volume = "thin"
type = "xfs"
label = "thin"
mount = "/thin"

[[filesystem]]
volume = "l2"
type = "swap"

[[filesystem]]
volume = "b1"
type = "btrfs"
label = "data"
subvolumes = [{ path = "@data", mount = "/data" }, { path = "@home", mount = "/home" }]
"""

PLAIN = "schema = 2\n" + "".join(
    f'[[disk]]\nid = "{name}"\nmatch = {{ serial = "{name}" }}\nrole = "data"\n'
    f'[[partition]]\nid = "p{name}"\ndisk = "{name}"\ntype = "linux"\nsize = "rest"\n'
    f'[[filesystem]]\nvolume = "p{name}"\ntype = "ext4"\n'
    for name in SERIALS
)

# Each thing once, for faults at its steps.
SMALL = """
schema = 2
disk = [{ id = "one", match = { serial = "ONE" } }, { id = "two", match = { serial = "THREE" } }]
partition = [
  { id = "m1", disk = "one", type = "raid", size = "rest" },
  { id = "m2", disk = "two", type = "raid", size = "rest" },
]
raid = [{ id = "mirror", level = "raid1", devices = ["m1", "m2"] }]
volume_group = [{ id = "vg0", devices = ["safe"] }]
logical_volume = [{ id = "root", group = "vg0", size = "rest" }]
filesystem = [{ volume = "root", type = "ext4", mount = "/" }]

[[luks]]
id = "safe"
device = "mirror"
pbkdf = "pbkdf2"
key_file = "/etc/cryptsetup-keys.d/secret.key"
"""


def sh(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stdout, done.stderr)
    return done.stdout


RECORDED = {
    "lsblk.json": "lsblk --json --bytes --output NAME,KNAME,MAJ:MIN,TYPE,SIZE,RO,RM,SERIAL,WWN,"
    "MODEL,VENDOR,TRAN,LOG-SEC,PHY-SEC,ROTA,HCTL",
    "sfdisk-gpt.json": "sfdisk --json /dev/vda",
    "sfdisk-mbr.json": "sfdisk --json /dev/sda",
    "sfdisk-4k.json": "sfdisk --json /dev/nvme0n1",
    "mdadm-export.txt": "mdadm --detail --export /dev/md/mirror",
    "lvs.json": "lvs --reportformat json --units b --nosuffix --options lv_name,vg_name,lv_path,"
    "lv_size,segtype,lv_uuid,pool_lv,stripes,stripe_size,lv_metadata_size,lv_active",
    "vgs.json": "vgs --reportformat json --units b --nosuffix --options vg_name,vg_uuid,"
    "vg_extent_size,vg_free",
    "pvs.json": "pvs --reportformat json --units b --nosuffix --options pv_name,vg_name",
    "luks.json": "cryptsetup luksDump --dump-json-metadata /dev/md/mirror",
    "wipefs.json": "wipefs --json /dev/vda",
    "dmsetup.txt": "dmsetup info --columns --noheadings --separator , --options name,uuid",
    "mountinfo.txt": "cat /proc/self/mountinfo",
}


def record() -> None:
    """Leave what the tools print for the tests that have no such devices."""
    for name, line in RECORDED.items():
        Path("/mnt/results", name).write_text(sh(*line.split()))
    machine = probe_machine()
    looked = [probe_contents(disk) for disk in machine.disks if disk.serial in SERIALS]
    write_facts(probe_stack(machine, looked), Path("/mnt/results/facts.json"))


def apply(text: str | Layout, observer: object = None) -> DiskPlan:
    layout = parse_layout(text) if isinstance(text, str) else text
    return apply_layout(
        layout,
        [],
        expect="",
        unmount=False,
        confirm=lambda _plan: True,
        observer=observer or NullObserver(),  # type: ignore[arg-type]
    )


def captured() -> tuple[Layout, tuple[str, ...]]:
    return capture_layout(SERIALS)


@pytest.fixture(autouse=True, scope="module")
def key() -> Iterator[None]:
    KEY.parent.mkdir(exist_ok=True)
    KEY.write_bytes(b"k" * 64)
    yield
    KEY.unlink()


def test_a_stack_of_everything_is_made() -> None:
    """md, LUKS2, LVM, thin volumes, vfat, an MBR with logical partitions, btrfs on 4Kn."""
    assert not apply(STACK).is_empty


def test_the_stack_is_sound_and_left_alone() -> None:
    found = json.loads(sh("lsblk", "--json", "--output", "NAME,TYPE,FSTYPE"))
    kinds = set()
    waiting = list(found["blockdevices"])
    while waiting:
        each = waiting.pop()
        kinds.add((each["type"], each["fstype"]))
        waiting += each.get("children", [])
    assert {
        ("raid1", "crypto_LUKS"),
        ("crypt", "LVM2_member"),
        ("lvm", "ext4"),
        ("lvm", "xfs"),
    } <= kinds
    assert {("part", "vfat"), ("part", "swap"), ("part", "btrfs"), ("part", "ext3")} <= kinds
    sh("fsck.vfat", "-n", "/dev/disk/by-label/ESP")
    for volume in ("root", "var"):
        sh("e2fsck", "-f", "-n", f"/dev/vg0/{volume}")
    sh("xfs_repair", "-n", "/dev/vg1/thin")
    sh("btrfs", "check", "--readonly", "/dev/disk/by-label/data")
    record()
    again = look_and_plan(parse_layout(STACK), [], PlanWish(keep_equal=True))
    assert again.is_empty, [each.describe() for each in again.steps]


def test_what_is_captured_makes_the_same_on_empty_disks() -> None:
    first, remarks = captured()
    assert [each for each in remarks if not each.startswith("the key of")] == []
    assert {each.id for each in first.logical_volumes} == {"root", "var", "pool", "thin"}
    assert [each.level for each in first.raids] == ["raid1"]
    assert [part.logical for part in first.partitions if part.disk == "disk3"]
    # Another layout over all of them first, so that nothing of the old one can be taken for new.
    plain = parse_layout(PLAIN)
    apply(plain)
    assert look_and_plan(plain, [], PlanWish(keep_equal=True)).is_empty
    apply(first)
    second, _ = captured()
    assert format_layout(second) == format_layout(first)


def test_a_disk_that_an_array_also_stands_on_is_not_torn_out_of_it() -> None:
    only_one = """
schema = 2
[[disk]]
id = "one"
match = { serial = "ONE" }
role = "data"
[[partition]]
id = "p"
disk = "one"
type = "linux"
size = "rest"
"""
    with pytest.raises(DiskBusy, match="also stands on /dev/vd"):
        look_and_plan(parse_layout(only_one), [], PlanWish())


# What only md, LUKS and LVM have; the steps of plain partitions are in
# tests/integration/test_disk_faults.py.
KILLED_AFTER = (
    "make raid1 /dev/md/mirror",
    "encrypt ",
    "open ",
    "make /dev/mapper/safe a physical volume",
    "make volume group",
    "make linear volume",
    "format ",
    "mark ",
)


def test_a_run_that_is_killed_after_any_step_is_converged_by_the_next() -> None:
    """Each run begins with what the one before left assembled, and comes further than that."""
    apply(PLAIN)
    for words in KILLED_AFTER:
        assert killed_after(words), f"no step begins with {words!r}"
    apply(SMALL)
    assert look_and_plan(parse_layout(SMALL), [], PlanWish(keep_equal=True)).is_empty
    sh("e2fsck", "-f", "-n", "/dev/vg0/root")


class _Killer:
    """Ends its own process after the step that begins with these words."""

    def __init__(self, words: str) -> None:
        self._words = words

    def on(self, event: Event) -> None:
        if isinstance(event, StepFinished) and event.step.startswith(self._words):
            os.kill(os.getpid(), signal.SIGKILL)


def killed_after(words: str) -> bool:
    """Apply in a child that is killed after a step; False: it came to its end before."""
    pid = os.fork()
    if not pid:
        try:
            apply(SMALL, _Killer(words))
        except BaseException as exc:  # noqa: BLE001 - the child must not go on as a test
            sys.stderr.write(f"child: {exc}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}, f"the run to be killed after {words!r} failed"
    return status != 0
