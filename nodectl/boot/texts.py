"""The texts that decide how a kernel starts, edited for a new place. Pure.

A golden node's command line and boot entries name its own disks and carry its own machine-id. What
is stale is taken out, what the new place needs is put in, and everything else stays as it was.

Sources: kernel-command-line(7) of systemd and dracut.cmdline(7) for the words, the Boot Loader
Specification for entries, initramfs-tools(7) for conf.d/resume.
"""

import re
import shlex
from collections.abc import Sequence

# Words that name devices of the machine that was captured.
_STALE = ("root=", "resume=", "resume_offset=", "rd.lvm.lv=", "rd.lvm.vg=", "rd.luks.uuid=",
          "rd.luks.name=", "rd.md.uuid=", "luks.uuid=", "luks.name=", "cryptdevice=",
          "rd.luks.options=", "rd.luks.key=")  # fmt: skip
_ROOTFLAGS = "rootflags="
_GRUB_VARIABLE = re.compile(r"^(\s*(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_[A-Z]+)?)=)(.*)$")
_ENTRY_ID = re.compile(r"([0-9a-f]{32})-(.+)\.conf")
_RESCUE = "0-rescue"


def fresh_words(words: Sequence[str]) -> list[str]:
    """Return a kernel's command line without the words that name devices, or a subvolume."""
    kept = (_fresh_word(word) for word in words if not word.startswith(_STALE))
    return [word for word in kept if word]


def _fresh_word(word: str) -> str:
    if not word.startswith(_ROOTFLAGS):
        return word
    flags = word.removeprefix(_ROOTFLAGS).split(",")
    kept = [flag for flag in flags if not flag.startswith(("subvol=", "subvolid="))]
    return f"{_ROOTFLAGS}{','.join(kept)}" if kept else ""


def fix_grub_defaults(text: str) -> str:
    """Return /etc/default/grub without stale words on the kernel's command line.

    A value that this cannot read as one quoted word is left as it is.
    """
    lines = []
    for line in text.splitlines():
        match = _GRUB_VARIABLE.match(line)
        lines.append(f"{match[1]}{_fresh_value(match[3])}" if match else line)
    return "".join(f"{line}\n" for line in lines)


def _fresh_value(value: str) -> str:
    try:
        parts = shlex.split(value, comments=True)
    except ValueError:
        return value
    if len(parts) != 1 or "$" in value or "`" in value:
        return value
    words = parts[0].split()
    kept = fresh_words(words)
    return value if kept == words else f'"{" ".join(kept)}"'


def resume_conf(swap_uuid: str) -> str:
    """Return conf.d/resume of initramfs-tools: where to look for a hibernated system, if at all.

    A stale one makes every boot wait half a minute for a disk that is not there.
    """
    return f"RESUME=UUID={swap_uuid}\n" if swap_uuid else "RESUME=none\n"


def entry_name(name: str, machine_id: str) -> str | None:
    """Return the name that a boot loader entry must have; None: it must go.

    Entries carry the machine-id; one of another machine is not updated by new kernels and may sort
    before those that are. The rescue entry goes: its initramfs carries the other machine's id too.
    """
    match = _ENTRY_ID.fullmatch(name)
    if match is None:
        return name
    return None if match[2].startswith(_RESCUE) else f"{machine_id}-{match[2]}.conf"


def fix_entry(text: str, machine_id: str, options: Sequence[str]) -> str:
    """Return a boot loader entry with the machine-id and this kernel command line."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "options":
            lines.append(f"options {' '.join(options)}")
        elif key == "machine-id":
            lines.append(f"machine-id {machine_id}")
        else:
            lines.append(f"{key} {value.strip()}" if value else line)
    return "".join(f"{line}\n" for line in lines)


def entry_options(text: str) -> list[str]:
    """Return the words of an entry's options."""
    found = [line.partition(" ")[2].split() for line in text.splitlines()
             if line.startswith("options ")]  # fmt: skip
    return [word for words in found for word in words]


def kernel_options(
    old: Sequence[str], *, root_uuid: str, root_subvolume: str = "", more: Sequence[str] = ()
) -> list[str]:
    """Return a kernel's command line for the new root: `old` without stale words, ours in front.

    Of several rootflags= the last one wins, so the subvolume is put in front of what is in it.
    """
    kept = [word for word in fresh_words(old) if word not in more]
    root = [f"root=UUID={root_uuid}"]
    if root_subvolume:
        flags = [word.removeprefix(_ROOTFLAGS) for word in kept if word.startswith(_ROOTFLAGS)]
        kept = [word for word in kept if not word.startswith(_ROOTFLAGS)]
        root.append(_ROOTFLAGS + ",".join([f"subvol={root_subvolume}", *flags[-1:]]))
    return [*root, *more, *kept]


def esp_grub_config(boot_uuid: str, folder: str) -> str:
    """Return the small grub.cfg on the ESP that leads to the real one.

    Args:
        boot_uuid: of the filesystem with GRUB's folder.
        folder: that folder from the top of its filesystem, such as /boot/grub.
    """
    return (
        f"search.fs_uuid {boot_uuid} root\n"
        f"set prefix=($root)'{folder}'\n"
        "configfile $prefix/grub.cfg\n"
    )


def names_root(config: str, root_uuid: str) -> bool:
    """Say whether some kernel in a grub.cfg is started with this root, by UUID or by LVM name."""
    roots = re.findall(r"^\s*linux\S*\s.*?\broot=(\S+)", config, re.MULTILINE)
    return bool(roots) and all(
        root == f"UUID={root_uuid}" or root.startswith("/dev/mapper/") for root in roots
    )
