"""One target for each parser that reads what somebody else wrote: bytes in, nothing out.

A target lets the parser's own errors pass; any other exception is a finding. Where a form is
canonical, what was parsed must also be written again as it was. `run.py` gives the targets to a
coverage-guided fuzzer, `test_fuzz_targets.py` gives each its seeds and some noise on every run.
"""

import base64
import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodectl.content.block_format import BlockChunk, decode_block_part, encode_block_part
from nodectl.content.format import (
    decode_columns,
    decode_head,
    decode_root_block,
    encode_head,
    encode_part,
    encode_root_block,
)
from nodectl.content.frame import FrameCodec, FrameRef
from nodectl.content.manifest import Entry, Kind, RootBlock, TreeOrder
from nodectl.controller import wire
from nodectl.controller.inventory_api import parse_write
from nodectl.controller.recovery import open_recovery
from nodectl.disk.text import format_layout, parse_layout
from nodectl.errors import NodectlError
from nodectl.ids import ChunkId, FrameId, Root
from nodectl.store.packs import PACK_HEADER, RECORD, find_copies, is_pack, scan
from nodectl.swarm.bitfield import from_hex, from_ranges, to_hex
from nodectl.swarm.wire import HaveReply, Refusal
from nodectl.trust.certificate import checked_request, make_request
from nodectl.trust.keys import ContentKeys
from nodectl.trust.mac import MacVerifier, Signed, sign_request
from nodectl.trust.order import Order, sign_order, verify_order
from nodectl.trust.publisher import Publisher
from nodectl.trust.release import Release, parse_release, publisher_of, sign_release, verify_release
from nodectl.trust.sshsig import parse_public_key, parse_signature, signed_blob
from nodectl.trust.token import Token, parse_token

KEYS = ContentKeys(chunk_id=b"c" * 32, seal=b"s" * 32, nonce=b"n" * 32)
CODEC = FrameCodec(KEYS)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
REALM = "ab" * 16
REF = FrameRef(ChunkId(b"1" * 32), FrameId(b"2" * 32), 5, 40)


class Target(NamedTuple):
    """A parser under attack."""

    try_bytes: Callable[[bytes], None]
    seeds: tuple[bytes, ...]  # good ones, to begin from


# --- content -------------------------------------------------------------------------------------


def _root_block(data: bytes) -> None:
    with contextlib.suppress(NodectlError):
        assert encode_root_block(decode_root_block(data)) == data


def _part(data: bytes) -> None:
    """A part of a tree: parsed, put into order, and written again."""
    with contextlib.suppress(NodectlError):
        entries = decode_columns(data).entries()
        order = TreeOrder()
        for entry in entries:
            order.add(entry)
        order.end_file()
        assert decode_columns(encode_part(entries)).entries() == entries


def _block_part(data: bytes) -> None:
    with contextlib.suppress(NodectlError):
        chunks = decode_block_part(data, after=0, size=1 << 40)
        assert encode_block_part(chunks) == data


def _head(data: bytes) -> None:
    with contextlib.suppress(NodectlError):
        decode_head(data)


def _frame(data: bytes) -> None:
    """As it comes; and as what a member of the realm sealed, who knows the keys."""
    plain_len = 5 if len(data) < 2 else data[0] << 8 | data[1]
    chunk_id = CODEC.chunk_id(data)
    aead = AESGCM(KEYS.seal).encrypt(bytes(12), data[2:], chunk_id)
    for sealed in (data, b"\1" + bytes(12) + aead):
        frame_id = FrameId(blake3(sealed).digest())
        with contextlib.suppress(NodectlError):
            opened = CODEC.open(sealed, FrameRef(chunk_id, frame_id, plain_len, len(sealed)))
            assert len(opened) == plain_len


def _pack(data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        for whole in (data, PACK_HEADER + data):
            file.seek(0)
            file.truncate()
            file.write(whole)
            file.flush()
            if not is_pack(file.fileno()):
                continue
            found = list(scan(file.fileno(), "p", 0))
            for frame in found:
                sealed = os.pread(file.fileno(), frame.sealed_len, frame.offset)
                assert blake3(sealed).digest() == frame.frame_id
            list(find_copies(file.fileno(), "p", {FrameId(b"2" * 32)}))


# --- swarm ---------------------------------------------------------------------------------------


def _have(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        reply = HaveReply.from_bytes(data, spans=300)
        assert reply.have.bit_length() <= 300
        assert HaveReply.from_bytes(reply.to_bytes(), spans=300) == reply


def _refusal(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        reply = Refusal.from_bytes(data)
        assert Refusal.from_bytes(reply.to_bytes()) == reply


def _bitfield(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        bits = from_hex(text, 300)
        assert bits.bit_length() <= 300
        assert from_hex(to_hex(bits), 300) == bits
    with contextlib.suppress(ValueError):
        assert all(0 <= number < 300 for number in from_ranges(text, 300))


# --- trust ---------------------------------------------------------------------------------------


def _token(data: bytes) -> None:
    coded = base64.urlsafe_b64encode(data).decode().rstrip("=")
    for text in (data.decode("utf-8", "replace"), f"nodectl1.{coded}"):
        with contextlib.suppress(NodectlError):
            assert parse_token(text).text() == text.strip()


_SIGNED = Signed("GET", "/v1/work")
_VERIFIER = MacVerifier(lambda _: b"k" * 32, now_ms=lambda: 1000, remembered=4)
_MAC = sign_request(_SIGNED, client="n1", key=b"k" * 32, unix_ms=1000, nonce=bytes(16))


def _mac(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    with contextlib.suppress(NodectlError):
        _VERIFIER.verify(text, _SIGNED)
        assert text == _MAC  # nobody can make another one


def _request(data: bytes) -> None:
    """PEM as it comes, and DER with the right frame around it."""
    coded = base64.encodebytes(data)
    name = b"CERTIFICATE REQUEST"
    framed = b"-----BEGIN %s-----\n%s-----END %s-----\n" % (name, coded, name)
    for pem in (data, framed):
        with contextlib.suppress(NodectlError):
            checked_request(pem)


def _sshsig(data: bytes) -> None:
    coded = base64.b64encode(data).decode()
    armored = f"-----BEGIN SSH SIGNATURE-----\n{coded}\n-----END SSH SIGNATURE-----"
    text = data.decode("utf-8", "replace")
    for signature in (text, armored):
        with contextlib.suppress(NodectlError):
            signed_blob(b"message", parse_signature(signature).hash_name)
    for key in (text, f"ssh-ed25519 {coded}"):
        with contextlib.suppress(NodectlError):
            assert len(parse_public_key(key)) == 32


def _json(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


_ORDER = Order(
    realm=REALM, node="n1", job_id=1, task="restore", name="g", generation=2, root="00" * 32,
    options={"path": "/x"}, expires=10,
)  # fmt: skip
_RELEASE = Release(
    realm=REALM, name="g", generation=2, root=Root(bytes(32)), kind="tree", created=5,
    totals={"files": 1},
)  # fmt: skip
_PUBLISHERS = {publisher_of(KEY)}


def _order(data: bytes) -> None:
    document = _json(data)
    with contextlib.suppress(NodectlError):
        verify_order(document, _ORDER, keys=_PUBLISHERS, now=0)
        assert isinstance(document, dict)
        assert document["order"] == sign_order(_ORDER, KEY)["order"]  # nobody can make another


def _release(data: bytes) -> None:
    document = _json(data)
    with contextlib.suppress(NodectlError):
        signed = parse_release(document)
        assert parse_release(signed.to_json()) == signed
        verify_release(document, realm=REALM, publishers=_PUBLISHERS)
        assert signed.release == _RELEASE  # nobody can make another one


def _publisher(data: bytes) -> None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        Publisher.from_json(_json(data))  # type: ignore[arg-type]


def _recovery(data: bytes) -> None:
    with contextlib.suppress(NodectlError):
        open_recovery(data, "a passphrase of some length")


# --- control API and layouts ---------------------------------------------------------------------

_BODIES: tuple[Callable[[bytes], object], ...] = (
    lambda body: wire.parse_join(body, replaces=False),
    wire.parse_renewal,
    lambda body: wire.parse_publication(body, origin="c"),
    lambda body: wire.parse_announcement(body, node="n1"),
    wire.parse_job,
    wire.parse_report,
    wire.parse_signature,
    wire.parse_access,
    parse_write,
)


def _control(data: bytes) -> None:
    """The first byte says which body of the control API it is."""
    if data:
        with contextlib.suppress(NodectlError):
            _BODIES[data[0] % len(_BODIES)](data[1:])


def _layout(data: bytes) -> None:
    with contextlib.suppress(NodectlError):
        layout = parse_layout(data.decode("utf-8", "replace"))
        assert parse_layout(format_layout(layout)) == layout


def _seeds(*documents: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(document).encode() for document in documents)


def _control_seeds() -> tuple[bytes, ...]:
    request = make_request("n1")[0].decode()
    documents = (
        {"realm_id": REALM, "token_id": "00", "token_secret": "00" * 32, "name": "n1",
         "node_secret": "11" * 32, "macs": ["52:54:00:00:00:01"], "request": request},
        {"request": request},
        {"name": "g", "root": "00" * 32, "root_block_hex": "00", "kind": "tree",
         "totals": {"a": 1}},
        {"url": "http://h:1", "have_bytes": 1, "complete": True},
        {"kind": "restore", "name": "g", "generation": 1, "nodes": ["a"],
         "options": {"path": "/x", "keep_extra": False}},
        {"state": "done", "step": "", "sentence": "", "lines": [], "receipt": {}, "done": 1,
         "total": None, "swarm": {"from": {"a": 1}, "bytes_per_s": 2}},
        {"signature": "x"},
        {"nodes": ["n1"]},
        {"nodes": [{"revision": 0, "inventory": {"name": "n1", "rack": "r1", "groups": ["g"],
         "interfaces": [{"name": "eth0", "mac": "52:54:00:12:34:56",
                         "addresses": ["10.0.0.7/24"], "gateway": "10.0.0.1"}]}}]},
    )  # fmt: skip
    return tuple(bytes([i]) + body for i, body in enumerate(_seeds(*documents)))


def _der_request() -> bytes:
    return base64.b64decode(b"".join(make_request("n1")[0].splitlines()[1:-1]))


def _sshsig_seed() -> bytes:
    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    inner = [string(b"ssh-ed25519") + string(bytes(size)) for size in (32, 64)]
    parts = (inner[0], b"nodectl", b"", b"sha512", inner[1])
    return b"SSHSIG\0\0\0\1" + b"".join(map(string, parts))


_TREE = [
    Entry(path=b"", kind=Kind.DIRECTORY, mode=0o755),
    Entry(path=b"a", kind=Kind.FILE, mode=0o644, size=5, chunks=(REF,), xattrs=((b"u.a", b"1"),)),
    Entry(path=b"l", kind=Kind.SYMLINK, target=b"a"),
]
_PLAIN = CODEC.seal(b"hello", CODEC.chunk_id(b"hello")).sealed
_TOKEN = Token(
    urls=("https://c:1",), ca_sha256=b"\xcc" * 32, token_id="0a" * 8, secret=b"\xab" * 32,
    realm_id=REALM,
)  # fmt: skip
_LAYOUT = b"""schema = 1
name = "x"

[[disk]]
id = "d"
match = {size = ">= 8GiB"}

[[partition]]
disk = "d"
id = "root"
size = "rest"

[[filesystem]]
device = "root"
type = "ext4"
mount = "/"
"""

TARGETS: dict[str, Target] = {
    "root_block": Target(_root_block, (encode_root_block(
        RootBlock(1, bytes(16), 3, 5, 40, (REF, REF))),)),
    "part": Target(_part, (encode_part(_TREE), encode_part(_TREE[:1]))),
    "head": Target(_head, (encode_head({"excludes": ["/proc/*"]}), encode_head({"size": 4096}))),
    "block_part": Target(_block_part, (encode_block_part(
        [BlockChunk(0, REF._replace(plain_len=4096))]),)),
    "frame": Target(_frame, (b"\0\5\0hello", _PLAIN)),
    "pack": Target(_pack, (
        PACK_HEADER + RECORD.pack(b"NCFR", 3, 3, blake3(b"abc").digest(), bytes(32)) + b"abc",)),
    "have": Target(_have, (HaveReply(since="a", whole=True, origin=False, have=5).to_bytes(),)),
    "refusal": Target(_refusal, (Refusal(elsewhere=True, retry_after_ms=50).to_bytes(),)),
    "bitfield": Target(_bitfield, (b"ff01", b"0,3-5")),
    "token": Target(_token, (
        _TOKEN.text().encode(), base64.urlsafe_b64decode(_TOKEN.text()[9:] + "=="))),
    "mac": Target(_mac, (_MAC.encode(),)),
    "request": Target(_request, (make_request("n1")[0], _der_request())),
    "sshsig": Target(_sshsig, (_sshsig_seed(),)),
    "order": Target(_order, _seeds(sign_order(_ORDER, KEY))),
    "release": Target(_release, _seeds(
        sign_release(_RELEASE, KEY).to_json(),
        {**sign_release(_RELEASE, KEY).to_json(), "form": "sshsig-sha512"})),
    "publisher": Target(_publisher, _seeds(Publisher(key=bytes(32), name="p").to_json())),
    "recovery": Target(_recovery, (b"nodectl recovery 1\n" + bytes(80),)),
    "control": Target(_control, _control_seeds()),
    "layout": Target(_layout, (_LAYOUT,)),
}  # fmt: skip
