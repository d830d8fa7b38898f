"""What comes from the network, or from a disk that somebody else wrote: parsed, or refused.

No parser may answer anything but its own errors, whatever the bytes; and what is parsed after one
change is either refused or says something else than before.
"""

import base64
import contextlib
import json
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from nodectl.controller import wire
from nodectl.controller.recovery import open_recovery
from nodectl.disk.text import parse_layout
from nodectl.errors import (
    ContentInvalid,
    InvalidInput,
    LayoutInvalid,
    MacRefused,
    OrderRefused,
    RecoveryInvalid,
    TokenRefused,
)
from nodectl.ids import Root
from nodectl.swarm.bitfield import from_hex, from_ranges
from nodectl.swarm.wire import HaveReply, Refusal
from nodectl.trust.certificate import checked_request, make_request, presented
from nodectl.trust.mac import MacVerifier, Signed, sign_request
from nodectl.trust.order import Order, sign_order, verify_order
from nodectl.trust.publisher import Publisher
from nodectl.trust.release import Release, parse_release, publisher_of, sign_release, verify_release
from nodectl.trust.sshsig import parse_public_key, parse_signature
from nodectl.trust.token import Token, parse_token

# NODECTL_FUZZ=50000 tries longer.
FEW = settings(deadline=None, max_examples=int(os.environ.get("NODECTL_FUZZ", "60")))
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
REALM = "ab" * 16
REQUEST = make_request("n1")[0].decode()

# JSON of any shape, with texts that no UTF-8 has and numbers that no field wants.
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["\ud800", "../x", "\0", "a" * 5000, "nodectl1.", "0" * 64])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
DEEP = b"[" * 100_000
bodies = (
    st.binary(max_size=200)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.just(DEEP)
    | st.just(b'{"name":' * 20_000)
    | st.just(b"9" * 5000)
)

JOIN: dict[str, object] = {
    "realm_id": REALM,
    "token_id": "00",
    "token_secret": "00" * 32,
    "name": "n1",
    "node_secret": "11" * 32,
    "macs": ["52:54:00:00:00:01"],
    "request": REQUEST,
}
BODIES: dict[str, tuple[Callable[[bytes], object], dict[str, object]]] = {
    "join": (lambda body: wire.parse_join(body, replaces=False), JOIN),
    "renew": (wire.parse_renewal, {"request": REQUEST}),
    "publish": (
        lambda body: wire.parse_publication(body, origin="c"),
        {"name": "g", "root": "00" * 32, "root_block_hex": "00", "kind": "tree",
         "totals": {"a": 1}},
    ),
    "announce": (
        lambda body: wire.parse_announcement(body, node="n1"),
        {"url": "http://h:1", "have_bytes": 1, "complete": True},
    ),
    "job": (
        wire.parse_job,
        {"kind": "restore", "name": "g", "generation": 1, "nodes": ["a"],
         "options": {"path": "/x", "keep_extra": False}},
    ),
    "report": (
        wire.parse_report,
        {"state": "done", "step": "", "sentence": "", "lines": [], "receipt": {}, "done": 1,
         "total": None},
    ),
    "signature": (wire.parse_signature, {"signature": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_the_bodies_that_are_good_are_taken(name: str) -> None:
    parse, good = BODIES[name]
    parse(json.dumps(good).encode())


@pytest.mark.parametrize("name", BODIES)
@FEW
@given(data=st.data())
def test_a_body_of_the_control_api_is_parsed_or_refused(name: str, data: st.DataObject) -> None:
    parse, good = BODIES[name]
    raw = data.draw(bodies)
    field = data.draw(st.sampled_from(sorted(good)))
    changed = json.dumps({**good, field: data.draw(anything)}).encode()
    for body in (raw, changed):
        with contextlib.suppress(InvalidInput, ContentInvalid):
            parse(body)


def test_a_node_cannot_steer_the_terminal_of_the_operator() -> None:
    body = {"state": "failed", "step": "\x1b[2J", "sentence": "a\ud800b\r\n", "lines": ["\u202e"]}
    report = wire.parse_report(json.dumps(body).encode())
    for text in (report.step, report.sentence, *report.lines):
        assert text.isprintable()
        text.encode()


def test_a_receipt_is_bounded() -> None:
    deep: dict[str, object] = {}
    for _ in range(400):
        deep = {"a": deep}
    for receipt in ({"a": "x" * 70_000}, {"a": [0] * 40_000}):
        with pytest.raises(InvalidInput, match="receipt"):
            wire.parse_report(json.dumps({"state": "done", "receipt": receipt}).encode())
    wire.parse_report(json.dumps({"state": "done", "receipt": deep}).encode())


@FEW
@given(bodies)
def test_noise_is_no_answer_of_a_peer(body: bytes) -> None:
    for parse in (lambda data: HaveReply.from_bytes(data, spans=9), Refusal.from_bytes):
        with pytest.raises(ValueError):  # noqa: PT011 - any, and nothing else
            parse(body)


@FEW
@given(st.text(max_size=40) | st.from_regex(r"[0-9,\-]{0,40}", fullmatch=True), st.integers(1, 40))
def test_sets_and_ranges_stay_inside(text: str, count: int) -> None:
    with contextlib.suppress(ValueError):
        assert all(0 <= number < count for number in from_ranges(text, count))
    with contextlib.suppress(ValueError):
        assert from_hex(text, count).bit_length() <= count


@FEW
@given(st.text(max_size=60), st.binary(max_size=120))
def test_noise_is_no_token(text: str, packed: bytes) -> None:
    coded = base64.urlsafe_b64encode(packed).decode().rstrip("=")
    for noise in (text, "nodectl1." + text, "nodectl1." + coded):
        with pytest.raises(TokenRefused):
            parse_token(noise)


@FEW
@given(anything)
def test_json_of_any_shape_is_no_token(value: object) -> None:
    coded = base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
    with pytest.raises(TokenRefused):
        parse_token("nodectl1." + coded)


TOKEN = Token(
    urls=("https://c:1",), ca_sha256=b"\xcc" * 32, token_id="0a" * 8, secret=b"\xab" * 32,
    realm_id=REALM,
)  # fmt: skip


@FEW
@given(st.data())
def test_a_changed_token_is_refused_or_another(data: st.DataObject) -> None:
    text = TOKEN.text()
    place = data.draw(st.integers(9, len(text) - 1))
    char = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda one: one != text[place]))
    try:
        other = parse_token(text[:place] + char + text[place + 1 :])
    except TokenRefused:
        return
    assert other != TOKEN


RELEASE = Release(
    realm=REALM, name="g", generation=2, root=Root(bytes(32)), kind="tree", created=5,
    totals={"files": 1},
)  # fmt: skip


@FEW
@given(anything, st.data())
def test_a_release_is_whole_or_refused(value: object, data: st.DataObject) -> None:
    good = sign_release(RELEASE, KEY).to_json()
    publishers = {publisher_of(KEY)}
    with pytest.raises(ContentInvalid):
        parse_release(value)
    outer = data.draw(st.sampled_from([*sorted(good), "form"]))
    inner = data.draw(st.sampled_from(sorted(good["release"])))
    for bad in (
        {**good, outer: value},
        {**good, "release": {**good["release"], inner: value}},
    ):
        if bad not in (good, {**good, "form": "ed25519"}):
            with pytest.raises(ContentInvalid):
                verify_release(bad, realm=REALM, publishers=publishers)


ORDER = Order(
    realm=REALM, node="n1", job_id=1, task="restore", name="g", generation=2, root="00" * 32,
    options={}, expires=10,
)  # fmt: skip


@FEW
@given(anything, st.data())
def test_an_order_is_whole_or_refused(value: object, data: st.DataObject) -> None:
    good = sign_order(ORDER, KEY)
    inner = data.draw(st.sampled_from(sorted(good["order"])))
    outer = data.draw(st.sampled_from(sorted(good)))
    changed = {**good, "order": {**good["order"], inner: value}}
    for bad in (value, {**good, outer: value}, changed, {**good, "order": {"x": value}}):
        if bad != good:
            with pytest.raises(OrderRefused):
                verify_order(bad, ORDER, keys={publisher_of(KEY)}, now=0)


@FEW
@given(st.text(max_size=200), st.data())
def test_a_mac_header_is_whole_or_refused(text: str, data: st.DataObject) -> None:
    request = Signed("GET", "/v1/work")
    check = MacVerifier(lambda _: b"k" * 32, now_ms=lambda: 1000)
    header = sign_request(request, client="n1", key=b"k" * 32, unix_ms=1000)
    place = data.draw(st.integers(0, len(header) - 1))
    char = data.draw(st.characters().filter(lambda one: one != header[place]))
    for bad in (text, "NCTL1 " + text, header[:place] + char + header[place + 1 :], header + char):
        with pytest.raises(MacRefused):
            check.verify(bad, request)
    assert check.verify(header, request) == "n1"


@FEW
@given(st.binary(max_size=300), st.text(max_size=200), anything)
def test_noise_is_no_certificate_signature_key_or_recovery(
    data: bytes, text: str, value: object
) -> None:
    for request in (data, REQUEST.encode()[:-40] + data, text.encode("utf-8", "replace")):
        with pytest.raises(InvalidInput):
            checked_request(request)
    coded = base64.b64encode(b"SSHSIG" + data).decode()
    armored = f"-----BEGIN SSH SIGNATURE-----\n{coded}\n-----END SSH SIGNATURE-----"
    for signature in (text, armored):
        with pytest.raises(InvalidInput):
            parse_signature(signature)
    with pytest.raises(InvalidInput):
        parse_public_key("ssh-ed25519 " + text)
    with pytest.raises(RecoveryInvalid):
        open_recovery(data, text)
    with pytest.raises((ValueError, KeyError, TypeError)):
        Publisher.from_json(value)  # type: ignore[arg-type]


# Found by the fuzzer: a request for a key on a curve that there is not.
STRANGE_CURVE = bytes.fromhex(
    "3081c6306f020100300d310b300906035504030c026e313059301306072a8648ce3d02010608ce2a"
    "030107863d48034200040000000024564ab744a23f1a042310a12c838aaa0d0fc849ab8d39cb5479"
    "218d1e3127d32afdf5de11d70cc3c6c927843f40d7ac723f5c161c1b1f1bd91811eba000300a0608"
    "2a8648ce3d04030203470030440220681ce5d8f3798342966eec5ddb63cb2b8e9932b7829261a9ec"
    "3ce1932047d2d002205cd8de3cc633b84ebfa454cb584bbabb29ead00452c140e8b729635f8ea7ec"
    "da"
)


@pytest.mark.parametrize(
    "der",
    [
        STRANGE_CURVE,
        STRANGE_CURVE.replace(b"\x02\x01\x00", b"\x02\x01\x02", 1),  # of version 3
        STRANGE_CURVE.replace(b"\x08\xce*", b"\x08*\x86").replace(b"\x04\x03\x02", b"\x04\x03\x63"),
    ],
)
def test_a_request_for_a_key_of_an_unknown_kind_is_refused(der: bytes) -> None:
    name = b"CERTIFICATE REQUEST"
    coded = base64.encodebytes(der)
    with pytest.raises(InvalidInput, match="damaged"):
        checked_request(b"-----BEGIN %s-----\n%s-----END %s-----\n" % (name, coded, name))


@FEW
@given(st.dictionaries(st.sampled_from(["subject", "serialNumber", "x"]), anything, max_size=3))
def test_a_certificate_without_a_name_is_nobody(certificate: dict[str, object]) -> None:
    # OpenSSL makes this dictionary, not the other side: errors of its shape are our bugs.
    with contextlib.suppress(TypeError, ValueError):
        assert presented(certificate) is None


@FEW
@given(
    st.text(max_size=300)
    | st.lists(
        st.sampled_from(["schema = 1", 'name = "x"', "[[disk]]", 'id = "d"', "[[partition]]",
                         'size = "1GiB"', 'size = "rest"', "[[filesystem]]", 'mount = "/"',
                         'type = "ext4"', "x = [", "[disk.match]", "= 3", 'size = "-1"'])
    ).map("\n".join)
)  # fmt: skip
def test_a_layout_is_parsed_or_its_mistakes_are_named(text: str) -> None:
    with contextlib.suppress(LayoutInvalid):
        parse_layout(text)
