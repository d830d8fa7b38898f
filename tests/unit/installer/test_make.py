"""Installers made of a small tree that has everything in its place."""

import gzip
import io
import lzma
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from nodectl.errors import AlreadyThere, InstallerUnfit, InvalidInput
from nodectl.events import NullObserver
from nodectl.installer import make as making
from nodectl.installer.contents import PROGRAMS
from nodectl.installer.gather import gather
from nodectl.installer.make import MakeWish, make_installer, read_installer
from nodectl.installer.model import Installer, check_same
from nodectl.installer.pyz import Nodectl, nodectl_of
from nodectl.zipapp.archive import INDEX

KERNEL = "6.1.0-50-amd64"
PYTHON = "3.11"


def build_pyz(path: Path) -> Nodectl:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("native/cp311-x86_64/_x.so"), b"not an ELF file")
        archive.writestr(zipfile.ZipInfo(INDEX), "nodectl 1.2.3 " + "ab" * 16 + "\n")
    return nodectl_of(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    files = {
        "usr/lib/systemd/systemd-udevd": b"udevd",
        "usr/lib/udev/rules.d/60-persistent-storage.rules": b"rule",
        "usr/lib/udev/rules.d/64-md-raid-assembly.rules": b"assembles",
        f"usr/bin/python{PYTHON}": b"python",
        f"usr/lib/python{PYTHON}/os.py": b"x = 1\n",
        f"usr/lib/python{PYTHON}/stale.py": b"y = 2\n",
        f"usr/lib/python{PYTHON}/test/regrtest.py": b"test",
        f"usr/lib/python{PYTHON}/lib-dynload/_ssl.so": b"so",
        f"boot/vmlinuz-{KERNEL}": b"kernel",
        f"boot/config-{KERNEL}": b"CONFIG_RD_ZSTD=y\n",
        f"usr/lib/modules/{KERNEL}/modules.builtin": b"",
        f"usr/lib/modules/{KERNEL}/modules.alias": b"alias",
        "etc/os-release": b'PRETTY_NAME="A Small System 1"\n',
    }
    modules = ("drivers/net/virtio_net.ko", "drivers/block/virtio_blk.ko", "sound/snd.ko")
    files |= {f"usr/lib/modules/{KERNEL}/kernel/{each}": b"module" for each in modules}
    dep = "".join(f"kernel/{each}:\n" for each in modules)
    files[f"usr/lib/modules/{KERNEL}/modules.dep"] = dep.encode()
    files |= {f"usr/bin/{program.name}": b"program" for program in PROGRAMS}
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
        (root / path).chmod(0o755 if "/bin/" in path else 0o644)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    library = root / f"usr/lib/python{PYTHON}"
    cached(library, "os", fits=True)
    cached(library, "stale", fits=False)
    return root


def cached(library: Path, name: str, *, fits: bool) -> None:
    status = (library / f"{name}.py").stat()
    head = struct.pack("<4sIII", b"\xa7\r\r\n", 0, int(status.st_mtime) + (0 if fits else 1),
                       status.st_size)  # fmt: skip
    (library / "__pycache__").mkdir(exist_ok=True)
    (library / f"__pycache__/{name}.cpython-311.pyc").write_bytes(head + b"code")


@pytest.fixture
def wish(root: Path, tmp_path: Path) -> Callable[..., MakeWish]:
    nodectl = build_pyz(tmp_path / "nodectl.pyz")

    def with_changes(**more: object) -> MakeWish:
        fields: dict[str, object] = {
            "target": tmp_path / "out/x86_64", "root": root, "nodectl": nodectl, "quick": True,
            **more,
        }  # fmt: skip
        return MakeWish(**fields)  # type: ignore[arg-type]

    return with_changes


def names(data: bytes) -> set[str]:
    """Return the paths in a cpio archive."""
    found, at = set(), 0
    while True:
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at += (110 + fields[11] + 3) // 4 * 4 + (fields[6] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found.add(name)


def test_what_is_needed_is_in_it_and_what_is_not_is_left_out(root: Path, tmp_path: Path) -> None:
    build_pyz(tmp_path / "nodectl.pyz")
    found = gather(root, (tmp_path / "nodectl.pyz").read_bytes())
    assert (found.kernel, found.python, found.made_on) == (KERNEL, PYTHON, "A Small System 1")
    paths = {entry.path for entry in found.entries}
    for path in (
        "init", "nodectl.pyz", "bin", "usr/bin/sfdisk", "usr/bin/sh", "usr/lib/nodectl/udhcpc",
        f"usr/lib/python{PYTHON}/os.pyc", f"usr/lib/python{PYTHON}/stale.py",
        f"usr/lib/python{PYTHON}/lib-dynload/_ssl.so",
        f"usr/lib/modules/{KERNEL}/kernel/drivers/net/virtio_net.ko",
        f"usr/lib/modules/{KERNEL}/modules.alias",
    ):  # fmt: skip
        assert path in paths, path
    for path in (
        f"usr/lib/python{PYTHON}/os.py", f"usr/lib/python{PYTHON}/stale.pyc",
        f"usr/lib/python{PYTHON}/test/regrtest.py",
        f"usr/lib/modules/{KERNEL}/kernel/sound/snd.ko",
        "usr/lib/udev/rules.d/64-md-raid-assembly.rules",  # disks are left alone
    ):  # fmt: skip
        assert path not in paths, path


def test_the_same_tree_gives_the_same_bytes(wish: Callable[..., MakeWish], tmp_path: Path) -> None:
    made = [make_installer(wish(target=tmp_path / name), NullObserver()) for name in ("one", "two")]
    assert made[0] == made[1]
    assert (tmp_path / "one/initrd.img").read_bytes() == (tmp_path / "two/initrd.img").read_bytes()
    assert read_installer(tmp_path / "one", whole=True) == made[0]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "initrd.img", "installer.json", "vmlinuz",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "unpack"),
    [
        (
            "CONFIG_RD_ZSTD=y\nCONFIG_RD_XZ=y\n",
            lambda d: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(d)).read(),
        ),
        ("CONFIG_RD_XZ=y\n", lzma.decompress),
        ("", gzip.decompress),
    ],
    ids=["zstd", "xz", "gzip"],
)
def test_it_is_packed_as_the_kernel_unpacks_it(
    wish: Callable[..., MakeWish], root: Path, config: str, unpack: Callable[[bytes], bytes]
) -> None:
    (root / f"boot/config-{KERNEL}").write_text(config)
    made = make_installer(wish(), NullObserver())
    data = unpack((wish().target / "initrd.img").read_bytes())
    assert len(data) == made.unpacked
    assert {"init", "nodectl.pyz"} <= names(data)


def test_everything_that_is_missing_is_named_at_once_with_its_package(
    wish: Callable[..., MakeWish], root: Path
) -> None:
    for path in ("usr/bin/sfdisk", "usr/bin/busybox", "usr/lib/systemd/systemd-udevd",
                 f"boot/vmlinuz-{KERNEL}", f"usr/bin/python{PYTHON}"):  # fmt: skip
        (root / path).unlink()
    with pytest.raises(InstallerUnfit) as caught:
        make_installer(wish(), NullObserver())
    for part in ("sfdisk (package fdisk, or util-linux)", "busybox-static", "systemd-udevd",
                 "a kernel", "Python (3.11"):  # fmt: skip
        assert part in str(caught.value)
    assert not wish().target.parent.exists()  # nothing was begun


def test_a_program_that_only_some_layouts_need_may_be_missing(
    wish: Callable[..., MakeWish], root: Path
) -> None:
    (root / "usr/bin/mdadm").unlink()
    assert make_installer(wish(), NullObserver()).lacks == ("mdadm",)


def test_the_newest_kernel_is_taken_or_the_one_that_is_named(
    wish: Callable[..., MakeWish], root: Path
) -> None:
    modules = root / "usr/lib/modules"
    for version in ("6.1.0-9-amd64", "6.1.0-100-amd64"):
        (modules / version).symlink_to(KERNEL)
        (root / f"boot/vmlinuz-{version}").write_bytes(version.encode())
    assert make_installer(wish(), NullObserver()).kernel == "6.1.0-100-amd64"
    named = make_installer(wish(kernel="6.1.0-9-amd64", overwrite=True), NullObserver())
    assert named.kernel == "6.1.0-9-amd64"
    with pytest.raises(InstallerUnfit, match=r"the kernel 9\.9"):
        make_installer(wish(kernel="9.9", overwrite=True), NullObserver())
    assert read_installer(wish().target) == named  # still the one before


def test_one_that_is_there_is_not_overwritten_unless_asked(
    wish: Callable[..., MakeWish], root: Path
) -> None:
    first = make_installer(wish(), NullObserver())
    (root / f"boot/vmlinuz-{KERNEL}").write_bytes(b"another kernel")
    with pytest.raises(AlreadyThere):
        make_installer(wish(), NullObserver())
    assert read_installer(wish().target) == first
    second = make_installer(wish(overwrite=True), NullObserver())
    assert second != first
    assert [path.name for path in wish().target.parent.iterdir()] == ["x86_64"]


def test_a_changed_or_absent_file_is_noticed(wish: Callable[..., MakeWish]) -> None:
    made = make_installer(wish(), NullObserver())
    target = wish().target
    (target / "vmlinuz").write_bytes(b"kernex")
    with pytest.raises(InstallerUnfit, match="not the file that was made"):
        read_installer(target, whole=True)
    (target / "vmlinuz").unlink()
    with pytest.raises(InstallerUnfit, match="not the file that was made"):
        read_installer(target)
    with pytest.raises(InstallerUnfit, match="there is no installer"):
        read_installer(target.parent)
    with pytest.raises(InstallerUnfit, match="another version"):
        Installer.from_json({**made.to_json(), "form": 99})


def test_one_that_is_too_large_is_refused(
    wish: Callable[..., MakeWish], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "SIZE_MAX", 100)
    with pytest.raises(InstallerUnfit, match="more than"):
        make_installer(wish(), NullObserver())
    assert not wish().target.exists()


def test_an_installer_of_another_nodectl_is_refused(wish: Callable[..., MakeWish]) -> None:
    made = make_installer(wish(), NullObserver())
    check_same(made, "ab" * 16, "1.2.3")
    for build_id, version in (("cd" * 16, "1.2.3"), ("ab" * 16, "1.2.4")):
        with pytest.raises(InstallerUnfit, match="holds nodectl"):
            check_same(made, build_id, version)


def test_what_is_no_pyz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no zip")
    for path in (tmp_path / "x", tmp_path / "absent", Path(sys.executable)):
        with pytest.raises(InvalidInput, match=r"no nodectl\.pyz"):
            nodectl_of(path)
    with pytest.raises(InvalidInput, match="does not run from"):
        nodectl_of(None)
