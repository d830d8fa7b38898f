"""What a machine gets that asks how to start: iPXE scripts; pure.

Whoever is on the boot network can read them. A script that starts an installer holds a boot ticket,
which lets one machine in, once, within minutes, under one name; nothing else in it is secret.

Source: https://ipxe.org/scripting and /cmd.
"""

import re
from dataclasses import dataclass, field

from nodectl.errors import InvalidInput

# Of the machine that asks, in words of iPXE: hexadecimal with hyphens, as BOOTIF wants it.
MAC_WORD = "${netX/mac:hexhyp}"
ARCHITECTURES = {"x86_64": "x86_64", "i386": "x86_64", "arm64": "aarch64"}
"""iPXE's ${buildarch} -> architecture of the installer (the BIOS's loader is a 32-bit program)."""

_ARGUMENTS = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")
_ARGUMENTS_MAX = 512
_RETRY_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A machine that is to start an installer."""

    node: str
    what: str  # shown on the console: "golden generation 3"
    base: str  # URL beneath which kernel and first root are
    machine: str  # architecture
    ticket: str = field(repr=False)
    arguments: str = ""  # more for the kernel


def local_script(why: str) -> str:
    """Return the script of a machine that starts from its own disk; `why` is shown."""
    return (
        "#!ipxe\n"
        f"echo nodectl: {_shown(why)}\n"
        "iseq ${platform} efi && exit ||\n"
        "sanboot --no-describe --drive 0x80 || exit\n"
    )


def cloner_script(start: Start) -> str:
    """Return the script of a machine that starts an installer.

    Raises:
        InvalidInput: the arguments cannot stand in a script.
    """
    words = [
        "initrd=initrd.img",
        f"nodectl.name={start.node}",
        f"nodectl.ticket={start.ticket}",
        f"BOOTIF=01-{MAC_WORD}",
        *checked_arguments(start.arguments).split(),
    ]
    place = f"{start.base}/installer/{start.machine}"
    return (
        "#!ipxe\n"
        f"echo nodectl: {start.node} becomes {_shown(start.what)}\n"
        "imgfree\n"
        f"kernel {place}/vmlinuz {' '.join(words)} || goto failed\n"
        f"initrd --name initrd.img {place}/initrd.img || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        f"echo nodectl: the installer does not start; again in {_RETRY_S} s\n"
        f"sleep {_RETRY_S}\n"
        "reboot\n"
    )


def checked_arguments(text: str) -> str:
    """Return arguments for a kernel that may stand in a script.

    Raises:
        InvalidInput: too long, or with a character that iPXE reads as something else.
    """
    if not text:
        return text
    if len(text) > _ARGUMENTS_MAX or not _ARGUMENTS.fullmatch(text) or re.search(r"[$#|&\\]", text):
        raise InvalidInput(
            f"not arguments for a kernel: {text[:80]!r}", hint="example: console=ttyS0,115200"
        )
    return text


def _shown(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9 .,:@_()/-]", "?", text)[:200]
