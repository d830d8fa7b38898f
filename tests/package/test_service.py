"""The built file puts itself into a system as a service: unit, program, options, upgrade."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import Commands

pytestmark = [pytest.mark.package, pytest.mark.root]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the top of a system that systemd starts."""
    top = tmp_path / "system"
    (top / "etc/systemd/system").mkdir(parents=True)
    (top / "usr/bin").mkdir(parents=True)
    (top / "usr/bin/python3").symlink_to("/usr/bin/python3")
    return top


def install(pyz: Path, root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [pyz, "install-service", "--root", root, "--json", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_service_is_there_and_an_upgrade_keeps_its_options(pyz: Path, root: Path) -> None:
    done = install(pyz, root, "--controller", "--options", "--upload-rate 50M")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "written": [
            "/usr/local/lib/nodectl/nodectl.pyz",
            "/usr/local/bin/nodectl",
            "/etc/default/nodectl",
            "/etc/systemd/system/nodectl.service",
        ],
        "kept": [],
        "started": False,
    }
    program = root / "usr/local/lib/nodectl/nodectl.pyz"
    assert program.read_bytes() == pyz.read_bytes()
    assert os.access(program, os.X_OK)
    options = root / "etc/default/nodectl"
    assert 'NODECTL_SERVE="--controller --upload-rate 50M"' in options.read_text()
    wanted = root / "etc/systemd/system/multi-user.target.wants/nodectl.service"
    assert str(wanted.readlink()) == "/etc/systemd/system/nodectl.service"

    options.write_text('NODECTL_SERVE="--no-scrub"\n')
    program.write_bytes(b"an older one")
    command = root / "usr/local/bin/nodectl"
    command.unlink()
    command.write_text("the administrator's own")
    done = install(pyz, root)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == ["/usr/local/bin/nodectl", "/etc/default/nodectl"]
    assert program.read_bytes() == pyz.read_bytes()
    assert options.read_text() == 'NODECTL_SERVE="--no-scrub"\n'
    assert command.read_text() == "the administrator's own"


def test_systemd_understands_the_unit(pyz: Path, root: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    assert install(pyz, root).returncode == 0
    unit = root / "etc/systemd/system/nodectl.service"
    # It must name a program that this system has; the rest is as it was written.
    text = unit.read_text().replace("-I /usr/local/lib/nodectl/nodectl.pyz", f"-I {pyz}")
    unit.write_text(text.replace("/usr/local", "/usr"))
    done = subprocess.run(
        [verify, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "nodectl" in line]
    assert not said


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (["--options", "--listen 'a b'"], 14, "blanks"),
        (["--options", "'"], 14, "--options"),
        (["--options", "--advertise $(reboot)"], 14, "$"),
    ],
)
def test_options_that_a_unit_cannot_hold_are_refused(
    pyz: Path, root: Path, words: list[str], status: int, sentence: str
) -> None:
    done = install(pyz, root, *words)
    assert done.returncode == status
    assert sentence in done.stderr
    assert not (root / "usr/local").exists()


def test_a_system_without_systemd_or_python_is_left_alone(pyz: Path, root: Path) -> None:
    (root / "usr/bin/python3").unlink()
    done = install(pyz, root)
    assert done.returncode == 10
    assert "no /usr/bin/python3" in done.stderr
    shutil.rmtree(root / "etc")
    done = install(pyz, root)
    assert done.returncode == 10
    assert "not started by systemd" in done.stderr
    assert not (root / "usr/local").exists()


def test_only_the_one_file_can_be_installed(root: Path) -> None:
    story = Commands(root).fails("x", 14, "install-service", "--root", str(root))
    assert "build_zipapp.py" in story
