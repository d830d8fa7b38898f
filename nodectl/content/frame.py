r"""Frames: a chunk as it is stored and sent. Encode, seal, open, check.

    frame   = version (1 byte, 1) | nonce (12) | AES-256-GCM(encoded) | tag (16)
    encoded = codec (1 byte: 0 plain, 1 zstd) | payload

* key: `ContentKeys.seal`; associated data: the ChunkId (32 bytes).
* nonce: the first 12 bytes of BLAKE3 keyed with `ContentKeys.nonce` over `encoded`. The same
  encoded bytes always give the same frame (so that stores and swarms share it), and a nonce is
  never used for two different plaintexts short of a 96-bit collision.
* ChunkId: BLAKE3 keyed with `ContentKeys.chunk_id` over the plain bytes. FrameId: BLAKE3, no key,
  over the frame. Anyone can check a FrameId; only the realm can relate it to content.

Sealing is why the data plane needs no TLS.
"""

import contextlib
import threading
from dataclasses import dataclass
from typing import NamedTuple

import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodectl.errors import ContentInvalid
from nodectl.ids import ChunkId, FrameId
from nodectl.trust.keys import ContentKeys

CHUNK_MAX = 1 << 20  # plain bytes of one chunk, at most
FRAME_VERSION = 1
REALM_TAG_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_CODEC_PLAIN = b"\0"
_CODEC_ZSTD = b"\1"
OVERHEAD = 1 + _NONCE_BYTES + 1 + _TAG_BYTES  # bytes that sealing adds to a payload
FRAME_MAX = CHUNK_MAX + OVERHEAD  # what does not shrink is stored plain, so this always holds
_VERSION_BYTE = bytes([FRAME_VERSION])
# The window of a 1 MiB chunk fits in 2^20; anything larger was not made by us.
_WINDOW_MAX = CHUNK_MAX

LEVEL_FAST = 3
LEVEL_BEST = 9


class FrameRef(NamedTuple):
    """Where a manifest points to: one frame and what must come out of it."""

    chunk_id: ChunkId
    frame_id: FrameId
    plain_len: int  # bytes
    sealed_len: int  # bytes


class Frame(NamedTuple):
    """A sealed chunk with its reference."""

    ref: FrameRef
    sealed: bytes


@dataclass(frozen=True, slots=True)
class _Contexts:
    """zstd contexts of one thread: one context must not be used by two threads at once."""

    compressor: zstandard.ZstdCompressor
    decompressor: zstandard.ZstdDecompressor


class FrameCodec:
    """Seals and opens frames of one realm; may be shared by threads."""

    def __init__(self, keys: ContentKeys, *, level: int = LEVEL_FAST) -> None:
        """Prepare for one realm's keys and one zstd level; older keys only open."""
        self._keys = keys
        self._aead = AESGCM(keys.seal)
        self._older = tuple((one, AESGCM(one.seal)) for one in keys.older)
        self._level = level
        self._local = threading.local()

    def _contexts(self) -> _Contexts:
        contexts: _Contexts | None = getattr(self._local, "contexts", None)
        if contexts is None:
            contexts = _Contexts(
                zstandard.ZstdCompressor(level=self._level, write_content_size=True),
                zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX),
            )
            self._local.contexts = contexts
        return contexts

    def realm_tag(self) -> bytes:
        """Return 16 bytes by which manifests of this realm are told from those of others."""
        return realm_tag(self._keys)

    def knows_tag(self, tag: bytes) -> bool:
        """Say whether the manifest with this tag was made with the realm's keys, or older ones."""
        return any(tag == realm_tag(one) for one in (self._keys, *self._keys.older))

    def chunk_id(self, plain: bytes | memoryview) -> ChunkId:
        """Return the ChunkId of plain bytes."""
        return ChunkId(blake3(plain, key=self._keys.chunk_id).digest())

    def compress(self, plain: bytes | memoryview) -> bytes:
        """Return plain bytes compressed, as `seal` does first."""
        return self._contexts().compressor.compress(plain)

    def seal(self, plain: bytes | memoryview, chunk_id: ChunkId) -> Frame:
        """Compress and seal one chunk of at most `CHUNK_MAX` bytes, whose id is `chunk_id`."""
        packed = self.compress(plain)
        if len(packed) < len(plain):  # noqa: SIM108 - the two codecs read better apart
            encoded = _CODEC_ZSTD + packed
        else:
            encoded = _CODEC_PLAIN + bytes(plain)
        return self._sealed(encoded, chunk_id, len(plain))

    def reseal(self, sealed: bytes | memoryview, ref: FrameRef) -> Frame:
        """Return the frame of the same chunk, as it is compressed there, sealed with today's key.

        Raises:
            ContentInvalid: any bit of it is not what `ref` says.
        """
        encoded, plain = self._unsealed(sealed, ref)
        return self._sealed(encoded, self.chunk_id(plain), len(plain))

    def _sealed(self, encoded: bytes, chunk_id: ChunkId, plain_len: int) -> Frame:
        nonce = blake3(encoded, key=self._keys.nonce).digest(_NONCE_BYTES)
        sealed = b"".join((_VERSION_BYTE, nonce, self._aead.encrypt(nonce, encoded, chunk_id)))
        ref = FrameRef(chunk_id, FrameId(blake3(sealed).digest()), plain_len, len(sealed))
        return Frame(ref, sealed)

    def open(self, sealed: bytes | memoryview, ref: FrameRef) -> bytes:
        """Return the plain bytes of a frame, checked against its reference.

        Raises:
            ContentInvalid: any bit of it is not what `ref` says.
        """
        return self._unsealed(sealed, ref)[1]

    def _unsealed(self, sealed: bytes | memoryview, ref: FrameRef) -> tuple[bytes, bytes]:
        """Return the encoded and the plain bytes of a frame."""
        if len(sealed) != ref.sealed_len or len(sealed) < OVERHEAD:
            raise ContentInvalid(f"frame {ref.frame_id.hex()} has a wrong length")
        if sealed[0] != FRAME_VERSION:
            raise ContentInvalid(f"frame {ref.frame_id.hex()} has unknown version {sealed[0]}")
        view = memoryview(sealed)  # a frame may be 1 MiB: not copied only to be cut
        nonce, body = view[1 : 1 + _NONCE_BYTES], view[1 + _NONCE_BYTES :]
        keys = self._keys
        try:
            encoded = self._aead.decrypt(nonce, body, ref.chunk_id)
        except InvalidTag as exc:
            keys, encoded = self._unsealed_before(nonce, body, ref, exc)
        plain = self._decode(encoded, ref)
        if blake3(plain, key=keys.chunk_id).digest() != ref.chunk_id:
            raise ContentInvalid(f"frame {ref.frame_id.hex()} holds another chunk")
        return encoded, plain

    def _unsealed_before(
        self, nonce: memoryview, body: memoryview, ref: FrameRef, why: InvalidTag
    ) -> tuple[ContentKeys, bytes]:
        """Open with the keys that were the realm's before."""
        for keys, aead in self._older:
            with contextlib.suppress(InvalidTag):
                return keys, aead.decrypt(nonce, body, ref.chunk_id)
        raise ContentInvalid(f"frame {ref.frame_id.hex()} is not of this realm") from why

    def _decode(self, encoded: bytes, ref: FrameRef) -> bytes:
        """Undo the codec; never produces more than `ref.plain_len` bytes."""
        payload = memoryview(encoded)[1:]
        if encoded[:1] == _CODEC_PLAIN:
            plain = bytes(payload)
        elif encoded[:1] == _CODEC_ZSTD:
            # python-zstandard ignores max_output_size when the frame states a size, so the
            # stated size is bounded before anything is decompressed.
            try:
                stated = zstandard.frame_content_size(payload)
                if stated != ref.plain_len or stated > CHUNK_MAX:
                    raise ContentInvalid(f"frame {ref.frame_id.hex()} states a wrong size")
                plain = self._contexts().decompressor.decompress(payload, allow_extra_data=False)
            except zstandard.ZstdError as exc:
                raise ContentInvalid(f"frame {ref.frame_id.hex()} does not decompress") from exc
        else:
            raise ContentInvalid(f"frame {ref.frame_id.hex()} has an unknown codec")
        if len(plain) != ref.plain_len:
            raise ContentInvalid(f"frame {ref.frame_id.hex()} has a wrong plain length")
        return plain


def realm_tag(keys: ContentKeys) -> bytes:
    """Return 16 bytes by which manifests made with these keys are told from others."""
    return blake3(b"nodectl realm", key=keys.chunk_id).digest(REALM_TAG_BYTES)


def check_frame_id(sealed: bytes | memoryview, frame_id: FrameId) -> bool:
    """Say whether these sealed bytes are the frame `frame_id`; needs no key."""
    return blake3(sealed).digest() == frame_id
