import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodectl.ids import Root
from nodectl.swarm import wire
from nodectl.swarm.model import PeerInfo, Phase

ROOT = Root(bytes(range(32)))
ME = PeerInfo(name="n1", url="http://10.0.0.1:7000", rack="r1")
BASE = wire.swarm_path(ROOT, Phase.META)


def test_targets() -> None:
    assert f"/v1/swarm/{bytes(range(32)).hex()}/meta" == BASE
    assert wire.span_target(BASE, 7, frames="", urgent=False) == BASE + "/spans/7"
    assert (
        wire.span_target(BASE, 7, frames="0,3-5", urgent=True)
        == BASE + "/spans/7?frames=0,3-5&urgent=1"
    )
    assert (
        wire.have_target(BASE, since="ab-3", wait_ms=10, speaker=wire.Speaker(info=ME).query())
        == BASE + "/have?wait_ms=10&since=ab-3&at=http%3A%2F%2F10.0.0.1%3A7000&rack=r1"
    )


HAVE = wire.HaveReply(since="ab-3", whole=True, origin=False, have=0b101, peers=(ME,))


def test_have_round_trip() -> None:
    assert wire.HaveReply.from_bytes(HAVE.to_bytes(), spans=3) == HAVE
    assert json.loads(HAVE.to_bytes()) == {
        "since": "ab-3",
        "whole": True,
        "origin": False,
        "have": "05",
        "peers": [{"name": "n1", "url": "http://10.0.0.1:7000", "rack": "r1"}],
    }


def test_refusal_round_trip() -> None:
    refusal = wire.Refusal(elsewhere=True, retry_after_ms=500, peers=(ME,))
    assert wire.Refusal.from_bytes(refusal.to_bytes()) == refusal


def test_a_peer_cannot_make_us_wait_for_ever() -> None:
    body = wire.Refusal(elsewhere=False, retry_after_ms=10**9).to_bytes()
    assert wire.Refusal.from_bytes(body).retry_after_ms == 60_000


@pytest.mark.parametrize(
    "change",
    [
        {"have": "0d"},  # span 3 of 3
        {"have": 5},
        {"whole": 1},
        {"more": 1},
        {"peers": {}},
        {"peers": [{"name": "n1", "url": "http://a:1"}]},
        {"peers": [{"name": "../n1", "url": "http://a:1", "rack": ""}]},
        {"peers": [{"name": "n1", "url": "http://a:1/path", "rack": ""}]},
        {"peers": [{"name": "n1", "url": "file:///etc/passwd", "rack": ""}]},
        {"peers": [{"name": "n1", "url": "http://a@b:1", "rack": ""}]},
        {"peers": [{"name": "n1", "url": "http://a", "rack": ""}]},
        {"peers": [{"name": "n1", "url": 1, "rack": ""}]},
        {"peers": [{"name": "n1", "url": "http://a:1", "rack": ""}] * 1025},
    ],
)
def test_other_answers_are_refused(change: dict[str, object]) -> None:
    document = {**json.loads(HAVE.to_bytes()), **change}
    with pytest.raises(ValueError, match=r"."):
        wire.HaveReply.from_bytes(json.dumps(document).encode(), spans=3)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_nothing_else_happens(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.HaveReply.from_bytes(body, spans=3)
    with pytest.raises(ValueError, match=r"."):
        wire.Refusal.from_bytes(body)
