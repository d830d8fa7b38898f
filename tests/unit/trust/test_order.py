import dataclasses
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodectl.errors import OrderRefused
from nodectl.trust.order import Order, sign_order, verify_order
from nodectl.trust.release import publisher_of

KEY = Ed25519PrivateKey.from_private_bytes(b"j" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
ORDER = Order(
    realm="ab" * 16,
    node="n1",
    job_id=7,
    task="restore",
    name="golden",
    generation=3,
    root="cd" * 32,
    options={"path": "/srv/x"},
    expires=1000,
)


def _verify(document: object, *, now: float = 999.0, expected: Order = ORDER) -> None:
    verify_order(document, expected, keys={publisher_of(KEY)}, now=now)


def test_an_order_of_the_controller_holds_until_its_end() -> None:
    document = sign_order(ORDER, KEY)
    _verify(document)
    with pytest.raises(OrderRefused, match="has ended"):
        _verify(document, now=1000.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("realm", "00" * 16),
        ("node", "n2"),
        ("job_id", 8),
        ("task", "fetch"),
        ("name", "silver"),
        ("generation", 2),
        ("root", "00" * 32),
        ("options", {"path": "/"}),
    ],
)
def test_an_order_is_for_one_node_and_one_thing(field: str, value: object) -> None:
    other: dict[str, Any] = {field: value}
    with pytest.raises(OrderRefused, match=f"is for another {field}"):
        _verify(sign_order(dataclasses.replace(ORDER, **other), KEY))


def test_an_order_by_another_key_is_refused() -> None:
    with pytest.raises(OrderRefused, match="another key"):
        _verify(sign_order(ORDER, OTHER))
    pretending = {**sign_order(ORDER, OTHER), "key": publisher_of(KEY).hex()}
    with pytest.raises(OrderRefused, match="not signed by the controller"):
        _verify(pretending)


def test_a_changed_order_is_refused() -> None:
    document = sign_order(ORDER, KEY)
    later = {**document, "order": {**document["order"], "expires": 10**12}}
    with pytest.raises(OrderRefused, match="not signed"):
        _verify(later)


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"order": 1, "signature": "", "key": ""},
        {"order": {}, "signature": "", "key": ""},
    ],
)
def test_nonsense_is_refused(document: object) -> None:
    with pytest.raises(OrderRefused):
        _verify(document)
