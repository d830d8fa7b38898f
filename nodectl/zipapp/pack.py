"""The bytes of nodectl.pyz: native modules made slim, and the zip around all members.

Every byte is decided here, so that two builds are the same: names sorted by the caller, one date,
one mode, no field that says which Python wrote it. Names are ASCII, and the whole stays below
4 GiB (no zip64).

Source: elf(5); PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16.
"""

import hashlib
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

from nodectl.zipapp.archive import INDEX

DEFLATE_LEVEL = 9
_FIRST_LINE = b"#!/usr/bin/env python3\n"
_SECOND_LINE = "# sha256 of what follows: {}\n"
_STORED, _DEFLATED = 0, 8
_DOS_DATE = (1980 - 1980) << 9 | 1 << 5 | 1  # 1980-01-01, the first that a zip can say
_UNIX_MODE = 0o100644 << 16
_MADE_BY = 3 << 8 | 20  # Unix, version 2.0
_NEEDS = 20


def strip_native(data: bytes) -> bytes:
    """Return a shared library without what only linkers and debuggers read.

    ELF64, little-endian: what no program header points to becomes zeros or falls off the end,
    and the section table is gone.

    Raises:
        ValueError: it is something else.
    """
    if data[:6] != b"\x7fELF\2\1":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    ranges = [(0, 64), (table, table + size * count)]
    for number in range(count):
        offset, _, _, length = struct.unpack_from("<QQQQ", data, table + number * size + 8)
        ranges.append((offset, offset + length))
    slim = bytearray(max(end for _, end in ranges))
    for start, end in ranges:
        slim[start:end] = data[start:end]
    struct.pack_into("<Q", slim, 40, 0)  # e_shoff
    struct.pack_into("<HH", slim, 60, 0, 0)  # e_shnum, e_shstrndx
    return bytes(slim)


class ContentHash:
    """The build id in the making; `archive.py` says of what it is the hash."""

    def __init__(self) -> None:
        """Start with no member."""
        self._state = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        """Take in the next member, in the order of their names."""
        for part in (name.encode("ascii"), data):
            self._state.update(struct.pack("<I", len(part)))
            self._state.update(part)

    def build_id(self) -> str:
        """Return 32 hex digits."""
        return self._state.hexdigest()[:32]


def deflate(data: bytes) -> bytes:
    """Return the raw deflate stream, or the data itself where that is no longer."""
    packer = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(data) + packer.flush()
    return packed if len(packed) < len(data) else data


class ZipWriter:
    """Appends members to a zip that starts after a prefix of known length."""

    def __init__(self, prefix_len: int) -> None:
        """Start after `prefix_len` bytes: offsets count from the start of the file."""
        self._prefix_len = prefix_len
        self._body = bytearray()
        self._directory = bytearray()
        self._count = 0

    def add(self, name: str, data: bytes, packed: bytes) -> int:
        """Append a member (`packed` is what `deflate` made of it); return its data's offset."""
        raw = name.encode("ascii")
        method = _STORED if len(packed) == len(data) else _DEFLATED
        what = (0, method, 0, _DOS_DATE, zlib.crc32(data), len(packed), len(data), len(raw))
        start = self._prefix_len + len(self._body)
        self._body += struct.pack("<IHHHHHIIIHH", 0x04034B50, _NEEDS, *what, 0)
        self._body += raw
        offset = self._prefix_len + len(self._body)
        self._body += packed
        # After the name's length: no extra field, no comment, disk 0, no internal attributes.
        self._directory += struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, _MADE_BY, _NEEDS, *what, 0, 0, 0, 0, _UNIX_MODE, start
        )
        self._directory += raw
        self._count += 1
        return offset

    def finish(self) -> bytes:
        """Return all bytes after the prefix."""
        where = (len(self._directory), self._prefix_len + len(self._body))
        end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, self._count, self._count, *where, 0)
        return bytes(self._body + self._directory + end)


def assemble(members: dict[str, bytes], version: str) -> tuple[bytes, str]:
    """Return the whole file and its build id; the members come sorted by name."""
    content = ContentHash()
    for name, data in members.items():
        content.add(name, data)
    writer = ZipWriter(len(_FIRST_LINE) + len(_SECOND_LINE.format("0" * 64)))
    index = [f"nodectl {version} {content.build_id()}\n"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # zlib lets other threads run
        all_packed = pool.map(deflate, members.values())
        for (name, data), packed in zip(members.items(), all_packed, strict=True):
            offset = writer.add(name, data, packed)
            digest = hashlib.sha256(data).hexdigest()
            numbers = f"{zlib.crc32(data):08x} {offset} {len(packed)} {len(data)}"
            index.append(f"{digest} {numbers} {name}\n")
    text = "".join(index).encode()
    writer.add(INDEX, text, deflate(text))
    rest = writer.finish()
    second = _SECOND_LINE.format(hashlib.sha256(rest).hexdigest()).encode()
    return _FIRST_LINE + second + rest, content.build_id()
