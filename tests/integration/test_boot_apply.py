"""A tree is made bootable by its own programs; each of them may fail, hang, lie or be killed.

The tree is small and its programs are scripts, so that every fault can be had; a real Debian is
booted in tests/guest.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from guest.system import cpio
from unit.boot.test_tree import ESP, PLACE

import nodectl.boot.plan
from nodectl.boot.apply import check_boot
from nodectl.boot.inside import entered
from nodectl.content.own_files import OWN_FILES
from nodectl.errors import BootFailed, CommandFailed, NodectlError, NotBootable, UnsafePath
from nodectl.events import NullObserver
from nodectl.node import boot_refresh
from nodectl.node.booting import make_bootable

pytestmark = pytest.mark.root

KERNEL = "6.1.0-test"
SHELL = ("/bin/sh", "/usr/bin/env", "/bin/cat", "/bin/mkdir", "/bin/sleep", "/bin/touch")
HERE = replace(PLACE, drivers=frozenset({"virtio_blk"}), bios_disks=("/dev/sda", "/dev/sdb"))
SCRIPTS = {
    "update-initramfs": f"cat /srv/initramfs >/boot/initrd.img-{KERNEL}",
    "grub-install": (
        'for word in "$@"; do last=$word; done; echo "$last" >>/srv/installed\n'
        'case "$1" in *efi) mkdir -p /boot/efi/EFI/debian /boot/efi/EFI/BOOT\n'
        "for f in debian/shimx64.efi BOOT/BOOTX64.EFI BOOT/fbx64.efi; do\n"
        "echo loader >/boot/efi/EFI/$f; done;; esac"
    ),
    "grub-mkconfig": (
        "[ -e /dev/disk/by-uuid/root-uuid ] || exit 3\n"
        f"echo 'linux /boot/vmlinuz-{KERNEL} root=UUID=root-uuid ro' >/boot/grub/grub.cfg"
    ),
}
MODULE = f"usr/lib/modules/{KERNEL}/kernel/drivers/block/virtio_blk.ko"


def make_tree(root: Path) -> Path:
    for name in ("dev", "proc", "sys", "run", "tmp", "etc", "srv", "boot/grub", "boot/efi"):
        (root / name).mkdir(parents=True)
    for program in SHELL:
        listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True)
        words = [word for word in listed.stdout.split() if word.startswith("/")]
        for path in (program, *words):
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_bytes(Path(path).read_bytes())
            (root / path[1:]).chmod(0o755)
    for name, text in SCRIPTS.items():
        script(root, name, text)
    for path in ("lib/grub/x86_64-efi/kernel.img", "lib/grub/i386-pc/kernel.img",
                 "lib/shim/shimx64.efi.signed", "lib/grub/x86_64-efi-signed/grubx64.efi.signed",
                 f"lib/modules/{KERNEL}/kernel/drivers/block/virtio_blk.ko"):  # fmt: skip
        (root / "usr" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "usr" / path).write_text("x")
    (root / f"usr/lib/modules/{KERNEL}/modules.dep").write_text(
        "kernel/drivers/block/virtio_blk.ko:\n"
    )
    (root / f"boot/vmlinuz-{KERNEL}").write_text("kernel")
    (root / "srv/initramfs").write_bytes(cpio({MODULE: (0o100644, b"x")}))
    (root / "etc/machine-id").write_text("0" * 32 + "\n")
    return root


def script(root: Path, name: str, text: str) -> None:
    path = root / "usr/sbin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


def boot(tree: Path) -> None:
    plan = make_bootable(tree, HERE, "/dev/null", NullObserver())
    check_boot(tree, plan, HERE)


def mounts(tree: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(tree) in line]


def test_all_of_it(tree: Path) -> None:
    boot(tree)
    installed = (tree / "srv/installed").read_text().splitlines()
    assert installed == ["/dev/sda", "/dev/sdb", "--force-extra-removable"]
    assert not (tree / "boot/efi/EFI/BOOT/fbx64.efi").exists()
    own = (tree / OWN_FILES).read_text().splitlines()
    assert f"boot/initrd.img-{KERNEL}" in own
    assert "boot/grub/grub.cfg" in own
    assert not [path for path in own if path.startswith("boot/efi")]
    assert mounts(tree) == []
    assert [list((tree / name).iterdir()) for name in ("dev", "proc", "sys", "run", "tmp")] == [
        []
    ] * 5


def test_doing_it_again_ends_the_same(tree: Path) -> None:
    boot(tree)
    first = (tree / "boot/grub/grub.cfg").read_bytes(), (tree / OWN_FILES).read_bytes()
    boot(tree)
    assert ((tree / "boot/grub/grub.cfg").read_bytes(), (tree / OWN_FILES).read_bytes()) == first


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_that_fails_is_named_and_a_second_run_converges(tree: Path, name: str) -> None:
    script(tree, name, "echo no space left on device >&2; exit 5")
    with pytest.raises(CommandFailed, match=rf"{name} .*status 5:\n {{2}}no space left") as caught:
        boot(tree)
    assert isinstance(caught.value, NodectlError)
    assert mounts(tree) == []
    script(tree, name, SCRIPTS[name])
    boot(tree)


def lose(path: str) -> Callable[[Path], None]:
    return lambda tree: (tree / path).unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: script(tree, "update-initramfs", "true"), "has no initramfs after"),
        (lambda tree: (tree / "srv/initramfs").write_bytes(cpio({})), "lacks virtio_blk"),
        (lambda tree: (tree / "srv/initramfs").write_bytes(b"070701 torn"), "is damaged"),
        (lambda tree: script(tree, "grub-install", "true"), "EFI/BOOT/BOOTX64.EFI should be there"),
        (lambda tree: script(tree, "grub-mkconfig", "true"), "no grub.cfg"),
        (
            lambda tree: script(
                tree, "grub-mkconfig", "echo 'linux /x root=/dev/sda2' >/boot/grub/grub.cfg"
            ),
            "does not start a kernel with root=UUID=root-uuid",
        ),
        (
            lambda tree: (tree / f"usr/lib/modules/{KERNEL}/modules.dep").write_text(""),
            "has no driver virtio_blk",
        ),
    ],
)
def test_a_program_that_says_done_and_did_nothing(
    tree: Path, change: Callable[[Path], None], said: str
) -> None:
    """Reported success that was not."""
    change(tree)
    with pytest.raises(BootFailed, match=said):
        boot(tree)


@pytest.mark.parametrize("name", ["grub-install", "update-initramfs"])
def test_a_tree_without_its_programs_is_refused_before_anything_runs(tree: Path, name: str) -> None:
    lose(f"usr/sbin/{name}")(tree)
    with pytest.raises(NotBootable):
        boot(tree)
    assert not (tree / "srv/installed").exists()


def test_a_program_that_hangs_is_killed_with_its_children(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodectl.boot.plan, "LOADER_TIMEOUT_S", 1.0)
    script(tree, "grub-install", "sleep 300 & sleep 300")
    with pytest.raises(CommandFailed, match=r"grub-install .*did not end within 1 s"):
        boot(tree)
    assert mounts(tree) == []


def test_what_a_program_leaves_running_ends_with_it(tree: Path) -> None:
    script(tree, "grub-install", SCRIPTS["grub-install"] + "\nsleep 300 &")
    boot(tree)  # the check on leftovers finds a process in the tree


def test_a_link_in_place_of_a_folder_leads_nowhere(tree: Path) -> None:
    (tree / "dev").rmdir()
    (tree / "dev").symlink_to("/etc")
    with pytest.raises(UnsafePath):
        boot(tree)


def test_nothing_of_the_tree_shows_outside_while_it_runs(tree: Path) -> None:
    with entered(tree, device="/dev/null", uuid="some-uuid") as inside:
        assert mounts(tree) == []
        done = inside.run(("cat", "/proc/self/mountinfo"), timeout=20)
        assert " / /dev " in done.stdout.decode().replace(str(tree), "")
        assert not (tree / "proc/self").exists()


KILLED = """
import sys
from pathlib import Path
from test_boot_apply import boot
boot(Path(sys.argv[1]))
"""


def test_kill_9_in_the_middle_leaves_no_mount_and_a_second_run_converges(tree: Path) -> None:
    script(tree, "grub-install", "touch /srv/begun; sleep 300")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tree)], env={**os.environ, "PYTHONPATH": paths}
    )
    try:
        deadline = time.monotonic() + 60
        while not (tree / "srv/begun").exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tree / "srv/begun").exists()
    assert mounts(tree) == []
    script(tree, "grub-install", SCRIPTS["grub-install"])
    boot(tree)


def test_an_esp_that_got_no_loader_is_noticed(tree: Path) -> None:
    (tree / "boot/efi2").mkdir()
    second = replace(ESP, disk="/dev/sdb", mount="/boot/efi2")
    place = replace(HERE, esps=(ESP, second))
    plan = make_bootable(tree, place, "/dev/null", NullObserver())
    assert plan.files[2:] == (
        "boot/efi2/EFI/debian/shimx64.efi", "boot/efi2/EFI/BOOT/BOOTX64.EFI"
    )  # fmt: skip
    with pytest.raises(BootFailed, match=r"boot/efi2/EFI/debian/shimx64\.efi"):
        check_boot(tree, plan, place)


# --- a restore in place brings another kernel ----------------------------------------------------

NEXT = "6.1.0-next"


def restored_with_another_kernel(tree: Path) -> None:
    """Do what a restore in place does to a clone: own files stay, the rest follows the image."""
    boot(tree)
    (tree / f"boot/vmlinuz-{KERNEL}").unlink()
    (tree / f"boot/vmlinuz-{NEXT}").write_text("kernel")
    (tree / f"usr/lib/modules/{KERNEL}").rename(tree / f"usr/lib/modules/{NEXT}")
    for name in ("update-initramfs", "grub-mkconfig"):
        script(tree, name, SCRIPTS[name].replace(KERNEL, NEXT))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boot_refresh, "_filesystem", lambda _root: ("/dev/null", "root-uuid"))


@pytest.mark.usefixtures("here")
def test_the_menu_follows_a_restore_in_place(tree: Path) -> None:
    restored_with_another_kernel(tree)
    assert boot_refresh.refresh_boot(tree, NullObserver()) == 3
    assert NEXT in (tree / "boot/grub/grub.cfg").read_text()
    assert (tree / f"boot/initrd.img-{NEXT}").exists()
    assert not (tree / f"boot/initrd.img-{KERNEL}").exists()
    assert f"boot/initrd.img-{NEXT}" in (tree / OWN_FILES).read_text().splitlines()
    assert boot_refresh.refresh_boot(tree, NullObserver()) == 0
    assert mounts(tree) == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("grub-mkconfig", "true", "the menu does not have kernel 6.1.0-next"),
        ("grub-mkconfig", "exit 4", "status 4"),
        ("update-initramfs", "true", "kernel 6.1.0-next has no initramfs"),
    ],
)
def test_a_menu_that_could_not_follow_is_said(tree: Path, name: str, text: str, said: str) -> None:
    restored_with_another_kernel(tree)
    script(tree, name, text)
    with pytest.raises(BootFailed, match=said) as caught:
        boot_refresh.refresh_boot(tree, NullObserver())
    assert "was restored, but what boots" in str(caught.value)
    script(tree, name, SCRIPTS[name].replace(KERNEL, NEXT))
    boot_refresh.refresh_boot(tree, NullObserver())
    assert NEXT in (tree / "boot/grub/grub.cfg").read_text()


def test_a_tree_that_no_clone_made_is_left_alone(tree: Path) -> None:
    (tree / "boot/grub/grub.cfg").write_text("linux /boot/vmlinuz-0 root=/dev/sda1")
    assert boot_refresh.refresh_boot(tree, NullObserver()) == 0
