"""What the names in an image tell about booting it."""

from dataclasses import replace

import pytest

from nodectl.boot.model import BootPlace, Esp, Family, Loader
from nodectl.boot.tree import tree_facts, tree_mistakes, uefi_loader

ESP = Esp(disk="/dev/sda", number=2, partuuid="aa", uuid="1234-ABCD", mount="/boot/efi")
PLACE = BootPlace(
    esps=(ESP,), bios_disks=("/dev/sda",), root_uuid="root-uuid", boot_uuid="root-uuid",
    boot_is_separate=False, stack=frozenset(), swap_uuid="", drivers=frozenset(),
)  # fmt: skip
FOLDERS = ["dev", "proc", "sys", "run", "tmp", "etc"]
KERNEL = "6.1.0-50-amd64"
DEBIAN = [
    *FOLDERS, f"boot/vmlinuz-{KERNEL}", f"boot/initrd.img-{KERNEL}",
    f"usr/lib/modules/{KERNEL}/modules.dep", "usr/sbin/update-initramfs", "usr/sbin/grub-install",
    "usr/sbin/grub-mkconfig", "usr/lib/grub/x86_64-efi/kernel.img",
    "usr/lib/grub/i386-pc/kernel.img",
    "usr/lib/shim/shimx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
]  # fmt: skip
EL = "5.14.0-427.el9.x86_64"
RHEL = [
    *FOLDERS, f"boot/vmlinuz-{EL}", "boot/vmlinuz-0-rescue-0123456789abcdef0123456789abcdef",
    f"boot/initramfs-{EL}.img", f"lib/modules/{EL}/modules.dep", f"usr/lib/modules/{EL}/vmlinuz",
    "usr/bin/dracut", "usr/sbin/grub2-install", "usr/sbin/grub2-mkconfig",
    "usr/lib/grub/i386-pc/kernel.img", "boot/efi/EFI/rocky/shimx64.efi",
    "boot/efi/EFI/BOOT/BOOTX64.EFI",
]  # fmt: skip


def test_a_debian_tree() -> None:
    facts = tree_facts(DEBIAN)
    assert (facts.family, facts.kernels) == (Family.DEBIAN, (KERNEL,))
    assert facts.initramfs == {KERNEL}
    assert uefi_loader(facts) is Loader.SHIM_GRUB
    assert tree_mistakes(facts, PLACE) == ()


def test_a_rhel_tree_and_its_rescue_kernel() -> None:
    facts = tree_facts(RHEL)
    assert (facts.family, facts.kernels, facts.esp_vendors) == (Family.RHEL, (EL,), ("rocky",))
    assert tree_mistakes(facts, PLACE) == ()


def test_without_the_signed_files_grub_alone_is_the_loader() -> None:
    assert uefi_loader(tree_facts([p for p in DEBIAN if "shim" not in p])) is Loader.GRUB


def test_systemd_boot_is_taken_where_there_is_no_grub() -> None:
    paths = [path for path in DEBIAN if "grub" not in path]
    paths.append("usr/lib/systemd/boot/efi/systemd-bootx64.efi")
    assert uefi_loader(tree_facts(paths)) is Loader.SYSTEMD_BOOT


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("vmlinuz", "no kernel"),
        ("modules.dep", f"no modules for kernel {KERNEL}"),
        ("update-initramfs", "neither update-initramfs nor dracut"),
        ("x86_64-efi", "no loader for UEFI"),
        ("i386-pc", "no GRUB for BIOS"),
        ("grub-install", "no loader for UEFI"),
        ("proc", "it lacks /proc"),
    ],
)
def test_what_is_missing_is_named(gone: str, said: str) -> None:
    facts = tree_facts(path for path in DEBIAN if gone not in path)
    assert any(said in each for each in tree_mistakes(facts, PLACE))


def test_all_mistakes_are_named_at_once() -> None:
    assert len(tree_mistakes(tree_facts(["home/user/data"]), PLACE)) == 5


def test_a_layout_for_uefi_needs_no_grub_for_bios() -> None:
    facts = tree_facts(path for path in DEBIAN if "i386-pc" not in path)
    assert tree_mistakes(facts, replace(PLACE, bios_disks=())) == ()


def test_a_rhel_tree_without_its_esp_is_refused() -> None:
    facts = tree_facts(path for path in RHEL if "boot/efi" not in path)
    assert any("capture /boot/efi" in each for each in tree_mistakes(facts, PLACE))
