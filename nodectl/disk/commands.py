"""The programs that carry out the steps of a plan, as argument lists. Pure."""

from nodectl.disk.model import FsType
from nodectl.disk.plan import (
    ForgetPartitions,
    FormatFilesystem,
    MakeSwap,
    MountFilesystem,
    ShowPartitions,
    Step,
    WipeSignatures,
    WriteTable,
)


def step_commands(step: Step) -> tuple[tuple[str, ...], ...]:
    """Return the programs that a step runs, in order; mounts are made beneath the target.

    `WriteTable` gives its script to sfdisk on standard input.
    """
    match step:
        case ForgetPartitions():
            return (("partx", "--delete", step.disk),)
        case WipeSignatures():
            return (("wipefs", "--all", step.device),)
        case WriteTable():
            # The kernel is told by partx: a kernel without GPT support would drop them all.
            flags = ("--no-reread", "--no-tell-kernel", "--wipe", "never", "--quiet")
            return (("sfdisk", *flags, step.disk),)
        case ShowPartitions():
            return (("partx", "--update", step.disk),)
        case FormatFilesystem():
            return ((*_mkfs(step), *step.options, step.device),)
        case MakeSwap():
            label: tuple[str, ...] = ("--label", step.label) if step.label else ()
            return (("mkswap", "--uuid", step.uuid, *label, *step.options, step.device),)
        case MountFilesystem():
            options = ("--options", ",".join(step.options)) if step.options else ()
            return (("mount", "--types", step.type, *options, step.device, step.path),)


def _mkfs(step: FormatFilesystem) -> tuple[str, ...]:
    """Return the command up to the layout's own options.

    Source: mke2fs(8), mkfs.xfs(8), mkfs.btrfs(8), mkfs.vfat(8): there are no long options to use.
    """
    label: tuple[str, ...] = ("-L", step.label) if step.label else ()
    match step.type:
        case FsType.EXT4:
            return ("mkfs.ext4", "-q", "-F", "-U", step.uuid, *label)
        case FsType.XFS:
            return ("mkfs.xfs", "-q", "-f", "-m", f"uuid={step.uuid}", *label)
        case FsType.BTRFS:
            return ("mkfs.btrfs", "-q", "-f", "-U", step.uuid, *label)
        case FsType.VFAT:
            name = ("-n", step.label) if step.label else ()
            return ("mkfs.vfat", "-F", "32", "-i", step.uuid.replace("-", ""), *name)
        case FsType.SWAP:
            raise ValueError("swap is made by MakeSwap")
