"""Texts that decide how a kernel starts, rid of the golden node's devices."""

import pytest

from nodectl.boot.texts import (
    entry_name,
    entry_options,
    esp_grub_config,
    fix_entry,
    fix_grub_defaults,
    kernel_options,
    names_root,
    resume_conf,
)

ID = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
ENTRY = (
    "title Rocky Linux (5.14.0-427.el9.x86_64) 9.4\nversion 5.14.0-427.el9.x86_64\n"
    "linux /vmlinuz-5.14.0-427.el9.x86_64\ninitrd /initramfs-5.14.0-427.el9.x86_64.img\n"
    "options root=/dev/mapper/rl-root ro crashkernel=1G resume=/dev/mapper/rl-swap "
    "rd.lvm.lv=rl/root rd.lvm.lv=rl/swap quiet\ngrub_class rocky\n"
)


def test_stale_words_go_and_the_rest_stays() -> None:
    text = (
        'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet resume=UUID=old splash"\n'
        "GRUB_CMDLINE_LINUX='rd.lvm.lv=rl/root console=ttyS0,115200'\n# GRUB_CMDLINE_LINUX=x\n"
    )
    assert fix_grub_defaults(text) == (
        'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT="quiet splash"\n'
        'GRUB_CMDLINE_LINUX="console=ttyS0,115200"\n# GRUB_CMDLINE_LINUX=x\n'
    )


@pytest.mark.parametrize(
    "line",
    [
        'GRUB_CMDLINE_LINUX="quiet"',
        'GRUB_CMDLINE_LINUX="$OTHER resume=x"',
        'GRUB_CMDLINE_LINUX="resume=x',
        "GRUB_CMDLINE_LINUX=a b",
        'GRUB_CMDLINE_LINUX="`resume=x`"',
    ],
)
def test_what_is_right_or_not_understood_stays_as_it_is(line: str) -> None:
    assert fix_grub_defaults(f"{line}\n") == f"{line}\n"


def test_entries_follow_the_machine_id_and_the_rescue_entry_goes() -> None:
    assert (
        entry_name(f"{OTHER}-5.14.0-427.el9.x86_64.conf", ID) == f"{ID}-5.14.0-427.el9.x86_64.conf"
    )
    assert entry_name(f"{OTHER}-0-rescue.conf", ID) is None
    assert entry_name("memtest.conf", ID) == "memtest.conf"


def test_an_entry_gets_the_new_root_and_keeps_what_is_no_device() -> None:
    options = kernel_options(entry_options(ENTRY), root_uuid="new")
    assert options == ["root=UUID=new", "ro", "crashkernel=1G", "quiet"]
    fixed = fix_entry(ENTRY, ID, options)
    assert "options root=UUID=new ro crashkernel=1G quiet\n" in fixed
    assert fixed.replace(" ".join(options), "") == ENTRY.replace(" ".join(entry_options(ENTRY)), "")


def test_the_subvolume_of_another_root_goes_and_the_new_one_comes() -> None:
    text = 'GRUB_CMDLINE_LINUX="rootflags=subvol=old quiet"\n'
    assert fix_grub_defaults(text) == 'GRUB_CMDLINE_LINUX="quiet"\n'
    old = ["root=UUID=old", "rootflags=subvolid=5,noatime,subvol=root", "ro"]
    assert kernel_options(old, root_uuid="new") == ["root=UUID=new", "rootflags=noatime", "ro"]
    new = kernel_options(old, root_uuid="new", root_subvolume="@")
    assert new == ["root=UUID=new", "rootflags=subvol=@,noatime", "ro"]
    assert kernel_options(new, root_uuid="new", root_subvolume="@") == new


def test_resume() -> None:
    assert resume_conf("") == "RESUME=none\n"
    assert resume_conf("abc") == "RESUME=UUID=abc\n"


def test_the_menu_must_start_the_root() -> None:
    menu = "menuentry 'x' {\n\tlinux\t/boot/vmlinuz root=UUID=new ro quiet\n}\n"
    assert names_root(menu, "new")
    assert not names_root(menu, "other")
    assert not names_root(menu.replace("UUID=new", "/dev/vda2"), "new")
    assert names_root(menu.replace("UUID=new", "/dev/mapper/vg0-root"), "new")
    assert not names_root("menuentry 'x' {\n}\n", "new")


def test_the_small_config_on_the_esp_leads_to_the_real_one() -> None:
    assert esp_grub_config("abc", "/grub2") == (
        "search.fs_uuid abc root\nset prefix=($root)'/grub2'\nconfigfile $prefix/grub.cfg\n"
    )
