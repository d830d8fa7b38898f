"""The session that a job gets."""

import random
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from nodectl.controller.multicast import with_session
from nodectl.errors import InvalidInput
from nodectl.multicast.datagram import Session


def test_each_job_gets_a_group_and_a_number_of_its_own() -> None:
    rng = random.Random(1)
    options = {"allow_rollback": True, "multicast": {"rate": 5}}
    made = [with_session(options, rng) for _ in range(50)]
    sessions = [Session.from_options(one["multicast"]) for one in made]
    assert len({one.session for one in sessions}) == 50
    assert len({one.group for one in sessions}) == 50
    assert all(IPv4Address(one.group) in IPv4Network("239.192.0.0/14") for one in sessions)
    assert {one.rate for one in sessions} == {5}
    assert all(one["allow_rollback"] is True for one in made)


def test_what_asks_for_no_multicast_gets_none() -> None:
    assert with_session({"path": "/x"}, random.Random(1)) == {"path": "/x"}


@pytest.mark.parametrize(
    "wanted",
    [{}, {"rate": 0}, {"rate": -1}, {"rate": "1"}, {"rate": 1, "group": "239.1.1.1"},
     {"rate": 1, "ttl": 300}, {"rate": 1, "session": "00"}, {"rate": True}, {"rate": [1]}],
)  # fmt: skip
def test_what_cannot_be_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"multicast|rate"):
        with_session({"multicast": wanted}, random.Random(1))
