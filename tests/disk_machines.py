"""Machines to plan for, as facts: each has disks of one kind, and what an earlier life left there.

These facts are written by hand, for what no test of ours can have: multipath, bcache, cciss, disks
of other sizes. What the probe saw on real devices is in tests/recorded/loop_disks.json, and what is
printed for md, LVM and LUKS, recorded in the guest of tests/guest/test_disk_stack.py, is parsed in
tests/unit/disk/test_probe_stack.py.
"""

from dataclasses import replace

from disk_samples import EMPTY, MIB, SDA

from nodectl.disk.facts import (
    ArrayFacts,
    BlockNode,
    CryptFacts,
    DiskContents,
    DiskFacts,
    GroupFacts,
    LvFacts,
    MachineFacts,
    PartitionFacts,
    Signature,
    Use,
    UseKind,
    VolumeFacts,
)

GIB = 1 << 30
RAID = "A19D880F-05FC-4D3B-A006-743F0F84911E"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


def disk(path: str, *, size: int = 64 * GIB, sector: int = 512, **more: object) -> DiskFacts:
    """Return an empty disk; its serial is its name in capitals."""
    name = path.removeprefix("/dev/").replace("/", "!")
    base = replace(
        SDA,
        path=path,
        name=name,
        size=size,
        logical_sector=sector,
        serial=name.upper(),
        wwn="",
        links=(),
        contents=EMPTY,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def part(
    number: int, path: str, start: int, size: int, holds: str = "", **more: object
) -> PartitionFacts:
    """Return a partition; `holds` is "type" or "type label", start and size are MiB."""
    kind, _, label = holds.partition(" ")
    signatures = (Signature(type=kind, uuid=f"uuid-{path}", label=label),) if kind else ()
    base = PartitionFacts(
        number=number,
        path=path,
        start=start * MIB,
        size=size * MIB,
        type=LINUX,
        uuid=f"PART-{number}",
        label=f"part{number}",
        signatures=signatures,
    )
    return replace(base, **more)  # type: ignore[arg-type]


def holding(facts: DiskFacts, *partitions: PartitionFacts, table: str = "gpt") -> DiskFacts:
    """Return a disk with a partition table; the kernel shows the partitions."""
    contents = DiskContents(
        signatures=(Signature(type=table),),
        table=table,
        table_uuid="0x1a2b3c4d" if table == "dos" else "AAAAAAAA-0000-4000-8000-000000000000",
        partitions=partitions,
    )
    nodes = tuple(each.path.removeprefix("/dev/") for each in partitions)
    return replace(facts, contents=contents, nodes=nodes)


def held(facts: DiskFacts, *devices: str) -> DiskFacts:
    """Return a disk that something is built on."""
    uses = tuple(Use(kind=UseKind.HOLDER, device=each, detail="something") for each in devices)
    return replace(facts, uses=uses)


def node(name: str, number: int, parent: str = "", *holders: str, **more: object) -> BlockNode:
    """Return a device as the kernel knows it."""
    base = BlockNode(name=name, device=f"8:{number}", parent=parent, holders=holders)
    return replace(base, **more)  # type: ignore[arg-type]


def mirror_with_lvm() -> MachineFacts:
    """sda and sdb: RAID 1 with a volume group that was assembled at boot, unused."""
    one, two = (
        held(
            holding(
                disk(f"/dev/{name}"),
                part(1, f"/dev/{name}1", 1, 60_000, "linux_raid_member", type=RAID),
            ),
            f"/dev/{name}1",
        )
        for name in ("sda", "sdb")
    )
    return MachineFacts(
        disks=(one, two),
        blocks=(
            node("sda", 0),
            node("sda1", 1, "sda", "md127"),
            node("sdb", 16),
            node("sdb1", 17, "sdb", "md127"),
            node("md127", 127, "", "dm-0", "dm-1", md_level="raid1", words="md127 (md raid1)"),
            node("dm-0", 200, dm_name="vg0-root", dm_uuid="LVM-1", words="vg0-root (LVM)"),
            node(
                "dm-1", 201, "", "dm-2", dm_name="vg0-luks", dm_uuid="LVM-2", words="vg0-luks (LVM)"
            ),
            node("dm-2", 202, dm_name="safe", dm_uuid="CRYPT-LUKS2-0-safe", words="safe (CRYPT)"),
        ),
        arrays=(
            ArrayFacts(
                path="/dev/md127",
                name="mirror",
                level="raid1",
                metadata="1.2",
                uuid="1:2:3:4",
                devices=("/dev/sda1", "/dev/sdb1"),
            ),
        ),
        groups=(
            GroupFacts(
                name="vg0",
                uuid="vg",
                extent=4 * MIB,
                devices=("/dev/md127",),
                volumes=(
                    LvFacts(name="root", path="/dev/mapper/vg0-root", size=10 * GIB, kind="linear"),
                    LvFacts(name="luks", path="/dev/mapper/vg0-luks", size=10 * GIB, kind="linear"),
                ),
            ),
        ),
        crypts=(
            CryptFacts(
                mapping="safe",
                path="/dev/mapper/safe",
                device="/dev/mapper/vg0-luks",
                uuid="luks",
                version=2,
                cipher="aes-xts-plain64",
                key_bits=512,
                pbkdf="argon2id",
            ),
        ),
        volumes=(
            VolumeFacts(
                path="/dev/mapper/vg0-root",
                size=10 * GIB,
                signatures=(Signature(type="ext4", uuid="R", label="root"),),
            ),
            VolumeFacts(
                path="/dev/mapper/safe",
                size=10 * GIB - 16 * MIB,
                signatures=(Signature(type="xfs", uuid="S", label="safe"),),
            ),
        ),
    )


def multipath() -> MachineFacts:
    """One LUN over two paths."""
    paths = [
        held(disk(f"/dev/{name}", serial="LUN7", map="/dev/mapper/mpatha"), f"/dev/{name}")
        for name in ("sdc", "sdd")
    ]
    lun = disk("/dev/mapper/mpatha", serial="LUN7", type="mpath")
    return MachineFacts(
        disks=(*paths, replace(lun, name="dm-5")),
        blocks=(
            node("sdc", 32, "", "dm-5"),
            node("sdd", 48, "", "dm-5"),
            node("dm-5", 205, dm_name="mpatha", dm_uuid="mpath-LUN7", words="mpatha (mpath)"),
        ),
    )
