"""Where two layouts differ, by what things are and not by what their ids happen to be. Pure."""

from dataclasses import replace

from nodectl.disk.model import Layout
from nodectl.disk.text import layout_fields


def layout_differences(first: Layout, second: Layout, *, content: bool = True) -> tuple[str, ...]:
    """Return a line for each difference: "partition disk1/2 size: 20GiB -> rest".

    Without `content`, what the content needs (`min_used`) is not compared: on a machine that is in
    use it is another one each time.
    """
    if not content:
        first, second = _without_content(first), _without_content(second)
    old, new = (layout_fields(by_place(each)) for each in (first, second))
    lines: list[str] = []
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            lines.append(f"{name}: only in the first")
        elif name not in old:
            lines.append(f"{name}: only in the second")
        else:
            keys = dict.fromkeys((*old[name], *new[name]))
            lines += [
                f"{name} {key}: {old[name].get(key, '-')} -> {new[name].get(key, '-')}"
                for key in keys
                if old[name].get(key) != new[name].get(key)
            ]
    return tuple(lines)


def _without_content(layout: Layout) -> Layout:
    plain = tuple(replace(each, min_used=0) for each in layout.filesystems)
    return replace(layout, filesystems=plain)


def by_place(layout: Layout) -> Layout:
    """Return the layout with ids that follow from places and names: disk1, disk1-2, root, ..."""
    names = {disk.id: f"disk{place}" for place, disk in enumerate(layout.disks, start=1)}
    for disk in layout.disks:
        for place, part in enumerate(layout.partitions_of(disk.id), start=1):
            names[part.id] = f"{names[disk.id]}-{place}"
    names |= {each.id: f"md-{each.array_name}"[:32] for each in layout.raids}
    names |= {each.id: f"vg-{each.group_name}"[:32] for each in layout.groups}
    names |= {each.id: f"crypt-{each.mapping}"[:32] for each in layout.luks}
    names |= {
        each.id: f"{names[each.group]}-{each.volume_name}"[:32] for each in layout.logical_volumes
    }

    def all_of(ids: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names[each] for each in ids)

    return replace(
        layout,
        disks=tuple(replace(each, id=names[each.id]) for each in layout.disks),
        partitions=tuple(
            replace(each, id=names[each.id], disk=names[each.disk], label=each.label or each.id)
            if not _is_mbr(layout, each.disk)
            else replace(each, id=names[each.id], disk=names[each.disk])
            for each in layout.partitions
        ),
        raids=tuple(
            replace(
                each,
                id=names[each.id],
                name=each.array_name,
                devices=all_of(each.devices),
                spares=all_of(each.spares),
            )
            for each in layout.raids
        ),
        groups=tuple(
            replace(each, id=names[each.id], name=each.group_name, devices=all_of(each.devices))
            for each in layout.groups
        ),
        logical_volumes=tuple(
            replace(
                each,
                id=names[each.id],
                name=each.volume_name,
                group=names[each.group],
                pool=names.get(each.pool, ""),
            )
            for each in layout.logical_volumes
        ),
        luks=tuple(
            replace(each, id=names[each.id], name=each.mapping, device=names[each.device])
            for each in layout.luks
        ),
        filesystems=tuple(replace(each, volume=names[each.volume]) for each in layout.filesystems),
    )


def _is_mbr(layout: Layout, disk: str) -> bool:
    return any(each.id == disk and each.table == "mbr" for each in layout.disks)
