"""The programs that carry out the steps of a plan, as argument lists. Pure.

Long options wherever the program has them. LVM is told to ask nothing and to wipe what it finds;
mdadm is told that a fresh array is meant (`--run`).
"""

from itertools import pairwise

from nodectl.disk.kinds import EXT_TYPES, MBR_EXTENDED, FsType, LvKind, TableKind
from nodectl.disk.steps import (
    CreateArray,
    CreateGroup,
    CreatePhysicalVolume,
    CreateSubvolumes,
    CreateVolume,
    DeactivateGroup,
    DetachLoop,
    DiscardBlocks,
    ForgetPartitions,
    FormatFilesystem,
    FormatLuks,
    MakeSwap,
    MakeSwapFile,
    MountFilesystem,
    OpenLuks,
    RemoveMapping,
    SealTable,
    ShowPartitions,
    Step,
    StopArray,
    StopBcache,
    StopSwap,
    TableEntry,
    Unmount,
    WipeSignatures,
    WriteTable,
)

Commands = tuple[tuple[str, ...], ...]


def step_commands(step: Step) -> Commands:
    """Return the programs that a step runs, in order; mounts are made beneath the target.

    `WriteTable` gives `table_script` to sfdisk on standard input; `StopBcache` writes to sysfs, and
    `CreateSubvolumes` names paths beneath a private mount.
    """
    return _release(step) or _table(step) or _stack(step) or _content(step)


def _release(step: Step) -> Commands:
    match step:
        case Unmount():
            return (("umount", step.target),)
        case StopSwap():
            return (("swapoff", step.device),)
        case RemoveMapping():
            return (("dmsetup", "remove", "--retry", step.name),)
        case StopArray():
            return (("mdadm", "--stop", step.device),)
        case DetachLoop():
            return (("losetup", "--detach", step.device),)
        case DeactivateGroup():
            return (("vgchange", "--activate", "n", step.name),)
        case ForgetPartitions():
            return (("partx", "--delete", step.disk),)
        case _:
            return ()


def _table(step: Step) -> Commands:
    match step:
        case DiscardBlocks():
            return (("blkdiscard", "--force", step.device),)
        case WipeSignatures():
            return (("wipefs", "--all", step.device),) if step.erase else ()
        case WriteTable():
            # The kernel is told by partx: a kernel without GPT support would drop them all.
            flags = ("--no-reread", "--no-tell-kernel", "--wipe", "never", "--quiet")
            return (("sfdisk", *flags, step.disk),)
        case ShowPartitions() if step.is_map:
            return (("kpartx", "-a", "-s", "-p", "-part", step.disk),)
        case ShowPartitions():
            # Without a range partx 2.38 goes as far as there are partitions: a disk with the
            # numbers 1, 2, 5 and 6 would keep its logical ones to itself.
            last = max(entry.number for entry in step.entries)
            return (("partx", "--update", "--nr", f"1:{last}", step.disk),)
        case SealTable():
            quietly = ("--no-reread", "--no-tell-kernel", "--quiet")
            return (("sfdisk", *quietly, "--disk-id", step.disk, step.uuid),)
        case _:
            return ()


def _stack(step: Step) -> Commands:
    match step:
        case CreateArray():
            return (_mdadm(step),)
        case CreatePhysicalVolume():
            words = ("pvcreate", "--yes", "--force", "--force", "--norestorefile")
            return ((*words, "--uuid", pv_uuid(step.uuid), step.device),)
        case CreateGroup():
            extent = ("--physicalextentsize", f"{step.extent}b")
            return (("vgcreate", "--yes", *extent, step.name, *step.devices),)
        case CreateVolume():
            return (_lvcreate(step),)
        case FormatLuks():
            return (_luks_format(step),)
        case OpenLuks():
            words = ("cryptsetup", "open", "--batch-mode", "--type", "luks2")
            return ((*words, "--key-file", step.key_file, step.device, step.name),)
        case _:
            return ()


def _content(step: Step) -> Commands:
    match step:
        case FormatFilesystem():
            return ((*_mkfs(step), *step.options, step.device),)
        case MakeSwap():
            label: tuple[str, ...] = ("--label", step.label) if step.label else ()
            return (("mkswap", "--uuid", step.uuid, *label, *step.options, step.device),)
        case CreateSubvolumes():
            return tuple(("btrfs", "subvolume", "create", path) for path in step.paths)
        case MountFilesystem():
            options = ("--options", ",".join(step.options)) if step.options else ()
            return (("mount", "--types", step.type, *options, step.device, step.path),)
        case MakeSwapFile():
            return (("mkswap", "--uuid", step.uuid, step.path),)
        case StopBcache():
            return ()
        case _:
            return ()


def _mdadm(step: CreateArray) -> tuple[str, ...]:
    """Source: mdadm(8). `--homehost=any`: the array belongs to whoever has its disks."""
    flags = [f"--level={step.level}", f"--metadata={step.metadata}", f"--uuid={md_uuid(step.uuid)}"]
    if step.metadata != "0.90":  # which has no name
        flags += [f"--name={step.name}", "--homehost=any"]
    if step.chunk is not None:
        flags.append(f"--chunk={step.chunk >> 10}K")
    if step.layout:
        flags.append(f"--layout={step.layout}")
    if step.bitmap is not None:
        flags.append(f"--bitmap={'internal' if step.bitmap else 'none'}")
    flags.append(f"--raid-devices={len(step.devices)}")
    if step.spares:
        flags.append(f"--spare-devices={len(step.spares)}")
    return ("mdadm", "--create", step.device, "--run", *flags, *step.devices, *step.spares)


def md_uuid(uuid: str) -> str:
    """Return a UUID as md writes it: four groups of eight digits."""
    digits = uuid.replace("-", "").lower()
    return ":".join(digits[at : at + 8] for at in range(0, 32, 8))


def pv_uuid(uuid: str) -> str:
    """Return a UUID as LVM writes it: 32 letters in groups of 6, 4, 4, 4, 4, 4 and 6."""
    digits = uuid.replace("-", "").lower()
    ends = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(digits[begin:end] for begin, end in pairwise(ends))


def _lvcreate(step: CreateVolume) -> tuple[str, ...]:
    """Source: lvcreate(8), lvmthin(7), lvmraid(7)."""
    words = ["lvcreate", "--yes", "--name", step.name]
    if step.kind is LvKind.THIN:
        words += ["--type", "thin", "--virtualsize", f"{step.virtual}b"]
        return (*words, "--thinpool", step.pool, step.group)
    if step.kind is not LvKind.THIN_POOL:
        words += ["--wipesignatures", "y", "--zero", "y"]
    words += ["--type", step.kind]
    words += ["--extents", "100%FREE" if step.extents is None else str(step.extents)]
    if step.stripes is not None:
        words += ["--stripes", str(step.stripes)]
    if step.stripe_size is not None:
        words += ["--stripesize", f"{step.stripe_size}b"]
    if step.kind is LvKind.RAID1:
        words += ["--mirrors", str(step.mirrors or 1)]
    if step.metadata is not None:
        words += ["--poolmetadatasize", f"{step.metadata}b"]
    return (*words, step.group)


def _luks_format(step: FormatLuks) -> tuple[str, ...]:
    """Source: cryptsetup-luksFormat(8)."""
    words = ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--uuid", step.uuid]
    options = (
        ("--cipher", step.cipher),
        ("--key-size", step.key_bits),
        ("--pbkdf", step.pbkdf),
        ("--sector-size", step.sector),
        ("--key-file", step.key_file),
    )
    for name, value in options:
        if value:
            words += [name, str(value)]
    return (*words, step.device)


def _mkfs(step: FormatFilesystem) -> tuple[str, ...]:
    """Return the command up to the layout's own options.

    Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkfs.vfat(8): there are no long options to use.
    """
    label: tuple[str, ...] = ("-L", step.label) if step.label else ()
    if step.type in EXT_TYPES:
        return (f"mkfs.{step.type}", "-q", "-F", "-U", step.uuid, *label)
    match step.type:
        case FsType.XFS:
            return ("mkfs.xfs", "-q", "-f", "-m", f"uuid={step.uuid}", *label)
        case FsType.BTRFS:
            return ("mkfs.btrfs", "-q", "-f", "-U", step.uuid, *label)
        case FsType.VFAT:
            name = ("-n", step.label) if step.label else ()
            return ("mkfs.vfat", "-F", "32", "-i", step.uuid.replace("-", ""), *name)
        case _:
            raise ValueError(f"{step.type} is not made by FormatFilesystem")


def table_script(step: WriteTable) -> str:
    """Return the input of sfdisk(8); starts and sizes in logical sectors."""
    label = "dos" if step.table is TableKind.MBR else "gpt"
    lines = [f"label: {label}", f"label-id: {step.uuid}", "unit: sectors", ""]
    lines += [_script_line(each, step) for each in step.entries]
    return "\n".join(lines) + "\n"


def _script_line(entry: TableEntry, step: WriteTable) -> str:
    fields = [
        f"start={entry.start // step.sector}",
        f"size={entry.size // step.sector}",
        f"type={MBR_EXTENDED if entry.is_extended else entry.type}",
    ]
    if step.table is TableKind.MBR:
        fields += ["bootable"] if "bootable" in entry.flags else []
    else:
        fields += [f"uuid={entry.uuid}", f'name="{entry.name}"']
        fields += [f'attrs="{" ".join(entry.flags)}"'] if entry.flags else []
    return f"{entry.path} : {', '.join(fields)}"
