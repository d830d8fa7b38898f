"""The files that make a restored tree a machine of its own, written before its first boot.

fstab with the new UUIDs, the host's name, and a machine-id that is derived from realm and node
name: the same node gets the same one again, two nodes never share one. Everything else that makes a
node itself comes with `identity/`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from blake3 import blake3

from nodectl.content.own_files import OWN_FILES, encode_own_files
from nodectl.disk.fstab import merge_fstab
from nodectl.disk.plan import PlannedPartition
from nodectl.errors import ReadBackFailed
from nodectl.fsio import folder_beneath, read_beneath, write_beneath

FSTAB = "etc/fstab"
HOSTNAME = "etc/hostname"
MACHINE_ID = "etc/machine-id"
HOSTS = "etc/hosts"

_MACHINE_ID_CONTEXT = "nodectl 2026-11 machine id"
_MACHINE_ID_BYTES = 16  # machine-id(5): 32 lower-case hexadecimal digits
_OWN_ADDRESS = "127.0.1.1"  # Debian's line for the host's own name
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFiles:
    """What was written."""

    machine_id: str
    written: dict[str, bytes]  # path in the target without leading "/" -> content
    made: frozenset[str]  # folders that the image did not have


def derive_machine_id(realm_id: str, node_name: str) -> str:
    """Return the machine-id of a node: the same for the same realm and name, and no other."""
    fields = b"".join(
        len(text.encode()).to_bytes(4, "little") + text.encode() for text in (realm_id, node_name)
    )
    hasher = blake3(fields, derive_key_context=_MACHINE_ID_CONTEXT)
    return hasher.digest(length=_MACHINE_ID_BYTES).hex()


def write_first_files(
    root: Path, partitions: Sequence[PlannedPartition], *, realm_id: str, node_name: str
) -> FirstFiles:
    """Write the files beneath the mounted target `root`, following no link out of it.

    Raises:
        UnsafePath: /etc of the target is a link; nothing was written through it.
    """
    machine_id = derive_machine_id(realm_id, node_name)
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = _make_folders(root_fd)
        files = {
            FSTAB: (merge_fstab(_text(root_fd, FSTAB), partitions).encode(), 0o644),
            HOSTNAME: (f"{node_name}\n".encode(), 0o644),
            MACHINE_ID: (f"{machine_id}\n".encode(), 0o444),
        }
        hosts = _text(root_fd, HOSTS)
        if hosts != name_own_address(hosts, node_name):
            files[HOSTS] = (name_own_address(hosts, node_name).encode(), 0o644)
        # Last, so that a restore in place never takes the image's file for the node's.
        files[OWN_FILES] = (encode_own_files(frozenset(files)), 0o644)
        for path, (data, mode) in files.items():
            write_beneath(root_fd, path, data, mode=mode)
    finally:
        os.close(root_fd)
    written = {path: data for path, (data, _mode) in files.items()}
    return FirstFiles(machine_id=machine_id, written=written, made=made)


def _make_folders(root_fd: int) -> frozenset[str]:
    """Make /etc, where the image has none, so that a plain tree can be cloned too; and our own."""
    paths = ("etc", str(PurePosixPath(OWN_FILES).parent))
    return frozenset(path for path in paths if _make_folder(root_fd, path))


def _make_folder(root_fd: int, path: str) -> bool:
    """Make a folder unless it is there; the one that it is made in keeps its times."""
    try:
        with folder_beneath(root_fd, path):
            return False
    except FileNotFoundError:
        pass
    with folder_beneath(root_fd, str(PurePosixPath(path).parent)) as parent:
        before = os.fstat(parent)
        with folder_beneath(root_fd, path, make=True):
            os.utime(parent, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def check_first_files(root: Path, files: FirstFiles) -> None:
    """Read the files back.

    Raises:
        ReadBackFailed: one is not there or differs.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path, data in files.written.items():
            if read_beneath(root_fd, path, limit=_MAX_FILE_BYTES) != data:
                raise ReadBackFailed(f"/{path} on the disk is not what was written")
    finally:
        os.close(root_fd)


def name_own_address(hosts: str, node_name: str) -> str:
    """Return the text of /etc/hosts with the node's name on the line of 127.0.1.1, if any.

    A domain of the first name there is kept: "golden.example.org golden" becomes
    "node07.example.org node07".
    """
    lines = []
    for line in hosts.splitlines(keepends=True):
        fields = line.split("#", 1)[0].split()
        if len(fields) > 1 and fields[0] == _OWN_ADDRESS:
            short, dot, domain = fields[1].partition(".")
            names = f"{node_name}.{domain} {node_name}" if short and dot else node_name
            lines.append(f"{_OWN_ADDRESS}\t{names}\n")
        else:
            lines.append(line)
    return "".join(lines)


def _text(root_fd: int, path: str) -> str:
    data = read_beneath(root_fd, path, limit=_MAX_FILE_BYTES)
    return (data or b"").decode("utf-8", "surrogateescape")
