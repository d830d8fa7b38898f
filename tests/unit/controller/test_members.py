import threading
from pathlib import Path

import pytest

from nodectl.catalog.memory import MemoryCatalog
from nodectl.catalog.model import Document
from nodectl.catalog.sqlite import SqliteCatalog
from nodectl.controller.members import JoinRequest, Members
from nodectl.errors import NameTaken, NodectlError, TokenRefused, UnknownNode, UnknownToken
from nodectl.trust.certificate import make_request
from nodectl.trust.realm import Realm, create_realm
from nodectl.trust.token import Machine, Role, Token


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def realm() -> Realm:
    return create_realm("lab", now=0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def members(realm: Realm, clock: Clock) -> Members:
    return Members(MemoryCatalog(), realm, clock)


def _token(members: Members, *, uses: int = 1, ttl_s: int = 60) -> Token:
    return members.issue_token(("https://c:1",), role=Role.NODE, ttl_s=ttl_s, uses=uses)


def _request(token: Token, name: str, **changes: object) -> JoinRequest:
    fields: dict[str, object] = {
        "realm_id": token.realm_id,
        "token_id": token.token_id,
        "token_secret": token.secret,
        "name": name,
        "node_secret": name.encode().ljust(32, b"-"),
        **changes,
    }
    return JoinRequest(**fields)  # type: ignore[arg-type]


def test_a_token_lets_one_node_in_once(members: Members) -> None:
    token = _token(members)
    node = members.join(_request(token, "n1"))
    assert (node.name, node.role) == ("n1", Role.NODE)
    assert members.get("n1") == node
    with pytest.raises(TokenRefused, match="used already"):
        members.join(_request(token, "n2"))


def test_a_join_sent_twice_is_one_join(members: Members) -> None:
    token = _token(members)
    assert members.join(_request(token, "n1")) == members.join(_request(token, "n1"))


def test_refusals(members: Members, clock: Clock) -> None:
    token = _token(members)
    with pytest.raises(TokenRefused, match="another realm"):
        members.join(_request(token, "n1", realm_id="00"))
    with pytest.raises(TokenRefused, match="no token has its id"):
        members.join(_request(token, "n1", token_id="00"))
    with pytest.raises(TokenRefused, match="no token has its id"):
        members.join(_request(token, "n1", token_id="../nodes/c"))
    with pytest.raises(TokenRefused, match="wrong"):
        members.join(_request(token, "n1", token_secret=bytes(32)))
    clock.at += 60
    with pytest.raises(TokenRefused, match="expired"):
        members.join(_request(token, "n1"))


def test_a_taken_name_does_not_spend_the_token(members: Members) -> None:
    members.add_first("c", bytes(32))
    token = _token(members)
    with pytest.raises(NameTaken, match="named c"):
        members.join(_request(token, "c"))
    assert members.join(_request(token, "n1")).name == "n1"


def test_a_name_lost_in_a_race_gives_the_use_back(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    members.add_first("c", bytes(32))
    token = _token(members)
    with monkeypatch.context() as patch:
        patch.setattr(members, "find", lambda _name: None)  # it comes between look and write
        with pytest.raises(NameTaken):
            members.join(_request(token, "c"))
    assert members.join(_request(token, "n1")).name == "n1"


def test_only_proof_replaces_a_node(members: Members) -> None:
    members.join(_request(_token(members), "n1"))
    token = _token(members)
    fresh = _request(token, "n1", node_secret=b"new".ljust(32, b"-"))
    with pytest.raises(NameTaken):
        members.join(fresh)
    proven = _request(token, "n1", node_secret=b"new".ljust(32, b"-"), replaces=True)
    assert members.join(proven).secret == fresh.node_secret


def test_of_twenty_with_a_token_for_three_three_get_in(members: Members) -> None:
    token = _token(members, uses=3)
    barrier = threading.Barrier(20)
    outcomes: list[str] = []

    def machine(name: str) -> None:
        barrier.wait(10)
        try:
            outcomes.append(members.join(_request(token, name)).name)
        except NodectlError as exc:
            outcomes.append(type(exc).__name__)

    threads = [threading.Thread(target=machine, args=(f"n{i}",)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes.count("TokenRefused") == 17
    assert len(members.list()) == 3


class InStep(MemoryCatalog):
    """Two threads read a token in step: both have seen the same revision when they write."""

    def __init__(self) -> None:
        super().__init__()
        self._barrier = threading.Barrier(2)
        self.reads_in_step = 0

    def get(self, key: str) -> Document | None:
        document = super().get(key)
        if key.startswith("tokens/") and self.reads_in_step > 0:
            self.reads_in_step -= 1
            self._barrier.wait(10)
        return document


def test_of_two_that_saw_the_same_token_one_gets_in(realm: Realm, clock: Clock) -> None:
    catalog = InStep()
    members = Members(catalog, realm, clock)
    token = _token(members)
    catalog.reads_in_step = 4  # each thread looks once before it spends, and once when it does
    outcomes: list[str] = []

    def machine(name: str) -> None:
        try:
            outcomes.append(members.join(_request(token, name)).name)
        except NodectlError as exc:
            outcomes.append(type(exc).__name__)

    threads = [threading.Thread(target=machine, args=(name,)) for name in ("n1", "n2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert outcomes.count("TokenRefused") == 1
    assert len(members.list()) == 1


def test_a_removed_node_is_unknown(members: Members) -> None:
    members.add_first("c", bytes(32))
    members.remove("c")
    assert members.find("c") is None
    with pytest.raises(UnknownNode):
        members.remove("c")


def test_the_welcome_holds_no_secret_of_the_realm(members: Members, realm: Realm) -> None:
    node = members.join(_request(_token(members), "n1"))
    told = str(members.welcome(node, b""))
    assert realm.key.secret.hex() not in told
    assert "PRIVATE" not in told


def _for(members: Members, machine: Machine) -> Token:
    return members.issue_token(("https://c:1",), role=Role.NODE, ttl_s=60, uses=1, machine=machine)


def test_a_token_for_one_name_is_for_that_name(members: Members) -> None:
    token = _for(members, Machine(name="n1"))
    with pytest.raises(TokenRefused, match="for a node named n1, not n2"):
        members.join(_request(token, "n2"))
    assert members.join(_request(token, "n1")).name == "n1"


def test_a_token_for_one_card_is_for_that_machine(members: Members) -> None:
    token = _for(members, Machine(mac="52:54:00:00:00:01"))
    for macs in ((), ("52:54:00:00:00:02",)):
        with pytest.raises(TokenRefused, match="52:54:00:00:00:01"):
            members.join(_request(token, "n1", macs=macs))
    macs = ("52:54:00:00:00:02", "52:54:00:00:00:01".upper())
    assert members.join(_request(token, "n1", macs=macs)).name == "n1"


def test_a_revoked_token_lets_nobody_in(members: Members) -> None:
    token = _token(members, uses=2)
    members.join(_request(token, "n1"))
    assert [one.token_id for one in members.tokens()] == [token.token_id]
    members.revoke_token(token.token_id)
    with pytest.raises(TokenRefused):
        members.join(_request(token, "n2"))
    for unknown in (token.token_id, "../nodes", ""):
        with pytest.raises(UnknownToken):
            members.revoke_token(unknown)


def test_tokens_keep_no_secret(members: Members) -> None:
    token = _token(members)
    assert token.secret.hex() not in str([one.to_json() for one in members.tokens()])


def test_what_another_process_wrote_is_seen_soon(realm: Realm, tmp_path: Path) -> None:
    monotonic = Clock()
    with SqliteCatalog(tmp_path / "catalog") as ours, SqliteCatalog(tmp_path / "catalog") as theirs:
        here = Members(ours, realm, Clock(), monotonic)
        there = Members(theirs, realm, Clock())
        first = here.add_first("c", bytes(32))
        assert here.find("c") == first
        there.remove("c")
        there.add_first("n1", bytes(range(32)))
        monotonic.at += 0.06
        assert here.find("c") is None
        found = here.find("n1")
        assert found is not None
        assert found.secret == bytes(range(32))


def test_what_is_written_here_is_seen_at_once(realm: Realm, tmp_path: Path) -> None:
    with SqliteCatalog(tmp_path / "catalog") as catalog:
        members = Members(catalog, realm, Clock(), Clock())  # a clock that stands
        members.add_first("c", bytes(32))
        assert members.find("c") is members.find("c")
        members.certify("c", make_request("c")[0])
        found = members.find("c")
        assert found is not None
        assert len(found.certificates) == 1
        members.remove("c")
        assert members.find("c") is None


def test_a_catalog_that_was_set_back_is_believed(realm: Realm) -> None:
    """Another file in the place of the one that is open cannot be, but a backend may do it."""
    catalog, monotonic = MemoryCatalog(), Clock()
    members = Members(catalog, realm, Clock(), monotonic)
    members.add_first("c", bytes(32))
    members.add_first("d", bytes(32))
    monotonic.at += 1
    assert members.find("c") is not None
    catalog._revision, catalog._changes = 0, {}
    monotonic.at += 1
    assert members.find("c") is None
