"""The small Debian that guests run, kept outside the repository and made again when it is absent.

`debian_system()` returns a folder with `root.ext4` (a bookworm made by debootstrap, with a kernel,
boot loaders, the programs for disks, Python and the libraries of nodectl), `vmlinuz` and `stage1`
(an archive with busybox and the modules that find a disk). It depends on nothing of this machine
but Debian's mirror and pip; whatever is in `_recipe` changes its name, so that an old one is never
taken.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

# Read before the test run gets a home of its own.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nodectl-tests"
_MIRROR = os.environ.get("NODECTL_TEST_MIRROR", "http://deb.debian.org/debian")

_PACKAGES = (
    "systemd-sysv", "udev", "kmod", "dbus", "iproute2", "procps", "python3",
    "linux-image-cloud-amd64", "initramfs-tools", "busybox-static", "zstd",
    "grub-pc-bin", "grub-efi-amd64-bin", "grub-efi-amd64-signed", "shim-signed", "grub2-common",
    "systemd-boot-efi", "efibootmgr",
    "mdadm", "lvm2", "cryptsetup", "cryptsetup-initramfs", "thin-provisioning-tools",
    "dosfstools", "e2fsprogs", "xfsprogs", "btrfs-progs", "fdisk",
)  # fmt: skip

# Nothing that a guest of ours needs; what is left is copied by every clone.
_PRUNED = (
    "usr/share/doc/*", "usr/share/man/*", "usr/share/info/*", "usr/share/locale/*",
    "usr/share/bash-completion/*", "usr/share/zoneinfo/*", "usr/lib/python3.11/test/*",
    "var/cache/apt/*", "var/lib/apt/lists/*", "usr/lib/x86_64-linux-gnu/perl/*/*",
    "usr/lib/modules/*/kernel/net/*", "usr/lib/modules/*/kernel/drivers/infiniband",
    "usr/lib/modules/*/kernel/drivers/gpu", "usr/lib/modules/*/kernel/drivers/hv",
    "usr/lib/modules/*/kernel/drivers/net/ethernet", "usr/lib/modules/*/kernel/drivers/target",
    "usr/lib/modules/*/kernel/drivers/xen", "usr/lib/modules/*/kernel/drivers/block/drbd",
    "usr/lib/modules/*/kernel/drivers/nvme/target", "usr/lib/modules/*/kernel/fs/ocfs2",
    "usr/lib/modules/*/kernel/fs/ceph", "usr/lib/modules/*/kernel/fs/nfs*",
    "usr/lib/modules/*/kernel/fs/smb*", "usr/lib/modules/*/kernel/fs/cifs*",
    "usr/lib/modules/*/kernel/fs/gfs2", "usr/lib/modules/*/kernel/fs/dlm",
    "usr/lib/modules/*/kernel/fs/jfs", "usr/lib/modules/*/kernel/fs/f2fs",
    "boot/initrd.img-*",
)  # fmt: skip

_TEST_LIBRARIES = ("pytest", "pytest-timeout", "hypothesis")
_LIBRARIES = "opt/nodectl-test"  # in the system; on PYTHONPATH in guests
_IMAGE_BYTES = 2 << 30
RECIPE_VERSION = 1

# What finds the disk with the system; the order does not matter, modprobe knows it.
_STAGE1_MODULES = ("virtio_pci", "virtio_blk", "virtio_console")


def _libraries() -> list[str]:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    pinned = {line.partition("==")[0]: line for line in project["dependency-groups"]["dev"]}
    return [*project["project"]["dependencies"], *(pinned[name] for name in _TEST_LIBRARIES)]


def _recipe() -> str:
    words = [RECIPE_VERSION, _PACKAGES, _PRUNED, _libraries(), _STAGE1_MODULES]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]


def missing_programs() -> list[str]:
    """Return what this machine lacks for guests."""
    needed = ("qemu-system-x86_64", "debootstrap", "mke2fs", "setpriv", "chroot")
    return [name for name in needed if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def debian_system() -> Path:
    """Return the folder of the system; made on first use, which takes about two minutes."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    target = _CACHE / f"debian-{_recipe()}"
    with _locked(_CACHE / "lock"):
        if not target.is_dir():
            for old in _CACHE.glob("debian-*"):
                shutil.rmtree(old)
            building = _CACHE / f"debian-building-{os.getpid()}"
            building.mkdir()
            try:
                _build(building)
                building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sh(*argv: object) -> None:
    done = subprocess.run(
        [str(word) for word in argv],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PATH": _path(), "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, f"{argv[0]}: {done.stdout[-2000:]}"


def _build(folder: Path) -> None:
    tree = folder / "tree"
    include = f"--include={','.join(_PACKAGES)}"
    _sh("debootstrap", "--variant=minbase", include, "bookworm", tree, _MIRROR)
    kernel = next((tree / "usr/lib/modules").iterdir()).name
    for pattern in _PRUNED:
        for path in tree.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("golden\n")
    # TCG emulates every instruction: a quick compressor saves half a minute for each initramfs.
    (tree / "etc/initramfs-tools/conf.d/quick").write_text("COMPRESS=zstd\nCOMPRESSLEVEL=1\n")
    _sh("chroot", tree, "depmod", kernel)
    with _bound(tree):
        _sh("chroot", tree, "update-initramfs", "-c", "-k", kernel)
    _sh(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target",
        tree / _LIBRARIES, "--python-version", "3.11", "--implementation", "cp",
        "--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64",
        "--only-binary=:all:", "--no-compile", *_libraries(),
    )  # fmt: skip
    _sh("chroot", tree, "python3", "-m", "compileall", "-q", f"/{_LIBRARIES}")
    shutil.copy(tree / f"boot/vmlinuz-{kernel}", folder / "vmlinuz")
    (folder / "stage1").write_bytes(cpio(_stage1(tree, kernel)))
    with (folder / "root.ext4").open("wb") as file:
        file.truncate(_IMAGE_BYTES)
    _sh("mke2fs", "-q", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d", tree,
        folder / "root.ext4")  # fmt: skip
    shutil.rmtree(tree)


@contextlib.contextmanager
def _bound(tree: Path) -> Iterator[None]:
    """Mount /proc in the tree, which scripts of packages look at."""
    _sh("mount", "-t", "proc", "proc", tree / "proc")
    try:
        yield
    finally:
        _sh("umount", tree / "proc")


def _stage1(tree: Path, kernel: str) -> dict[str, tuple[int, bytes]]:
    order = enumerate(_in_order(tree / "usr/lib/modules" / kernel))
    modules = {f"modules/{n:02}-{path.name}": (0o100644, path.read_bytes()) for n, path in order}
    return modules | {"bin/busybox": (0o100755, (tree / "bin/busybox").read_bytes())}


def _in_order(modules: Path) -> list[Path]:
    """Return the files of the modules that stage 1 loads, each after what it needs."""
    lines = (modules / "modules.dep").read_text().splitlines()
    needs = {path: words.split() for path, _, words in (line.partition(":") for line in lines)}
    named = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    wanted = [named[name] for name in _STAGE1_MODULES if name in named]
    order: dict[str, None] = {}
    for path in wanted:
        for each in [*reversed(needs[path]), path]:
            order[each] = None
    return [modules / path for path in order]


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Return an archive of the "newc" kind (Linux: Documentation/driver-api/early-userspace).

    `files`: path -> mode with type, content; folders on the way are added.
    """
    entries: dict[str, tuple[int, bytes]] = {}
    for path, entry in files.items():
        for parent in reversed(Path(path).parents):
            if str(parent) != ".":
                entries.setdefault(str(parent), (0o40755, b""))
        entries[path] = entry
    parts = []
    for number, (path, (mode, data)) in enumerate([*entries.items(), ("TRAILER!!!", (0, b""))]):
        name = os.fsencode(path) + b"\0"
        fields = (number + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)
