"""A second reader of nodectl's stores, written from docs/format.md and nothing else."""

import json
import struct
from collections.abc import Iterator
from typing import Any

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KINDS = ("", "file", "directory", "symlink", "link", "char", "block", "fifo", "more")


def read_pack(data: bytes) -> dict[bytes, bytes]:
    """Return the frames of a pack by FrameId."""
    assert data[:8] == b"NCPACK\0\1"
    frames, at = {}, 8
    while at < len(data):
        magic, sealed_len, _, frame_id, _ = struct.unpack_from("<4sII32s32s", data, at)
        assert magic == b"NCFR"
        sealed = data[at + 76 : at + 76 + sealed_len]
        assert blake3(sealed).digest() == frame_id
        frames[frame_id] = sealed
        at += 76 + sealed_len
    return frames


class Reader:
    """One realm's secret and one set of frames."""

    def __init__(self, secret: bytes, frames: dict[bytes, bytes]) -> None:
        self._frames = frames
        self._chunk_key = blake3(secret, derive_key_context="nodectl 2026-11 chunk id").digest()
        seal = blake3(secret, derive_key_context="nodectl 2026-11 frame seal").digest()
        self._nonce_key = blake3(secret, derive_key_context="nodectl 2026-11 frame nonce").digest()
        self._aead = AESGCM(seal)
        self.totals = (0, 0, 0)  # entries, plain and sealed bytes, as the last root block says
        self._last: tuple[tuple[bytes, bytes, int, int], bytes] | None = None

    def open(self, chunk_id: bytes, frame_id: bytes, plain_len: int, sealed_len: int) -> bytes:
        """Return the plain bytes of a chunk."""
        reference = (chunk_id, frame_id, plain_len, sealed_len)
        if self._last and self._last[0] == reference:  # a file may repeat one chunk
            return self._last[1]
        frame = self._frames[frame_id]
        assert len(frame) == sealed_len
        assert frame[0] == 1
        nonce = frame[1:13]
        encoded = self._aead.decrypt(nonce, frame[13:], chunk_id)
        assert nonce == blake3(encoded, key=self._nonce_key).digest(12)
        plain = encoded[1:]
        if encoded[0] == 1:
            assert zstandard.frame_content_size(plain) == plain_len <= 1 << 20
            plain = zstandard.decompress(plain)
        assert len(plain) == plain_len
        assert blake3(plain, key=self._chunk_key).digest() == chunk_id
        self._last = reference, plain
        return plain

    def parts(self, root: bytes) -> list[bytes]:
        """Return the plain bytes of all parts of a manifest, the head first."""
        block = self._frames[root]
        assert blake3(block).digest() == root
        magic, version, kind, profile, tag = struct.unpack_from("<4sBBH16s", block)
        entries, plain_bytes, sealed_bytes, count = struct.unpack_from("<QQQI", block, 24)
        self.totals = entries, plain_bytes, sealed_bytes
        assert (magic, version, kind, profile) == (b"NCRT", 1, 1, 1)
        assert tag == blake3(b"nodectl realm", key=self._chunk_key).digest(16)
        assert len(block) == 52 + 72 * count
        return [
            self.open(*struct.unpack_from("<32s32sII", block, 52 + 72 * number))
            for number in range(count)
        ]

    def head(self, root: bytes) -> dict[str, Any]:
        """Return the head of a manifest."""
        document: dict[str, Any] = json.loads(self.parts(root)[0])
        return document

    def records(self, root: bytes) -> Iterator[dict[str, Any]]:
        """Yield all records of a manifest."""
        for part in self.parts(root)[1:]:
            yield from _records(part)

    def chunk_places(self, record: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
        """Yield offset and plain bytes of the chunks of a record."""
        if record["extents"]:
            places = []
            for begin, length in record["extents"]:
                at = begin
                while at < begin + length:
                    places.append(at)
                    at = min(begin + length, at // (1 << 20) * (1 << 20) + (1 << 20))
        else:
            first = record["size"] if record["kind"] == "more" else 0
            places = [first + (number << 20) for number in range(len(record["refs"]))]
        for place, ref in zip(places, record["refs"], strict=True):
            yield place, self.open(*ref)


def _records(part: bytes) -> Iterator[dict[str, Any]]:
    magic, n, c, e, s, path_bytes, target_bytes = struct.unpack_from("<4s6I", part)
    assert magic == b"NCPT"
    at = 28

    def column(code: str, count: int) -> tuple[Any, ...]:
        nonlocal at
        layout = struct.Struct("<" + code * count)
        at += layout.size
        return layout.unpack_from(part, at - layout.size)

    kinds, modes, uids, gids = (column(code, n) for code in "BHII")
    mtimes, sizes = column("q", n), column("Q", n)
    chunk_counts, extent_counts, sets = column("I", n), column("I", n), column("I", n)
    numbers = column("Q", 2 * e)
    extents = list(zip(numbers[0::2], numbers[1::2], strict=True))
    refs = list(
        zip(column("32s", c), column("32s", c), column("I", c), column("I", c), strict=True)
    )
    paths = part[at : at + path_bytes].split(b"\0")[:n]
    at += path_bytes
    targets = part[at : at + target_bytes].split(b"\0")[:-1]
    at += target_bytes
    attributes: list[dict[bytes, bytes]] = [{}]
    for _ in range(s):
        one = {}
        for _ in range(column("H", 1)[0]):
            (name,) = column(f"{column('H', 1)[0]}s", 1)
            (one[name],) = column(f"{column('I', 1)[0]}s", 1)
        attributes.append(one)
    assert at == len(part)
    for row in range(n):
        kind = KINDS[kinds[row]]
        yield {
            "path": paths[row],
            "kind": kind,
            "mode": modes[row],
            "uid": uids[row],
            "gid": gids[row],
            "mtime_ns": mtimes[row],
            "size": sizes[row],
            "target": targets.pop(0) if kind in ("symlink", "link") else b"",
            "xattrs": attributes[sets[row]],
            "extents": [extents.pop(0) for _ in range(extent_counts[row])],
            "refs": [refs.pop(0) for _ in range(chunk_counts[row])],
        }
    assert [refs, extents, targets] == [[], [], []]
