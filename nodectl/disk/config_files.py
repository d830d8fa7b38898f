"""crypttab, mdadm.conf and the devices file of LVM for a cloned system, from its plan. Pure.

Sources: crypttab(5), mdadm.conf(5), lvmdevices(8). fstab is in `disk/fstab.py`.
"""

from collections.abc import Iterator, Mapping

from nodectl.disk.commands import md_uuid
from nodectl.disk.fstab import merge_fstab
from nodectl.disk.plan import DiskPlan
from nodectl.disk.plan_stack import PlannedVolume

FSTAB = "etc/fstab"
CRYPTTAB = "etc/crypttab"
MDADM_CONF = ("etc/mdadm/mdadm.conf", "etc/mdadm.conf")  # Debian's place, RHEL's place
LVM_DEVICES_FOLDER = "etc/lvm/devices"  # a system that has it uses such a list
LVM_DEVICES = f"{LVM_DEVICES_FOLDER}/system.devices"

# What `layout_files` wants to read of the image.
LAYOUT_FILES = (FSTAB, CRYPTTAB, *MDADM_CONF)

_HEADER = "# Volumes below were written by nodectl from the disk layout."


def layout_files(
    image: Mapping[str, str], folders: frozenset[str], plan: DiskPlan
) -> dict[str, str]:
    """Return the files that follow from the layout: path without leading "/" -> text.

    `image` has the texts of those among `LAYOUT_FILES` that are there, `folders` the folders. A
    file that neither the image nor the layout needs is not made.
    """
    files = {FSTAB: merge_fstab(image.get(FSTAB, ""), plan.filesystems, plan.layout.swap_files)}
    if plan.layout.luks or CRYPTTAB in image:
        files[CRYPTTAB] = merge_crypttab(image.get(CRYPTTAB, ""), plan)
    there = [path for path in MDADM_CONF if path in image]
    if plan.layout.raids or there:
        for path in there or MDADM_CONF[1:]:
            files[path] = merge_mdadm_conf(image.get(path, ""), plan)
    if plan.physical and LVM_DEVICES_FOLDER in folders:
        files[LVM_DEVICES] = lvm_devices(plan)
    return files


def lvm_devices(plan: DiskPlan) -> str:
    """Return the list of devices that LVM may use; it finds one that was renamed by its PVID."""
    lines = ["# LVM uses devices listed in this file.", "# Written by nodectl.", "VERSION=1.1.1"]
    for each in plan.physical:
        pvid = each.uuid.replace("-", "").lower()
        names = f"IDNAME={each.device} DEVNAME={each.device}"
        lines.append(f"IDTYPE=devname {names} PVID={pvid}")
    return "\n".join(lines) + "\n"


def merge_crypttab(old: str, plan: DiskPlan) -> str:
    """Return the crypttab of the clone: entries of the image that are not of its disks stay."""
    volumes = {each.id: each for each in plan.volumes}
    names = {luks.mapping for luks in plan.layout.luks}
    kept = [line for line in old.splitlines() if line != _HEADER and _stays(line, names)]
    lines = [
        f"{luks.mapping} UUID={volumes[luks.id].uuid} {luks.crypttab_key} "
        f"{','.join(luks.options) or 'luks'}"
        for luks in plan.layout.luks
    ]
    return "\n".join([*kept, _HEADER, *lines]) + "\n"


def _stays(line: str, names: set[str]) -> bool:
    """Say whether a line is no entry of a volume that stands on a disk of its own."""
    fields = line.split("#", 1)[0].split()
    if len(fields) < 2:  # noqa: PLR2004 - name and device
        return True
    return fields[0] not in names and not fields[1].startswith(("UUID=", "PARTUUID=", "/dev/"))


def merge_mdadm_conf(old: str, plan: DiskPlan) -> str:
    """Return the mdadm.conf of the clone: its own arrays instead of the image's."""
    kept: list[str] = []
    in_array = False
    for line in old.splitlines():
        # A line that begins with a space goes on with the one before: mdadm.conf(5).
        in_array = line.upper().startswith("ARRAY") or (in_array and line[:1] in {" ", "\t"})
        if not in_array and line != _HEADER:
            kept.append(line)
    return "\n".join([*kept, _HEADER, *_arrays(plan)]) + "\n"


def _arrays(plan: DiskPlan) -> Iterator[str]:
    volumes = {each.id: each for each in plan.volumes}
    for raid in plan.layout.raids:
        yield f"ARRAY /dev/md/{raid.array_name} metadata={raid.metadata} {_uuid(volumes[raid.id])}"


def _uuid(volume: PlannedVolume) -> str:
    return f"UUID={volume.uuid if ':' in volume.uuid else md_uuid(volume.uuid)}"
