"""Which files an initramfs holds, read without its system's own programs.

An initramfs is a row of cpio archives of the "newc" kind, some as they are (microcode) and one
compressed (Linux: Documentation/driver-api/early-userspace/buffer-format.rst). gzip, xz and zstd
are read here; for another one the answer is None, and nobody guesses.
"""

import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from typing import Protocol

import zstandard

_HEAD = 110  # bytes of a newc header
_MAGICS = (b"070701", b"070702")
_TRAILER = "TRAILER!!!"
_NAME_LIMIT = 4096
_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/.*?([^/]+)\.ko(?:\.(?:xz|zst|gz))?")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes:
        """Return that many bytes, fewer only at the end."""


def initramfs_names(data: bytes) -> frozenset[str] | None:
    """Return the paths in it, without leading "./" or "/"; None: compressed in another way.

    Raises:
        ValueError: it is damaged.
    """
    names: set[str] = set()
    rest = io.BytesIO(data)
    try:
        while True:
            at = _skip_padding(rest, data)
            if at >= len(data):
                return frozenset(names)
            if data[at : at + 6] in _MAGICS:
                names.update(_archive(rest))
                continue
            stream = _decompressed(data[at:])
            if stream is None:
                return None
            names.update(_archive(stream))
            return frozenset(names)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError) as exc:
        raise ValueError(f"it is cut off or damaged: {exc}") from exc


def _skip_padding(rest: io.BytesIO, data: bytes) -> int:
    at = rest.tell()
    while data[at : at + 4] == b"\0\0\0\0":
        at += 4
    rest.seek(at)
    return at


def _decompressed(data: bytes) -> _Readable | None:
    if data.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=io.BytesIO(data))
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(io.BytesIO(data))
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        return io.BufferedReader(reader)
    return None


def _archive(stream: _Readable) -> Iterator[str]:
    """Yield the names of one archive; the stream stands behind it afterwards."""
    while True:
        head = _exactly(stream, _HEAD)
        if head[:6] not in _MAGICS:
            raise ValueError("an entry has no newc header")
        size, name_size = int(head[54:62], 16), int(head[94:102], 16)
        if not 0 < name_size <= _NAME_LIMIT:
            raise ValueError(f"a name has {name_size} bytes")
        name = _exactly(stream, name_size + -(_HEAD + name_size) % 4)[: name_size - 1]
        _exactly(stream, size + -size % 4)
        text = name.decode("utf-8", "surrogateescape")
        if text == _TRAILER:
            return
        yield text.removeprefix("./").lstrip("/")


def _exactly(stream: _Readable, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it is cut off")
    return data


def module_names(paths: frozenset[str]) -> frozenset[str]:
    """Return the kernel modules among paths, by the names that the kernel uses (with "_")."""
    found = (_MODULE.fullmatch(path) for path in paths)
    return frozenset(match[1].replace("-", "_") for match in found if match)


def builtin_names(text: str) -> frozenset[str]:
    """Return the modules that a modules.builtin file names, with "_"."""
    names = (line.rpartition("/")[2].removesuffix(".ko") for line in text.splitlines())
    return frozenset(name.replace("-", "_") for name in names if name)
