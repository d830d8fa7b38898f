"""Facts and a layout give exactly these steps and these commands.

A change here is a change of what is done to somebody's disk: read the difference. The files are
written anew with NODECTL_WRITE_GOLDEN=1.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from disk_samples import MIB, NVME_4K, SDA, USED_SDA, layout_of, plan_of

from nodectl.disk.commands import step_commands
from nodectl.disk.facts import DiskFacts
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout, default_layout

CASES = {
    "default_on_empty_disk": (SDA, default_layout()),
    "swap_and_ext4_over_lvm": (
        USED_SDA,
        layout_of(("swap", FsType.SWAP, 512 * MIB, ""), ("root", FsType.EXT4, None, "/")),
    ),
    "esp_xfs_btrfs_on_4k_nvme": (
        NVME_4K,
        layout_of(
            ("efi", FsType.VFAT, 300 * MIB, "/boot/efi"),
            ("root", FsType.XFS, 2048 * MIB, "/"),
            ("home", FsType.BTRFS, None, "/home"),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_plan(name: str) -> None:
    disk: DiskFacts
    layout: Layout
    disk, layout = CASES[name]
    plan = plan_of(disk, layout, image_bytes=MIB)
    found = [
        {
            "step": type(step).__name__,
            "fields": asdict(step),
            "commands": [list(argv) for argv in step_commands(step)],
        }
        for step in plan.steps
    ]
    path = Path(__file__).with_name(f"disk_plan_{name}.json")
    if os.environ.get("NODECTL_WRITE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(json.dumps(found)) == json.loads(path.read_text())
