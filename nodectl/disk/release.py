"""How what stands on disks is taken down, innermost first, before they are written. Pure.

What nobody uses (arrays and volumes that the system assembled by itself) may go; a mount or swap in
use only when the user said so; what the running system stands on, and what also stands on a disk
that the layout does not name, never.
"""

from collections.abc import Iterator, Mapping, Sequence

from nodectl.disk.facts import BlockNode, DiskFacts, MachineFacts, Use, UseKind
from nodectl.disk.steps import (
    DetachLoop,
    ForgetPartitions,
    Release,
    RemoveMapping,
    StopArray,
    StopBcache,
    StopSwap,
    Unmount,
)
from nodectl.errors import DiskBusy

_NEVER = (UseKind.SYSTEM, UseKind.CLAIMED, UseKind.READ_ONLY)
_IN_USE = (UseKind.MOUNT, UseKind.SWAP)


def plan_release(
    machine: MachineFacts, disks: Sequence[DiskFacts], *, unmount: bool
) -> tuple[Release, ...]:
    """Return the steps that leave `disks` with nobody who holds them.

    Raises:
        DiskBusy: something holds one of them that may not be taken down.
    """
    refuse_held(disks, unmount=unmount)
    blocks = {block.name: block for block in machine.blocks}
    targets = {disk.name for disk in disks}
    order: list[str] = []
    for disk in disks:
        _post_order(disk.name, blocks, order)
    steps: list[Release] = []
    for name in order:
        block = blocks[name]
        if name not in targets and not block.parent:
            _refuse_spread(block, blocks, targets)
        steps += _take_down(block, machine, is_target=name in targets)
    _refuse_spread_groups(machine, blocks, order, targets)
    for disk in disks:
        held = any(use.kind is UseKind.HOLDER for use in disk.uses)
        if held and disk.name not in order:
            _busy(disk, [use for use in disk.uses if use.kind is UseKind.HOLDER])
    steps += [ForgetPartitions(disk=disk.path) for disk in disks if disk.nodes]
    return tuple(dict.fromkeys(steps))


def refuse_held(disks: Sequence[DiskFacts], *, unmount: bool) -> None:
    """Refuse disks that somebody uses, as far as that shows without looking into them.

    Raises:
        DiskBusy: the running system stands on one, or it is mounted, claimed or read-only.
    """
    forbidden = _NEVER if unmount else (*_NEVER, *_IN_USE)
    for disk in disks:
        if any(use.kind in forbidden for use in disk.uses):
            _busy(disk, list(disk.uses))


def _busy(disk: DiskFacts, uses: Sequence[Use]) -> None:
    what = "; ".join(use.words() for use in uses)
    only_used = all(use.kind in {*_IN_USE, UseKind.HOLDER} for use in uses)
    raise DiskBusy(
        f"{disk.path} is in use: {what}; nothing was written",
        hint="name another disk, or release this one first"
        + (" (--unmount does it)" if only_used else ""),
    )


def _children(block: BlockNode, blocks: Mapping[str, BlockNode]) -> Iterator[str]:
    node = "/dev/" + block.name.replace("!", "/")
    for each in blocks.values():
        if each.parent == block.name or each.backing_file in {block.path, node}:
            yield each.name
    yield from (name for name in block.holders if name in blocks)


def _post_order(name: str, blocks: Mapping[str, BlockNode], order: list[str]) -> None:
    """Append everything built on `name` and then itself, each once."""
    if name in order or name not in blocks:
        return
    for child in _children(blocks[name], blocks):
        _post_order(child, blocks, order)
    if name not in order:
        order.append(name)


def _disks_below(name: str, blocks: Mapping[str, BlockNode], targets: set[str]) -> set[str]:
    """Return the kernel names of the whole disks that a device stands on."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        each = waiting.pop()
        lower = [block.name for block in blocks.values() if each in _children(block, blocks)]
        if not lower or each in targets:
            found.add(each)
        else:
            waiting += lower
    return found


def _refuse_spread(block: BlockNode, blocks: Mapping[str, BlockNode], targets: set[str]) -> None:
    others = sorted(_disks_below(block.name, blocks, targets) - targets)
    if others:
        raise _spread(block.words or block.name, [blocks[name].path for name in others])


def _refuse_spread_groups(
    machine: MachineFacts,
    blocks: Mapping[str, BlockNode],
    order: Sequence[str],
    targets: set[str],
) -> None:
    """A volume group loses all its volumes with one of its disks, even those elsewhere."""
    paths = {f"/dev/{block.name}": block.name for block in blocks.values()}
    paths |= {block.path: block.name for block in blocks.values()}
    for group in machine.groups:
        members = [paths[each] for each in group.devices if each in paths]
        if not set(members) & set(order):
            continue
        below = {disk for each in members for disk in _disks_below(each, blocks, targets)}
        others = sorted(below - targets)
        if others:
            raise _spread(f"volume group {group.name}", [blocks[name].path for name in others])


def _spread(what: str, others: Sequence[str]) -> DiskBusy:
    return DiskBusy(
        f"{what} also stands on {', '.join(others)}, which the layout does not name; "
        "nothing was written",
        hint="name all its disks in the layout, or take it apart yourself first",
    )


def _take_down(block: BlockNode, machine: MachineFacts, *, is_target: bool) -> Iterator[Release]:
    node = "/dev/" + block.name.replace("!", "/")
    mounts = [
        each
        for each in machine.mounts
        if each.device == block.device or each.source in {node, block.path}
    ]
    for mount in reversed(mounts):  # the last mounted stands on those before it
        yield Unmount(device=node, target=mount.target)
    if {node, block.path} & set(machine.swaps):
        yield StopSwap(device=node)
    if is_target or block.parent:
        return
    if block.dm_name:
        yield RemoveMapping(name=block.dm_name, what=block.words or block.dm_name)
    elif block.md_level:
        yield StopArray(device=node, what=block.words or block.name)
    elif block.name.startswith("bcache"):
        yield StopBcache(name=block.name)
    elif block.name.startswith("loop"):
        yield DetachLoop(device=node)
