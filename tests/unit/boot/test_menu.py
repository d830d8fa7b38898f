"""A restore in place brought another kernel: what has to follow, as values."""

from dataclasses import replace

from nodectl.boot.menu import MenuFacts, menu_mistakes, named_kernels, plan_refresh
from nodectl.boot.model import Family
from nodectl.boot.plan import RemoveFile, RunInside

MENU = """
menuentry 'Debian' {
	linux	/boot/vmlinuz-6.1.0-1-amd64 root=UUID=aaaa ro quiet
	initrd	/boot/initrd.img-6.1.0-1-amd64
}
"""
OLD, NEW = "6.1.0-1-amd64", "6.1.0-2-amd64"
DEBIAN = MenuFacts(
    family=Family.DEBIAN, kernels=(OLD,), initramfs=frozenset({OLD}), menu=MENU, entries={},
    own=frozenset({"boot/grub/grub.cfg", "etc/fstab"}),
)  # fmt: skip
MKCONFIG = ("env", "GRUB_DISABLE_OS_PROBER=true", "grub-mkconfig", "--output=/boot/grub/grub.cfg")


def commands(facts: MenuFacts) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for step in plan_refresh(facts):
        match step:
            case RunInside():
                found.append(step.argv)
            case RemoveFile():
                found.append(("rm", step.path))
            case _:
                raise AssertionError(step)
    return found


def test_a_menu_that_agrees_is_left_alone() -> None:
    assert plan_refresh(DEBIAN) == ()
    assert named_kernels(DEBIAN) == {OLD}
    assert menu_mistakes(DEBIAN, "aaaa") == ()


def test_a_new_kernel_whose_initramfs_the_image_has_needs_the_menu_alone() -> None:
    facts = replace(DEBIAN, kernels=(NEW,), initramfs=frozenset({NEW}))
    assert commands(facts) == [MKCONFIG]
    assert menu_mistakes(facts, "aaaa") == (f"the menu does not have kernel {NEW}",)


def test_a_node_that_needed_an_initramfs_of_its_own_needs_it_again() -> None:
    """On RAID or LUKS the image's would not find the root."""
    own = DEBIAN.own | {f"boot/initrd.img-{OLD}"}
    facts = replace(DEBIAN, kernels=(NEW,), initramfs=frozenset({OLD, NEW}), own=own)
    assert commands(facts) == [
        ("update-initramfs", "-u", "-k", NEW),
        ("rm", f"boot/initrd.img-{OLD}"),
        MKCONFIG,
    ]


def test_a_kernel_without_any_initramfs() -> None:
    facts = replace(DEBIAN, kernels=(OLD, NEW))
    assert commands(facts) == [("update-initramfs", "-c", "-k", NEW), MKCONFIG]
    assert f"kernel {NEW} has no initramfs" in menu_mistakes(facts, "aaaa")


def test_a_kernel_that_is_gone_leaves_the_menu() -> None:
    facts = replace(DEBIAN, menu=MENU + MENU.replace("-1-", "-9-"))
    assert commands(facts) == [MKCONFIG]


def test_entries_of_a_rhel_tree_follow() -> None:
    old = "boot/loader/entries/abab-5.14.0-1.el9.conf"
    facts = MenuFacts(
        family=Family.RHEL, kernels=("5.14.0-2.el9",), initramfs=frozenset(), menu="blscfg\n",
        entries={old: "title Rocky\nlinux /vmlinuz-5.14.0-1.el9\n"},
        own=frozenset({"boot/grub2/grub.cfg", old}),
    )  # fmt: skip
    assert commands(facts) == [
        (
            "dracut",
            "--force",
            "--no-hostonly",
            "--kver",
            "5.14.0-2.el9",
            "/boot/initramfs-5.14.0-2.el9.img",
        ),
        ("rm", old),
        ("kernel-install", "add", "5.14.0-2.el9", "/lib/modules/5.14.0-2.el9/vmlinuz"),
        ("env", "GRUB_DISABLE_OS_PROBER=true", "grub2-mkconfig", "--output=/boot/grub2/grub.cfg"),
    ]


def test_a_menu_with_another_root_is_a_mistake() -> None:
    assert menu_mistakes(DEBIAN, "bbbb") == ("the menu does not name the root filesystem bbbb",)
