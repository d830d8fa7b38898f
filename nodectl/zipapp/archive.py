"""The running nodectl.pyz: what is in it, and reading it.

The zip's last member, `INDEX`, lists all others in lines of text:

    nodectl <version> <build id>
    <sha256 hex> <crc32 hex> <offset> <packed length> <plain length> <name>

Offsets count from the start of the file to the member's data; a member whose two lengths are
the same is stored, all others are deflated. So members are read through one open descriptor:
a process goes on with the file that it was started from when that is replaced by a newer one.

The build id is the first 16 bytes of a SHA-256 over all members but INDEX, in the order of their
names: u32 length (little-endian) and bytes of the name, then of the plain content.
"""

import os
import sys
import zlib
from typing import NamedTuple

INDEX = "INDEX"


class Damaged(OSError):
    """A member is not what the index says."""


class Member(NamedTuple):
    """One line of the index."""

    sha256: str  # hex, of the plain bytes
    crc32: int  # of the plain bytes too: cheap enough for every start
    offset: int
    packed_len: int
    plain_len: int


class Archive:
    """A zip that stays open: path, version, build id, members by name."""

    __slots__ = ("_fd", "build_id", "members", "path", "version")

    def __init__(self, path: str, index: bytes) -> None:
        """Open the file at `path`, whose index is known.

        Raises:
            OSError: it cannot be opened.
            ValueError: these are not the bytes of an index.
        """
        self.path = path
        self.version, self.build_id, self.members = parse_index(index)
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, name: str) -> bytes:
        """Return the plain bytes of a member.

        Raises:
            FileNotFoundError: there is no such member.
            Damaged: the bytes are not those that were packed.
            OSError: the file cannot be read.
        """
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(f"{name} is not in {self.path}")
        data = self.read_raw(member.offset, member.packed_len)
        if member.packed_len != member.plain_len:
            try:
                data = zlib.decompress(data, -zlib.MAX_WBITS, member.plain_len)
            except zlib.error as exc:
                raise Damaged(f"{name} in {self.path} is damaged") from exc
        if zlib.crc32(data) != member.crc32:
            raise Damaged(f"{name} in {self.path} is damaged")
        return data

    def read_raw(self, offset: int, length: int) -> bytes:
        """Return bytes of the file itself, fewer only where it ends."""
        data = os.pread(self._fd, length, offset)
        while len(data) < length:  # a network file system may give less than asked for
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def size(self) -> int:
        """Return the length of the file in bytes."""
        return os.fstat(self._fd).st_size


def parse_index(data: bytes) -> tuple[str, str, dict[str, Member]]:
    """Return version, build id and members.

    Raises:
        ValueError: the bytes have another form.
    """
    first, *lines = data.decode("utf-8").splitlines()
    _, version, build_id = first.split(" ")
    members = {}
    for line in lines:
        digest, crc, offset, packed, plain, name = line.split(" ", 5)
        members[name] = Member(digest, int(crc, 16), int(offset), int(packed), int(plain))
    return version, build_id, members


_running: list[Archive] = []


def running() -> Archive | None:
    """Return the archive that this process runs from; None outside of one."""
    return _running[0] if _running else None


def set_running(archive: Archive) -> None:
    """Note the archive that this process runs from."""
    _running[:] = [archive]


def target() -> tuple[str, str]:
    """Return the tag of this Python ("cp311") and the architecture ("x86_64")."""
    return f"cp{sys.version_info[0]}{sys.version_info[1]}", os.uname().machine
