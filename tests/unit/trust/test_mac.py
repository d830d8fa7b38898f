import pytest
from blake3 import blake3

from nodectl.errors import MacRefused
from nodectl.trust.mac import MacVerifier, Signed, sign_request

KEY = bytes(range(32))
NOW = 1_800_000_000_000
GET = Signed("GET", "/v1/swarm/ab/data/have?since=3")


def verifier(now: int = NOW, **kwargs: int) -> MacVerifier:
    return MacVerifier({"n1": KEY}.get, now_ms=lambda: now, **kwargs)


def test_a_signed_request_names_its_client() -> None:
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW)
    assert verifier().verify(header, GET) == "n1"


def test_the_mac_is_what_the_specification_says() -> None:
    """Computed here by hand, so that a second implementation can be checked against it."""
    nonce = bytes(16)
    fields = [b"POST", b"/x?y=1", b"n1", b"1800000000000", nonce, blake3(b"body").digest()]
    message = b"".join(len(f).to_bytes(4, "little") + f for f in fields)
    mac = blake3(message, key=KEY).hexdigest()
    header = sign_request(
        Signed("POST", "/x?y=1", b"body"), client="n1", key=KEY, unix_ms=NOW, nonce=nonce
    )
    assert header == f"NCTL1 n1 {NOW} {'00' * 16} {mac}"


@pytest.mark.parametrize(
    "request_seen",
    [
        Signed("HEAD", GET.target),
        Signed("GET", GET.target + "0"),
        Signed("GET", GET.target, b"x"),
    ],
)
def test_another_request_is_refused(request_seen: Signed) -> None:
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW)
    with pytest.raises(MacRefused, match="wrong"):
        verifier().verify(header, request_seen)


@pytest.mark.parametrize("position", range(4))
def test_any_changed_field_is_refused(position: int) -> None:
    fields = sign_request(GET, client="n1", key=KEY, unix_ms=NOW).split(" ")
    last = fields[position + 1][-1]
    fields[position + 1] = fields[position + 1][:-1] + ("1" if last != "1" else "2")
    with pytest.raises(MacRefused):
        verifier().verify(" ".join(fields), GET)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Basic eDp5",
        "NCTL1",
        "NCTL1 n1 1 00 00",
        "NCTL1 ../x 1 " + "0" * 32 + " " + "0" * 64,
    ],
)
def test_no_header_and_nonsense_are_refused(header: str | None) -> None:
    with pytest.raises(MacRefused, match="carries no MAC"):
        verifier().verify(header, GET)


def test_an_unknown_client_is_refused_even_with_a_mac_of_the_null_key() -> None:
    header = sign_request(GET, client="n2", key=bytes(32), unix_ms=NOW)
    with pytest.raises(MacRefused, match="wrong"):
        verifier().verify(header, GET)


@pytest.mark.parametrize("skew", [-120_001, 120_001])
def test_a_wrong_clock_is_refused(skew: int) -> None:
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW + skew)
    with pytest.raises(MacRefused, match="old"):
        verifier().verify(header, GET)


def test_two_minutes_are_forgiven() -> None:
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW - 120_000)
    assert verifier().verify(header, GET) == "n1"


def test_a_replay_is_refused() -> None:
    check = verifier()
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW)
    check.verify(header, GET)
    with pytest.raises(MacRefused, match="seen before"):
        check.verify(header, GET)


def test_a_replay_is_refused_after_more_requests_than_are_remembered() -> None:
    check = verifier(remembered=10)
    headers = [sign_request(GET, client="n1", key=KEY, unix_ms=NOW + i) for i in range(100)]
    for header in headers:
        check.verify(header, GET)
    assert len(check._nonces) <= 10
    for header in headers:
        with pytest.raises(MacRefused):
            check.verify(header, GET)


def test_nonces_whose_time_is_out_make_room_without_refusing_anyone() -> None:
    now = NOW
    check = MacVerifier({"n1": KEY}.get, now_ms=lambda: now, remembered=10)
    for i in range(10):
        check.verify(sign_request(GET, client="n1", key=KEY, unix_ms=NOW + i), GET)
    now = NOW + 130_000
    late = sign_request(GET, client="n1", key=KEY, unix_ms=now - 119_000)
    assert check.verify(late, GET) == "n1"


def test_a_wrong_mac_does_not_use_up_the_nonce() -> None:
    check = verifier()
    header = sign_request(GET, client="n1", key=KEY, unix_ms=NOW)
    with pytest.raises(MacRefused):
        check.verify(header[:-1] + ("0" if header[-1] != "0" else "1"), GET)
    assert check.verify(header, GET) == "n1"
