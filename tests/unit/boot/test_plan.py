"""Facts and texts of a tree -> steps, for the kinds of systems and places that there are."""

from dataclasses import replace

import pytest
from unit.boot.test_tree import DEBIAN, EL, ESP, KERNEL, PLACE, RHEL

from nodectl.boot.model import Loader, TreeFacts
from nodectl.boot.plan import (
    CopyLoader,
    RemoveFile,
    RunInside,
    TreeTexts,
    WriteText,
    plan_boot,
)
from nodectl.boot.tree import tree_facts, tree_mistakes

ID = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
TEXTS = TreeTexts(os_id="debian", machine_id=ID, files={}, missing_drivers={})
WHERE = "--efi-directory=/boot/efi --bootloader-id=debian"
FLAGS = "--no-nvram --recheck --no-floppy --force-extra-removable"
DRACUT = f"dracut --force --no-hostonly --kver {EL} /boot/initramfs-{EL}.img"
DEB, ROCKY = tree_facts(DEBIAN), tree_facts(RHEL)


def commands(facts: TreeFacts, texts: TreeTexts = TEXTS, place: object = PLACE) -> list[str]:
    steps = plan_boot(facts, texts, place).steps  # type: ignore[arg-type]
    return [" ".join(each.argv) for each in steps if isinstance(each, RunInside)]


def texts(**files: str) -> TreeTexts:
    return replace(TEXTS, files={path.replace("__", "/"): text for path, text in files.items()})


def test_debian_on_uefi_and_bios() -> None:
    plan = plan_boot(DEB, TEXTS, PLACE)
    assert commands(DEB) == [
        "grub-install --target=i386-pc --recheck --no-floppy /dev/sda",
        f"grub-install --target=x86_64-efi {WHERE} {FLAGS}",
        "env GRUB_DISABLE_OS_PROBER=true grub-mkconfig --output=/boot/grub/grub.cfg",
    ]
    # It would put the disk before the network at the first boot.
    assert RemoveFile(path="boot/efi/EFI/BOOT/fbx64.efi") in plan.steps
    assert (plan.loader, plan.label) == (Loader.SHIM_GRUB, "debian")
    assert plan.files == ("boot/efi/EFI/debian/shimx64.efi", "boot/efi/EFI/BOOT/BOOTX64.EFI")


def test_ubuntu_has_a_folder_of_its_own() -> None:
    plan = plan_boot(DEB, replace(TEXTS, os_id="ubuntu"), PLACE)
    assert plan.file == "EFI/ubuntu/shimx64.efi"


def test_each_disk_of_a_mirror_gets_a_loader_of_its_own() -> None:
    second = replace(ESP, disk="/dev/sdb", mount="/boot/efi2")
    place = replace(PLACE, bios_disks=("/dev/sda", "/dev/sdb"), esps=(ESP, second))
    found = commands(DEB, place=place)
    assert [each.split()[-1] for each in found[-5:-3]] == ["/dev/sda", "/dev/sdb"]
    assert [f"--efi-directory={each.mount}" in found[-3 + n] for n, each in enumerate(place.esps)]
    assert "boot/efi2/EFI/BOOT/BOOTX64.EFI" in plan_boot(DEB, TEXTS, place).files


@pytest.mark.parametrize("stack", ["md", "lvm", "luks"])
def test_a_root_on_something_needs_an_initramfs_that_knows_it(stack: str) -> None:
    place = replace(PLACE, stack=frozenset({stack}))
    assert commands(DEB, place=place)[0] == f"update-initramfs -u -k {KERNEL}"


def test_a_driver_that_is_missing_is_added_before_the_rebuild() -> None:
    lacking = replace(
        TEXTS,
        files={"etc/initramfs-tools/modules": "loop\n"},
        missing_drivers={KERNEL: frozenset({"nvme"})},
    )
    steps = plan_boot(DEB, lacking, PLACE).steps
    assert isinstance(steps[0], WriteText)
    assert steps[0].path == "etc/initramfs-tools/modules"
    assert steps[0].text.startswith("loop\n")
    assert steps[0].text.endswith("\nnvme\n")
    assert commands(DEB, lacking)[0] == f"update-initramfs -u -k {KERNEL}"


def test_a_kernel_without_initramfs_gets_one() -> None:
    facts = replace(DEB, initramfs=frozenset())
    assert commands(facts)[0] == f"update-initramfs -c -k {KERNEL}"


def test_a_stale_resume_is_taken_out_and_the_initramfs_made_anew() -> None:
    stale = texts(**{"etc__initramfs-tools__conf.d__resume": "RESUME=UUID=old\n"})
    steps = plan_boot(DEB, stale, PLACE).steps
    assert steps[0] == WriteText(path="etc/initramfs-tools/conf.d/resume", text="RESUME=none\n")
    assert commands(DEB, stale)[0].startswith("update-initramfs")


def test_what_is_right_already_is_not_written() -> None:
    right = texts(**{
        "etc__initramfs-tools__conf.d__resume": "RESUME=UUID=swap\n",
        "etc__default__grub": 'GRUB_CMDLINE_LINUX="quiet"\n',
    })  # fmt: skip
    steps = plan_boot(DEB, right, replace(PLACE, swap_uuid="swap")).steps
    assert not [each for each in steps if isinstance(each, WriteText)]
    assert "update-initramfs" not in " ".join(
        commands(DEB, right, replace(PLACE, swap_uuid="swap"))
    )


def test_a_map_of_other_disks_goes() -> None:
    steps = plan_boot(DEB, texts(**{"boot__grub__device.map": "(hd0) /dev/sdx\n"}), PLACE).steps
    assert RemoveFile(path="boot/grub/device.map") in steps


def test_rhel_never_makes_an_unsigned_loader_for_uefi() -> None:
    plan = plan_boot(ROCKY, TEXTS, PLACE)
    assert commands(ROCKY) == [
        "grub2-install --target=i386-pc --recheck --no-floppy /dev/sda",
        "env GRUB_DISABLE_OS_PROBER=true grub2-mkconfig --output=/boot/grub2/grub.cfg",
    ]
    assert plan.file == "EFI/rocky/shimx64.efi"
    copies = [each for each in plan.steps if isinstance(each, CopyLoader)]
    assert copies[0] == CopyLoader(
        source="boot/efi/EFI/rocky/shimx64.efi", target="boot/efi/EFI/BOOT/BOOTX64.EFI"
    )
    configs = [each for each in plan.steps if isinstance(each, WriteText)]
    assert {each.path for each in configs} == {
        "boot/efi/EFI/rocky/grub.cfg", "boot/efi/EFI/BOOT/grub.cfg"
    }  # fmt: skip
    assert all("search.fs_uuid root-uuid root" in each.text for each in configs)


def test_rhel_entries_get_the_machine_id_and_the_root() -> None:
    entry = f"title x\noptions root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root\nmachine-id {OTHER}\n"
    files = {
        f"boot/loader/entries/{OTHER}-{EL}.conf": entry,
        f"boot/loader/entries/{OTHER}-0-rescue.conf": entry,
        "etc/kernel/cmdline": "root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root\n",
    }
    steps = plan_boot(ROCKY, replace(TEXTS, files=files), PLACE).steps
    new = f"title x\noptions root=UUID=root-uuid ro\nmachine-id {ID}\n"
    assert WriteText(path=f"boot/loader/entries/{ID}-{EL}.conf", text=new) in steps
    assert RemoveFile(path=f"boot/loader/entries/{OTHER}-{EL}.conf") in steps
    assert RemoveFile(path=f"boot/loader/entries/{OTHER}-0-rescue.conf") in steps
    assert WriteText(path="etc/kernel/cmdline", text="root=UUID=root-uuid ro\n") in steps


def test_rhel_a_root_on_something_is_found_by_dracut_itself() -> None:
    files = {f"boot/loader/entries/{ID}-{EL}.conf": "options root=UUID=old ro rd.lvm.lv=rl/root\n"}
    place = replace(PLACE, stack=frozenset({"lvm", "luks"}))
    steps = plan_boot(ROCKY, replace(TEXTS, files=files), place).steps
    text = "options root=UUID=root-uuid rd.auto=1 ro\n"
    assert WriteText(path=f"boot/loader/entries/{ID}-{EL}.conf", text=text) in steps


def test_entries_name_the_subvolume_that_is_the_root() -> None:
    place = replace(PLACE, root_subvolume="@", bios_disks=())
    files = {f"boot/loader/entries/{ID}-{EL}.conf": "options root=UUID=old rootflags=subvol=x ro\n"}
    steps = plan_boot(ROCKY, replace(TEXTS, files=files), place).steps
    text = "options root=UUID=root-uuid rootflags=subvol=@ ro\n"
    assert WriteText(path=f"boot/loader/entries/{ID}-{EL}.conf", text=text) in steps
    paths = [path for path in DEBIAN if "grub" not in path]
    facts = tree_facts([*paths, "usr/lib/systemd/boot/efi/systemd-bootx64.efi"])
    texts = [each.text for each in plan_boot(facts, TEXTS, place).steps
             if isinstance(each, WriteText)]  # fmt: skip
    assert any(
        "options root=UUID=root-uuid rootflags=subvol=@ ro quiet\n" in each for each in texts
    )


def test_rhel_a_missing_driver_ends_hostonly() -> None:
    lacking = replace(TEXTS, missing_drivers={EL: frozenset({"nvme"})})
    steps = plan_boot(ROCKY, lacking, PLACE).steps
    assert isinstance(steps[0], WriteText)
    assert 'hostonly="no"\nadd_drivers+=" nvme "\n' in steps[0].text
    assert commands(ROCKY, lacking)[0] == DRACUT


@pytest.mark.parametrize("stack", ["md", "lvm", "luks"])
def test_rhel_a_root_on_something_gets_an_initramfs_for_every_machine(stack: str) -> None:
    place = replace(PLACE, stack=frozenset({stack}))
    assert commands(ROCKY, place=place)[0] == DRACUT


def test_rhel_a_separate_boot_is_what_the_loader_looks_for() -> None:
    place = replace(PLACE, boot_is_separate=True, boot_uuid="boot-uuid")
    steps = plan_boot(ROCKY, TEXTS, place).steps
    (config,) = [each.text for each in steps if isinstance(each, WriteText)
                 and each.path == "boot/efi/EFI/rocky/grub.cfg"]  # fmt: skip
    assert "search.fs_uuid boot-uuid root" in config
    assert "set prefix=($root)'/grub2'" in config


def test_rhel_the_second_esp_gets_the_signed_files_of_the_first() -> None:
    second = replace(ESP, disk="/dev/sdb", mount="/boot/efi2")
    plan = plan_boot(ROCKY, TEXTS, replace(PLACE, esps=(ESP, second)))
    copies = {each.target: each.source for each in plan.steps if isinstance(each, CopyLoader)}
    first = "boot/efi/EFI/rocky"
    assert copies["boot/efi2/EFI/rocky/shimx64.efi"] == f"{first}/shimx64.efi"
    assert copies["boot/efi2/EFI/BOOT/BOOTX64.EFI"] == f"{first}/shimx64.efi"
    assert copies["boot/efi2/EFI/BOOT/grubx64.efi"] == f"{first}/grubx64.efi"
    assert RemoveFile(path="boot/efi2/EFI/BOOT/fbx64.efi") in plan.steps


def test_dracut_and_systemd_boot_go_together() -> None:
    paths = [path for path in RHEL if "boot/efi" not in path and "grub" not in path]
    facts = tree_facts([*paths, "usr/lib/systemd/boot/efi/systemd-bootx64.efi"])
    place = replace(PLACE, bios_disks=())
    assert tree_mistakes(facts, place) == ()
    plan = plan_boot(facts, replace(TEXTS, os_id="fedora"), place)
    copies = {each.target: each.source for each in plan.steps if isinstance(each, CopyLoader)}
    assert copies[f"boot/efi/{ID}/{EL}/linux"] == f"boot/vmlinuz-{EL}"
    assert copies[f"boot/efi/{ID}/{EL}/initrd"] == f"boot/initramfs-{EL}.img"


def test_systemd_boot_gets_kernels_and_entries_on_the_esp() -> None:
    paths = [path for path in DEBIAN if "grub" not in path]
    facts = tree_facts([*paths, "usr/lib/systemd/boot/efi/systemd-bootx64.efi"])
    plan = plan_boot(facts, TEXTS, replace(PLACE, bios_disks=()))
    assert commands(facts, place=replace(PLACE, bios_disks=())) == []
    written = {each.path: each.text for each in plan.steps if isinstance(each, WriteText)}
    entry = written[f"boot/efi/loader/entries/{ID}-{KERNEL}.conf"]
    assert f"linux /{ID}/{KERNEL}/linux\n" in entry
    assert "options root=UUID=root-uuid ro quiet\n" in entry
    targets = {each.target for each in plan.steps if isinstance(each, CopyLoader)}
    assert "boot/efi/EFI/BOOT/BOOTX64.EFI" in targets
    assert plan.file == "EFI/systemd/systemd-bootx64.efi"
    assert not plan.has_menu
