import base64
import json

import pytest

from nodectl.errors import TokenRefused
from nodectl.trust.token import Role, Token, TokenRecord, new_token, parse_token, record_of


def _token() -> Token:
    return new_token(("https://c:7443",), bytes(range(32)), "ab" * 16)


def test_a_token_reads_back_from_its_text() -> None:
    token = _token()
    assert parse_token(token.text()) == token
    assert parse_token(f"  {token.text()}\n") == token


def test_the_secret_is_in_the_text_only() -> None:
    token = _token()
    record = record_of(token, role=Role.NODE, expires=100, uses=1)
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)
    assert token.secret.hex() not in json.dumps(record.to_json())
    assert TokenRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "text",
    ["", "hello", "nodectl1.", "nodectl1.!!!", "nodectl2.e30", "nodectl1.e30", "nodectl1.W10"],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenRefused):
        parse_token(text)


def test_a_cut_off_token_is_refused() -> None:
    text = _token().text()
    for cut in range(0, len(text), 7):
        with pytest.raises(TokenRefused):
            parse_token(text[:cut])


def test_a_token_with_a_short_secret_is_refused() -> None:
    body = {"ca": "00" * 32, "id": "1", "realm": "r", "secret": "00", "urls": []}
    text = base64.urlsafe_b64encode(json.dumps(body).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenRefused, match="damaged"):
        parse_token(f"nodectl1.{text}")


def test_each_refusal_has_its_own_sentence() -> None:
    token = _token()
    record = record_of(token, role=Role.NODE, expires=100, uses=1)
    record.check(token.secret, 99)
    with pytest.raises(TokenRefused, match="expired"):
        record.check(token.secret, 100)
    with pytest.raises(TokenRefused, match="used already"):
        record.used().check(token.secret, 99)
    with pytest.raises(TokenRefused, match="wrong"):
        record.check(bytes(32), 99)
    record.used().given_back().check(token.secret, 99)


def test_a_wrong_secret_does_not_learn_whether_the_token_is_spent() -> None:
    record = record_of(_token(), role=Role.NODE, expires=0, uses=0)
    with pytest.raises(TokenRefused, match="wrong"):
        record.check(bytes(32), 99)
