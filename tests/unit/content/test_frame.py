"""Frames: what is sealed comes out, and nothing else does."""

import concurrent.futures
import random
import tracemalloc

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodectl.content.frame import (
    CHUNK_MAX,
    FRAME_MAX,
    FRAME_VERSION,
    LEVEL_BEST,
    OVERHEAD,
    Frame,
    FrameCodec,
    FrameRef,
    check_frame_id,
)
from nodectl.errors import ContentInvalid
from nodectl.ids import ChunkId, FrameId
from nodectl.trust.keys import ContentKeys

PLAIN, ZSTD = b"\0", b"\1"


def _seal(codec: FrameCodec, plain: bytes) -> Frame:
    return codec.seal(plain, codec.chunk_id(plain))


def _forge(keys: ContentKeys, encoded: bytes, chunk_id: ChunkId, plain_len: int) -> Frame:
    """Seal any encoded bytes as a member of the realm could that keeps to no rule."""
    nonce = blake3(encoded, key=keys.nonce).digest(12)
    sealed = bytes([FRAME_VERSION]) + nonce + AESGCM(keys.seal).encrypt(nonce, encoded, chunk_id)
    return Frame(
        FrameRef(chunk_id, FrameId(blake3(sealed).digest()), plain_len, len(sealed)), sealed
    )


@pytest.mark.parametrize("size", [0, 1, 2, 31, 4095, 4096, 65537, CHUNK_MAX - 1, CHUNK_MAX])
@pytest.mark.parametrize("kind", ["zeros", "text", "random"])
def test_what_is_sealed_comes_out(codec: FrameCodec, size: int, kind: str) -> None:
    plain = {
        "zeros": bytes(size),
        "text": (b"the quick brown fox " * (size // 20 + 1))[:size],
        "random": random.Random(size).randbytes(size),
    }[kind]
    frame = _seal(codec, plain)
    assert codec.open(frame.sealed, frame.ref) == plain
    assert frame.ref.plain_len == size
    assert frame.ref.sealed_len == len(frame.sealed) <= FRAME_MAX
    assert check_frame_id(frame.sealed, frame.ref.frame_id)


def test_buffers_of_any_kind_are_taken(codec: FrameCodec) -> None:
    plain = b"some words, some words, some words"
    frame = codec.seal(memoryview(plain), codec.chunk_id(memoryview(plain)))
    assert frame == _seal(codec, plain)
    assert codec.open(memoryview(frame.sealed), frame.ref) == plain


def test_the_layout_is_the_documented_one(realm_keys: ContentKeys, codec: FrameCodec) -> None:
    """Read one frame with the primitives alone, as another implementation would."""
    plain = b"abc" * 1000
    ref, sealed = _seal(codec, plain)
    assert sealed[0] == 1
    nonce = sealed[1:13]
    encoded = AESGCM(realm_keys.seal).decrypt(nonce, sealed[13:], ref.chunk_id)
    assert nonce == blake3(encoded, key=realm_keys.nonce).digest()[:12]
    assert encoded[:1] == ZSTD
    assert zstandard.decompress(encoded[1:]) == plain
    assert ref.chunk_id == blake3(plain, key=realm_keys.chunk_id).digest()
    assert ref.frame_id == blake3(sealed).digest()


def test_an_incompressible_chunk_is_kept_plain(realm_keys: ContentKeys, codec: FrameCodec) -> None:
    plain = random.Random(1).randbytes(1000)
    ref, sealed = _seal(codec, plain)
    assert AESGCM(realm_keys.seal).decrypt(sealed[1:13], sealed[13:], ref.chunk_id) == PLAIN + plain
    assert len(sealed) == len(plain) + OVERHEAD


def test_a_plain_frame_never_changes(codec: FrameCodec) -> None:
    """Golden: a frame kept plain depends on no version of zstd."""
    frame = _seal(codec, b"nodectl")
    assert (
        frame.sealed.hex()
        == "016e63fb6f05779025c3cdf2dd9be7065e1b00be8784f81c63a4374646ecb88f78a5ba15a6"
    )


def test_the_same_chunk_gives_the_same_frame(realm_keys: ContentKeys) -> None:
    plain = b"abc" * 1000
    assert _seal(FrameCodec(realm_keys), plain) == _seal(FrameCodec(realm_keys), plain)


def test_levels_differ_in_the_frame_and_agree_on_the_chunk(realm_keys: ContentKeys) -> None:
    generator = random.Random(2)
    plain = b" ".join(generator.choice([b"alpha", b"beta", b"gamma", b"x"]) for _ in range(9999))
    fast, best = FrameCodec(realm_keys), FrameCodec(realm_keys, level=LEVEL_BEST)
    one, two = _seal(fast, plain), _seal(best, plain)
    assert one.ref.chunk_id == two.ref.chunk_id
    assert one.ref.frame_id != two.ref.frame_id
    assert fast.open(two.sealed, two.ref) == best.open(one.sealed, one.ref) == plain


@pytest.mark.parametrize("key", ["chunk_id", "seal"])
def test_another_realm_cannot_open_it(realm_keys: ContentKeys, codec: FrameCodec, key: str) -> None:
    frame = _seal(codec, b"secret words")
    document = {**realm_keys.to_hex(), key: "ab" * 32}
    with pytest.raises(ContentInvalid):
        FrameCodec(ContentKeys.from_hex(document)).open(frame.sealed, frame.ref)


def test_a_frame_does_not_pass_for_another(codec: FrameCodec) -> None:
    one, two = _seal(codec, b"one"), _seal(codec, b"two")
    with pytest.raises(ContentInvalid):
        codec.open(one.sealed, two.ref)


def test_a_frame_with_the_wrong_chunk_inside_is_refused(
    realm_keys: ContentKeys, codec: FrameCodec
) -> None:
    wrong = _forge(realm_keys, PLAIN + b"two", codec.chunk_id(b"one"), 3)
    with pytest.raises(ContentInvalid, match="another chunk"):
        codec.open(wrong.sealed, wrong.ref)


@pytest.mark.parametrize("plain_len", [0, 2, 4, CHUNK_MAX, -1])
@pytest.mark.parametrize("encoded", [PLAIN + b"abc", ZSTD + zstandard.compress(b"abc")])
def test_a_wrong_plain_length_is_refused(
    realm_keys: ContentKeys, codec: FrameCodec, encoded: bytes, plain_len: int
) -> None:
    frame = _forge(realm_keys, encoded, codec.chunk_id(b"abc"), plain_len)
    with pytest.raises(ContentInvalid):
        codec.open(frame.sealed, frame.ref)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\2abc",
        ZSTD,
        ZSTD + b"abc",
        ZSTD + zstandard.compress(b"abc")[:-1],
        ZSTD + zstandard.compress(b"abc") + b"x",
        ZSTD + zstandard.compress(b"abc") + zstandard.compress(b"abc"),
        ZSTD + zstandard.ZstdCompressor(write_content_size=False).compress(b"abc"),
        ZSTD + b"\x50\x2a\x4d\x18\x00\x00\x00\x00",  # a skippable frame
    ],
    ids=["empty", "codec", "no-zstd", "garbage", "cut", "trailing", "twice", "no-size", "skip"],
)
def test_malformed_payloads_are_refused(
    realm_keys: ContentKeys, codec: FrameCodec, encoded: bytes
) -> None:
    frame = _forge(realm_keys, encoded, codec.chunk_id(b"abc"), 3)
    with pytest.raises(ContentInvalid):
        codec.open(frame.sealed, frame.ref)


def _bomb(stated: int, actual: int) -> bytes:
    """Return a zstd frame that states one size and holds `actual` zero bytes (RFC 8878, 3.1.1).

    Magic, descriptor 0xe0 (8-byte size, single segment), the size; then RLE blocks, each a 3-byte
    header (last: bit 0, type 1: bits 1-2, length above) and the one byte that is repeated.
    """
    head = b"\x28\xb5\x2f\xfd\xe0" + stated.to_bytes(8, "little")
    block = 1 << 17
    whole, rest = divmod(actual, block)
    lengths = [block] * whole + [rest]
    blocks = (
        ((length << 3) | (1 << 1) | (n == len(lengths) - 1)).to_bytes(3, "little") + b"\0"
        for n, length in enumerate(lengths)
    )
    return head + b"".join(blocks)


def test_the_hand_built_frame_is_a_good_one(realm_keys: ContentKeys, codec: FrameCodec) -> None:
    """Proves that the bombs below are refused for their size, not for their form."""
    plain = bytes(200_000)
    frame = _forge(realm_keys, ZSTD + _bomb(200_000, 200_000), codec.chunk_id(plain), 200_000)
    assert codec.open(frame.sealed, frame.ref) == plain


@pytest.mark.parametrize(
    ("stated", "actual", "expected"),
    [
        (1 << 30, 1 << 30, 1 << 30),  # an honest bomb that the manifest agrees with
        (1 << 30, 1 << 30, 1 << 20),  # one that the manifest does not know of
        (1 << 62, 1 << 20, 1 << 62),  # a size that nobody could allocate
        (1 << 20, 1 << 30, 1 << 20),  # states little, holds much
        (1 << 20, 1 << 10, 1 << 20),  # states much, holds little
        (CHUNK_MAX + 1, CHUNK_MAX + 1, CHUNK_MAX + 1),
    ],
)
def test_a_bomb_is_refused_without_being_unpacked(
    realm_keys: ContentKeys, codec: FrameCodec, stated: int, actual: int, expected: int
) -> None:
    bomb = ZSTD + _bomb(stated, actual)
    frame = _forge(realm_keys, bomb, codec.chunk_id(b""), expected)
    tracemalloc.start()
    try:
        with pytest.raises(ContentInvalid):
            codec.open(frame.sealed, frame.ref)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * CHUNK_MAX


@pytest.mark.parametrize("size", [0, 1, OVERHEAD - 1])
def test_what_is_shorter_than_any_frame_is_refused(codec: FrameCodec, size: int) -> None:
    ref = FrameRef(codec.chunk_id(b""), FrameId(blake3(bytes(size)).digest()), 0, size)
    with pytest.raises(ContentInvalid, match="length"):
        codec.open(bytes(size), ref)


def test_other_versions_are_refused(codec: FrameCodec) -> None:
    frame = _seal(codec, b"abc")
    with pytest.raises(ContentInvalid, match="version 2"):
        codec.open(b"\2" + frame.sealed[1:], frame.ref)


def test_check_frame_id_needs_no_key_and_sees_every_change(codec: FrameCodec) -> None:
    frame = _seal(codec, b"abc")
    assert check_frame_id(memoryview(frame.sealed), frame.ref.frame_id)
    assert not check_frame_id(frame.sealed[:-1], frame.ref.frame_id)
    assert not check_frame_id(frame.sealed + b"\0", frame.ref.frame_id)


def test_threads_may_share_a_codec(codec: FrameCodec) -> None:
    """A zstd context used by two threads at once gives wrong bytes or crashes."""
    chunks = [(b"%d " % n) * 20_000 for n in range(64)]

    def there_and_back(plain: bytes) -> bytes:
        frame = _seal(codec, plain)
        return codec.open(frame.sealed, frame.ref)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, chunks)) == chunks
