"""Disks and layouts to plan with, as values: no machine is looked at."""

import random
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from nodectl.disk.facts import (
    DiskContents,
    DiskFacts,
    MachineFacts,
    PartitionFacts,
    Signature,
)
from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout
from nodectl.disk.plan import DiskPlan, PlanWish, plan_layout
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.disk.volumes import DiskWish, Filesystem, Partition

MIB = 1 << 20

EMPTY = DiskContents(signatures=(), table="", table_uuid="", partitions=())

SDA = DiskFacts(
    path="/dev/sda",
    name="sda",
    device="8:0",
    sequence=3,
    type="disk",
    size=8 << 30,
    logical_sector=512,
    physical_sector=4096,
    serial="S4XYNE0M",
    wwn="0x5002538e40b1c2d3",
    model="SSD 870",
    vendor="ATA",
    transport="sata",
    removable=False,
    backing_file="",
    links=("/dev/disk/by-id/wwn-0x5002538e40b1c2d3",),
    nodes=(),
    uses=(),
    contents=EMPTY,
)

USED_SDA = replace(
    SDA,
    nodes=("sda1",),
    contents=DiskContents(
        signatures=(Signature(type="gpt"), Signature(type="PMBR")),
        table="gpt",
        table_uuid="11111111-1111-1111-1111-111111111111",
        partitions=(
            PartitionFacts(
                number=1,
                path="/dev/sda1",
                start=MIB,
                size=100 * MIB,
                type="E6D6D379-F507-44C2-A23C-238F2A3DF928",
                uuid="22222222-2222-2222-2222-222222222222",
                label="old",
                signatures=(Signature(type="LVM2_member", uuid="abc"),),
            ),
        ),
    ),
)

NVME_4K = replace(
    SDA,
    path="/dev/nvme0n1",
    name="nvme0n1",
    device="259:0",
    logical_sector=4096,
    serial="NV1",
    model="PM9A3",
    transport="nvme",
    links=(),
)


def layout_of(*parts: tuple[str, FsType | None, int | None, str]) -> Layout:
    """Return a layout from (id, filesystem, bytes or None for the rest, mount point)."""
    return Layout(
        name="sample",
        disks=(DiskWish(id="d"),),
        partitions=tuple(
            Partition(
                id=name,
                disk="d",
                type="swap" if kind is FsType.SWAP else "linux",
                size=REST_SIZE if size is None else Size(exact=size),
            )
            for name, kind, size, _mount in parts
        ),
        filesystems=tuple(
            Filesystem(volume=name, type=kind, label=name, mount=mount)
            for name, kind, _size, mount in parts
            if kind is not None
        ),
    )


def counted_uuids(seed: int = 7) -> Callable[[], UUID]:
    """Return a source of UUIDs that is the same in each run."""
    source = random.Random(seed)
    return lambda: UUID(int=source.getrandbits(128), version=4)


def plan_of(disk: DiskFacts, layout: Layout, *, image_bytes: int = 0, seed: int = 7) -> DiskPlan:
    """Return the plan for a layout of one disk."""
    return plan_layout(
        MachineFacts(disks=(disk,)),
        layout,
        {layout.disks[0].id: disk},
        PlanWish(image_bytes=image_bytes),
        counted_uuids(seed),
    )
