"""After a restore in place: whether the menu still leads to the kernels that are there. Pure.

A clone's menu, and often its initramfs, are the node's own files: a restore in place leaves them
alone, also when the image brought another kernel and took away the one that the menu names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nodectl.boot.model import Family
from nodectl.boot.plan import (
    INITRAMFS_TIMEOUT_S,
    LOADER_TIMEOUT_S,
    BootStep,
    RemoveFile,
    RunInside,
    run_dracut,
)

MENUS = {Family.DEBIAN: "boot/grub/grub.cfg", Family.RHEL: "boot/grub2/grub.cfg"}
_IN_MENU = re.compile(r"^\s*linux\S*\s+\S*/vmlinu[xz]-(\S+)", re.MULTILINE)
_INITRAMFS = {Family.DEBIAN: "boot/initrd.img-{}", Family.RHEL: "boot/initramfs-{}.img"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MenuFacts:
    """What decides it."""

    family: Family
    kernels: tuple[str, ...]
    initramfs: frozenset[str]  # versions that have one
    menu: str  # grub.cfg
    entries: Mapping[str, str]  # of the Boot Loader Specification: path -> text
    own: frozenset[str]  # the node's own files


def named_kernels(facts: MenuFacts) -> frozenset[str]:
    """Return the kernels that can be chosen."""
    texts = [facts.menu, *facts.entries.values()]
    return frozenset(version for text in texts for version in _IN_MENU.findall(text))


def plan_refresh(facts: MenuFacts) -> tuple[BootStep, ...]:
    """Return what brings menu and initramfs to the kernels that are there; empty: they agree.

    Where this node needed an initramfs of its own, it needs one for each new kernel, too: it stands
    on RAID or LUKS, or on a controller that the image's does not know.
    """
    named = named_kernels(facts)
    kernels = frozenset(facts.kernels)
    made_here = any(path.startswith(("boot/initrd.img-", "boot/initramfs-")) for path in facts.own)
    new = kernels - named
    lacking = frozenset(
        version for version in kernels
        if version not in facts.initramfs
        or (made_here and _INITRAMFS[facts.family].format(version) not in facts.own)
    )  # fmt: skip
    if not new and not lacking and named <= kernels:
        return ()
    gone = [path for path in _initramfs_paths(facts, named - kernels) if path in facts.own]
    return (
        *_initramfs(facts, lacking),
        *(RemoveFile(path=path) for path in gone),
        *_menu(facts, new, named - kernels),
    )


def _initramfs_paths(facts: MenuFacts, versions: frozenset[str]) -> Iterator[str]:
    for version in sorted(versions):
        yield _INITRAMFS[facts.family].format(version)


def _initramfs(facts: MenuFacts, versions: frozenset[str]) -> Iterator[BootStep]:
    for version in sorted(versions):
        if facts.family is Family.DEBIAN:
            flag = "-u" if version in facts.initramfs else "-c"
            argv = ("update-initramfs", flag, "-k", version)
            yield RunInside(argv=argv, timeout=INITRAMFS_TIMEOUT_S)
        else:
            yield run_dracut(version)


def _menu(facts: MenuFacts, new: frozenset[str], gone: frozenset[str]) -> Iterator[BootStep]:
    if facts.entries:
        for path, text in sorted(facts.entries.items()):
            if set(_IN_MENU.findall(text)) & gone:
                yield RemoveFile(path=path)
        for version in sorted(new):
            image = f"/lib/modules/{version}/vmlinuz"
            yield RunInside(
                argv=("kernel-install", "add", version, image), timeout=INITRAMFS_TIMEOUT_S
            )
    program = "grub2-mkconfig" if facts.family is Family.RHEL else "grub-mkconfig"
    words = ("env", "GRUB_DISABLE_OS_PROBER=true", program, f"--output=/{MENUS[facts.family]}")
    yield RunInside(argv=words, timeout=LOADER_TIMEOUT_S)


def menu_mistakes(facts: MenuFacts, root_uuid: str) -> tuple[str, ...]:
    """Return what still keeps a kernel from starting, a clause each."""
    named = named_kernels(facts)
    lines = [f"the menu does not have kernel {each}" for each in facts.kernels if each not in named]
    lines += [
        f"kernel {each} has no initramfs" for each in facts.kernels if each not in facts.initramfs
    ]
    if not facts.entries and root_uuid not in facts.menu:
        lines.append(f"the menu does not name the root filesystem {root_uuid}")
    return tuple(lines)
