import copy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.errors import ContentInvalid
from nodectl.ids import Root
from nodectl.trust.release import Release, publisher_of, sign_release, verify_release

REALM = "ab" * 16
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RELEASE = Release(
    realm=REALM,
    name="golden",
    generation=3,
    root=Root(bytes(range(32))),
    kind="tree",
    created=1_700_000_000,
    totals={"files": 7, "plain_bytes": 12345},
)


def _document() -> dict[str, Any]:
    return copy.deepcopy(sign_release(RELEASE, KEY).to_json())


def test_a_signed_release_verifies() -> None:
    signed = verify_release(_document(), realm=REALM, publishers={publisher_of(KEY)})
    assert signed.release == RELEASE


def test_the_signed_bytes_are_the_documented_ones() -> None:
    """Golden: a second implementation has to build exactly this."""
    assert RELEASE.signed_bytes() == (
        b"nodectl release 1\n"
        b'{"created":1700000000,"generation":3,"kind":"tree","name":"golden",'
        b'"realm":"abababababababababababababababab",'
        b'"root":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",'
        b'"totals":{"files":7,"plain_bytes":12345}}'
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "silver"),
        ("generation", 4),
        ("root", "00" * 32),
        ("kind", "block"),
        ("created", 5),
        ("totals", {"files": 8, "plain_bytes": 12345}),
    ],
)
def test_a_changed_field_breaks_the_signature(field: str, value: object) -> None:
    document = _document()
    document["release"][field] = value
    with pytest.raises(ContentInvalid, match="signature"):
        verify_release(document, realm=REALM, publishers={publisher_of(KEY)})


def test_another_realm_and_another_publisher_are_refused() -> None:
    with pytest.raises(ContentInvalid, match="another realm"):
        verify_release(_document(), realm="cd" * 16, publishers={publisher_of(KEY)})
    with pytest.raises(ContentInvalid, match="unknown publisher"):
        verify_release(_document(), realm=REALM, publishers={bytes(32)})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generation", 0),
        ("generation", True),
        ("generation", "3"),
        ("generation", 1 << 70),
        ("name", "../x"),
        ("root", "zz"),
        ("totals", [1]),
        ("totals", {"files": -1}),
        ("totals", {f"k{n}": 1 for n in range(100)}),
        ("created", 1.5),
    ],
)
def test_wrong_types_and_ranges_are_refused(field: str, value: object) -> None:
    document = _document()
    document["release"][field] = value
    with pytest.raises(ContentInvalid, match="not a release"):
        verify_release(document, realm=REALM, publishers={publisher_of(KEY)})


@pytest.mark.parametrize("document", [None, [], {}, {"release": {}}, "x", 5])
def test_what_is_no_release_at_all_is_refused(document: object) -> None:
    with pytest.raises(ContentInvalid):
        verify_release(document, realm=REALM, publishers={publisher_of(KEY)})


def test_an_unknown_field_is_refused() -> None:
    document = _document()
    document["release"]["extra"] = 1
    with pytest.raises(ContentInvalid):
        verify_release(document, realm=REALM, publishers={publisher_of(KEY)})
