"""Whatever fits is placed aligned, inside the disk and disjoint; what does not fit is refused."""

from dataclasses import replace

from disk_samples import MIB, SDA, plan_of
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.disk.kinds import FsType
from nodectl.disk.model import Layout
from nodectl.disk.sizes import REST_SIZE, Size
from nodectl.disk.steps import WipeSignatures
from nodectl.disk.text import format_layout, parse_layout
from nodectl.disk.volumes import (
    ALIGNMENT,
    Compare,
    DiskMatch,
    DiskWish,
    Filesystem,
    Partition,
    SizeCondition,
)
from nodectl.errors import DiskTooSmall

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,10}", fullmatch=True)
TEXTS = st.text(max_size=12)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    rest = draw(st.integers(0, len(names)))  # == len(names): nobody takes the rest
    sizes = st.integers(270 * MIB, 3000 * MIB)
    partitions = tuple(
        Partition(
            id=name,
            disk="d",
            type=draw(st.sampled_from(["linux", "esp", "A19D880F-05FC-4D3B-A006-743F0F84911E"])),
            size=REST_SIZE if index == rest else Size(exact=draw(sizes)),
        )
        for index, name in enumerate(names)
    )
    kinds = st.sampled_from([FsType.EXT4, FsType.BTRFS, FsType.VFAT, FsType.SWAP, None])
    filesystems = [Filesystem(volume=names[0], type=FsType.EXT4, mount="/")]
    for name in names[1:]:
        kind = draw(kinds)
        if kind:
            mount = "" if kind is FsType.SWAP else f"/{name}"
            filesystems.append(Filesystem(volume=name, type=kind, mount=mount))
    match = DiskMatch(
        serial=draw(TEXTS),
        model=draw(TEXTS),
        size=tuple(
            draw(
                st.lists(
                    st.builds(
                        SizeCondition,
                        compare=st.sampled_from(list(Compare)),
                        size=st.integers(0, 1 << 45),
                    ),
                    max_size=2,
                )
            )
        ),
    )
    return Layout(
        disks=(DiskWish(id="d", match=match),),
        partitions=partitions,
        filesystems=tuple(filesystems),
    )


@settings(max_examples=150, deadline=None)
@given(layout=layouts(), size=st.integers(1, 12 << 30), sector=st.sampled_from([512, 4096]))
def test_partitions_are_aligned_inside_and_disjoint(layout: Layout, size: int, sector: int) -> None:
    disk = replace(SDA, size=size // sector * sector, logical_sector=sector)
    try:
        plan = plan_of(disk, layout)
    except DiskTooSmall:
        wanted = sum(each.size.smallest for each in layout.partitions)
        # never refused with room for everything, both GPTs, the rounding and a usable rest
        assert wanted + (len(layout.partitions) + 3) * ALIGNMENT + 280 * MIB > disk.size
        return
    end = ALIGNMENT
    for planned in plan.partitions:
        assert planned.start == end  # in order, without gaps
        assert planned.start % ALIGNMENT == 0
        assert planned.size % ALIGNMENT == 0
        assert planned.size >= max(planned.partition.size.smallest, 1)
        end = planned.start + planned.size
    # the backup GPT: one header and 16 KiB of entries
    assert end <= disk.size - sector - 16384
    for step in plan.steps:
        if isinstance(step, WipeSignatures):
            assert all(0 <= each.start < each.start + each.size <= size for each in step.zeros)


@settings(max_examples=150, deadline=None)
@given(layout=layouts())
def test_a_layout_survives_its_written_form(layout: Layout) -> None:
    assert parse_layout(format_layout(layout)) == layout
