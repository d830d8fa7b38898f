"""crypttab, mdadm.conf and the devices file of LVM of a clone follow its disks, not the image's."""

from disk_machines import disk
from disk_samples import counted_uuids

from nodectl.disk.choose import choose_disks
from nodectl.disk.config_files import CRYPTTAB, FSTAB, LVM_DEVICES, MDADM_CONF, layout_files
from nodectl.disk.facts import MachineFacts
from nodectl.disk.plan import DiskPlan, PlanWish, plan_layout
from nodectl.disk.text import parse_layout

LAYOUT = """
schema = 2
disk = [
  { id = "a", match = { serial = "SDA" }, table = "none" },
  { id = "b", match = { serial = "SDB" }, table = "none" },
]
raid = [{ id = "mirror", level = "raid1", devices = ["a", "b"], metadata = "1.0" }]
luks = [{ id = "safe", device = "mirror", key_file = "/k", options = ["discard"] }]
volume_group = [{ id = "vg0", devices = ["safe"] }]
logical_volume = [{ id = "root", group = "vg0", size = "rest" }]
filesystem = [{ volume = "root", type = "ext4", mount = "/" }]
"""
PLAIN = """
schema = 2
disk = [{ id = "a", match = { serial = "SDA" } }]
partition = [{ id = "root", disk = "a", type = "linux", size = "rest" }]
filesystem = [{ volume = "root", type = "ext4", mount = "/" }]
"""


def plan(text: str) -> DiskPlan:
    machine = MachineFacts(disks=(disk("/dev/sda"), disk("/dev/sdb")))
    layout = parse_layout(text)
    chosen = choose_disks(machine.disks, layout, {})
    return plan_layout(machine, layout, chosen, PlanWish(), counted_uuids())


def test_a_stack_is_written_into_all_of_them() -> None:
    made = plan(LAYOUT)
    volumes = {each.id: each.uuid for each in made.volumes}
    files = layout_files({}, frozenset({"etc/lvm/devices"}), made)
    assert set(files) == {FSTAB, CRYPTTAB, MDADM_CONF[1], LVM_DEVICES}
    assert f"safe UUID={volumes['safe']} none discard\n" in files[CRYPTTAB]
    digits = volumes["mirror"].replace("-", "")
    groups = ":".join(digits[at : at + 8] for at in (0, 8, 16, 24))
    assert files[MDADM_CONF[1]].endswith(f"ARRAY /dev/md/mirror metadata=1.0 UUID={groups}\n")
    assert f"PVID={made.physical[0].uuid.replace('-', '')}\n" in files[LVM_DEVICES]


def test_a_system_without_a_devices_file_gets_none() -> None:
    """Where LVM finds a list, it uses nothing else: RHEL 9 has one, others have not."""
    assert LVM_DEVICES not in layout_files({}, frozenset(), plan(LAYOUT))
    assert set(layout_files({}, frozenset({"etc/lvm/devices"}), plan(PLAIN))) == {FSTAB}


def test_what_the_image_says_of_its_own_disks_goes_and_the_rest_stays() -> None:
    image = {
        CRYPTTAB: "# mine\nold UUID=1 none\nsafe /dev/sda2 none\nswap LABEL=x /dev/urandom swap\n",
        MDADM_CONF[0]: "MAILADDR root\nARRAY /dev/md0 UUID=1\n  spares=1\nHOMEHOST <none>\n",
    }
    files = layout_files(image, frozenset(), plan(LAYOUT))
    kept = files[CRYPTTAB].splitlines()
    assert kept[:2] == ["# mine", "swap LABEL=x /dev/urandom swap"]
    assert sum("safe " in line for line in kept) == 1
    assert files[MDADM_CONF[0]].splitlines()[:2] == ["MAILADDR root", "HOMEHOST <none>"]
    assert "UUID=1" not in files[MDADM_CONF[0]]
    again = layout_files({**image, **files}, frozenset(), plan(LAYOUT))
    assert again == files
    gone = layout_files(image, frozenset(), plan(PLAIN))
    assert "safe" not in gone[CRYPTTAB]
    assert "ARRAY" not in gone[MDADM_CONF[0]]
